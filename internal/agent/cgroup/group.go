package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits is what a container may use.
type Limits struct {
	CPUs     float64 // requested: the share when CPU time is short
	CPULimit float64 // 0: none was asked for; +Inf: none at all
	Mem      uint64  // requested bytes: what reclaim leaves alone
	MemLimit uint64  // 0: as requested; Unlimited: none
	// Devices are the rules of the only devices that may be used ("c 1:3 rwm"), with the controller devices; nil: all may.
	Devices []string
}

// Unlimited is a memory limit that limits nothing.
const Unlimited = math.MaxUint64

// Smallest values, as Mesos has them.
const (
	minMemory = 32 << 20
	minShares = 2
	cfsPeriod = 100 * time.Millisecond
	minQuota  = time.Millisecond
)

// Group is one container's control group.
type Group struct {
	m    *Manager
	name string
	dirs map[string]string // v1: controller -> directory
	dir  string            // v2
}

// path gives the group's path below the root: the parts of a container id, root first.
func (m *Manager) path(parts []string) string {
	sep := "/mesos/"
	if m.host.V2 != "" {
		sep = "/"
	}
	return filepath.Join(m.cfg.Root, strings.Join(parts, sep))
}

// Open names the group of a container without making it.
func (m *Manager) Open(parts ...string) *Group {
	g := &Group{m: m, name: m.path(parts)}
	if m.host.V2 != "" {
		g.dir = filepath.Join(m.host.V2, g.name)
		return g
	}
	g.dirs = make(map[string]string, len(m.host.V1))
	for c, base := range m.host.V1 {
		if !m.Has(c) {
			continue
		}
		g.dirs[c] = filepath.Join(base, g.name)
	}
	return g
}

// Views are the group's directories by where its container expects them below /sys/fs/cgroup: by controller, or for v2 the
// whole at "".
func (g *Group) Views() map[string]string {
	if g.dir != "" {
		return map[string]string{"": g.dir}
	}
	return g.dirs
}

// Create makes the group of a container and sets its limits. A failure leaves nothing.
func (m *Manager) Create(l Limits, parts ...string) (*Group, error) {
	g := m.Open(parts...)
	err := g.create()
	if err == nil {
		err = g.set(l, true)
	}
	if err == nil {
		err = g.setOptional(l)
	}
	if err == nil && len(parts) == 1 {
		err = m.protect()
	}
	if err != nil {
		return nil, errors.Join(err, g.rmdirs())
	}
	return g, nil
}

// Name is the group's path below each hierarchy.
func (g *Group) Name() string { return g.name }

func (g *Group) create() error {
	for _, d := range g.unique() {
		if err := os.Mkdir(d, 0o755); errors.Is(err, fs.ErrNotExist) {
			// A nested group's intermediate directory.
			err = os.MkdirAll(d, 0o755)
			if err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		} else if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if g.m.cfg.Owner != "" {
			// Where the kernel keeps no marks, a group that a crash leaves behind is not found by itself.
			_ = unix.Setxattr(d, ownerXattr, []byte(g.m.cfg.Owner), 0)
		}
	}
	if g.dir != "" {
		if err := g.m.enable(g.dir); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(g.dir, "leaf"), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// unique lists the group's directories, each once.
func (g *Group) unique() []string {
	if g.dir != "" {
		return []string{g.dir}
	}
	var out []string
	for _, b := range g.m.bases() {
		out = append(out, filepath.Join(b, g.name))
	}
	return out
}

// Exists reports whether any part of the group is there.
func (g *Group) Exists() bool {
	for _, d := range g.unique() {
		if _, err := os.Stat(d); err == nil {
			return true
		}
	}
	return false
}

// Set changes the limits of a running container. The memory limit only rises: to lower it would kill what runs.
func (g *Group) Set(l Limits) error {
	if err := g.set(l, false); err != nil {
		return err
	}
	return g.m.protect()
}

func (g *Group) set(l Limits, fresh bool) error {
	if g.dir != "" {
		return g.set2(l, fresh)
	}
	return g.set1(l, fresh)
}

// quota gives the CPU time per period, or false for no limit.
func (g *Group) quota(l Limits) (time.Duration, bool) {
	cpus := l.CPULimit
	if cpus == 0 && g.m.cfg.EnableCFS {
		cpus = l.CPUs
	}
	if cpus == 0 || math.IsInf(cpus, 1) || math.IsNaN(cpus) || cpus > 1e6 {
		return 0, false
	}
	return max(time.Duration(cpus*float64(cfsPeriod)), minQuota), true
}

func (l Limits) soft() uint64 { return max(l.Mem, minMemory) }

func (l Limits) hard() uint64 {
	if l.MemLimit == 0 {
		return l.soft()
	}
	return max(l.MemLimit, minMemory)
}

func (g *Group) set1(l Limits, fresh bool) error {
	if d := g.dirs["cpu"]; d != "" {
		shares := max(uint64(l.CPUs*1024), minShares)
		if err := write(d, "cpu.shares", strconv.FormatUint(shares, 10)); err != nil {
			return fmt.Errorf("set cpu shares: %w", err)
		}
		if q, ok := g.quota(l); ok {
			if err := write(d, "cpu.cfs_period_us", strconv.FormatInt(cfsPeriod.Microseconds(), 10)); err != nil {
				return fmt.Errorf("set cpu period: %w", err)
			}
			if err := write(d, "cpu.cfs_quota_us", strconv.FormatInt(q.Microseconds(), 10)); err != nil {
				return fmt.Errorf("set cpu quota: %w", err)
			}
		} else if !fresh && exists(d, "cpu.cfs_quota_us") {
			if err := write(d, "cpu.cfs_quota_us", "-1"); err != nil {
				return fmt.Errorf("lift cpu quota: %w", err)
			}
		}
	}
	if d := g.dirs["memory"]; d != "" {
		if err := write(d, "memory.soft_limit_in_bytes", strconv.FormatUint(l.soft(), 10)); err != nil {
			return fmt.Errorf("set memory soft limit: %w", err)
		}
		hard := l.hard()
		now, err := readUint(d, "memory.limit_in_bytes")
		if err != nil {
			return err
		}
		if fresh || hard > now {
			v := strconv.FormatUint(hard, 10)
			if hard == Unlimited {
				v = "-1"
			}
			swap := g.m.cfg.LimitSwap && exists(d, "memory.memsw.limit_in_bytes")
			// The limit on both is never below the one on memory: it rises first.
			if swap && !fresh {
				if err := write(d, "memory.memsw.limit_in_bytes", v); err != nil {
					return fmt.Errorf("set memory and swap limit: %w", err)
				}
			}
			if err := write(d, "memory.limit_in_bytes", v); err != nil {
				return fmt.Errorf("set memory limit: %w", err)
			}
			if swap && fresh {
				if err := write(d, "memory.memsw.limit_in_bytes", v); err != nil {
					return fmt.Errorf("set memory and swap limit: %w", err)
				}
			}
		}
	}
	if d := g.dirs["pids"]; d != "" && fresh {
		if err := write(d, "pids.max", strconv.Itoa(g.m.cfg.PIDs)); err != nil {
			return fmt.Errorf("set the limit of processes: %w", err)
		}
	}
	return nil
}

func (g *Group) set2(l Limits, fresh bool) error {
	if g.m.Has("cpu") {
		weight := min(max(uint64(l.CPUs*100), 1), 10000)
		if err := write(g.dir, "cpu.weight", strconv.FormatUint(weight, 10)); err != nil {
			return fmt.Errorf("set cpu weight: %w", err)
		}
		v := "max " + strconv.FormatInt(cfsPeriod.Microseconds(), 10)
		if q, ok := g.quota(l); ok {
			v = strconv.FormatInt(q.Microseconds(), 10) + " " + strconv.FormatInt(cfsPeriod.Microseconds(), 10)
		}
		if err := write(g.dir, "cpu.max", v); err != nil {
			return fmt.Errorf("set cpu quota: %w", err)
		}
	}
	if g.m.Has("pids") && fresh {
		if err := write(g.dir, "pids.max", strconv.Itoa(g.m.cfg.PIDs)); err != nil {
			return fmt.Errorf("set the limit of processes: %w", err)
		}
	}
	if !g.m.Has("memory") {
		return nil
	}
	if err := write(g.dir, "memory.low", strconv.FormatUint(l.soft(), 10)); err != nil {
		return fmt.Errorf("set memory soft limit: %w", err)
	}
	hard := l.hard()
	now, err := readUint(g.dir, "memory.max")
	if err != nil {
		return err
	}
	if fresh || hard > now {
		v := strconv.FormatUint(hard, 10)
		if hard == Unlimited {
			v = "max"
		}
		if err := write(g.dir, "memory.max", v); err != nil {
			return fmt.Errorf("set memory limit: %w", err)
		}
		if g.m.cfg.LimitSwap && exists(g.dir, "memory.swap.max") {
			if err := write(g.dir, "memory.swap.max", "0"); err != nil {
				return fmt.Errorf("set swap limit: %w", err)
			}
		}
	}
	return nil
}

// EnterThread puts the calling thread, which must be one of osthread's, into a v1 group: what it forks is born there. A
// thread that moves itself takes no global lock, unlike moving a process, which waits for a grace period of the whole
// kernel. LeaveThread must follow at once, whatever happens: a group that holds a thread of ours can't be frozen.
func (g *Group) EnterThread() error {
	for _, b := range g.m.bases() {
		if g.m.home[b] == "" {
			return fmt.Errorf("the agent's own cgroup below %s is not known", b)
		}
	}
	for _, d := range g.unique() {
		if err := write(d, "tasks", "0"); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", d, err)
		}
	}
	return nil
}

// LeaveThread puts the calling thread back where the process is.
func (g *Group) LeaveThread() error {
	var errs []error
	for _, b := range g.m.bases() {
		if err := write(g.m.home[b], "tasks", "0"); err != nil {
			errs = append(errs, fmt.Errorf("leave cgroup %s: %w", g.name, err))
		}
	}
	return errors.Join(errs...)
}

// OpenLeaf opens the directory that processes are born into on v2; nil on v1.
func (g *Group) OpenLeaf() (*os.File, error) {
	if g.dir == "" {
		return nil, nil
	}
	return os.Open(filepath.Join(g.dir, "leaf"))
}

// OOMFile is the file with the line "oom_kill N"; empty when memory is not controlled.
func (g *Group) OOMFile() string {
	if g.dir != "" && g.m.Has("memory") {
		return filepath.Join(g.dir, "memory.events")
	}
	if d := g.dirs["memory"]; d != "" {
		return filepath.Join(d, "memory.oom_control")
	}
	return ""
}

// Procs lists the processes of the group and of those below it, never our own.
func (g *Group) Procs() []int {
	var out []int
	seen := map[int]bool{os.Getpid(): true}
	for _, d := range g.unique() {
		_ = filepath.WalkDir(d, func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // gone meanwhile, or a file
			}
			b, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					out = append(out, pid)
				}
			}
			return nil
		})
	}
	return out
}

// Kill kills every process of the group at one moment, so that none forks away.
func (g *Group) Kill() {
	if g.dir != "" && write(g.dir, "cgroup.kill", "1") == nil {
		return
	}
	frozen := !g.holdsUs() && g.freeze(true)
	for _, pid := range g.Procs() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if frozen {
		g.freeze(false)
	}
}

// holdsUs reports whether a thread of this process is in the group, which must not happen and would freeze us with it.
func (g *Group) holdsUs() bool {
	b, err := os.ReadFile(filepath.Join(g.dirs["freezer"], "cgroup.procs"))
	if err != nil {
		return false
	}
	return slices.Contains(strings.Fields(string(b)), strconv.Itoa(os.Getpid()))
}

// freeze freezes or thaws; false: there is no freezer, or it did not succeed in time, which the caller's repetition mends.
func (g *Group) freeze(on bool) bool {
	dir, file, want := g.dirs["freezer"], "freezer.state", "FROZEN"
	value := map[bool]string{true: "FROZEN", false: "THAWED"}[on]
	if g.dir != "" {
		dir, file, value = g.dir, "cgroup.freeze", map[bool]string{true: "1", false: "0"}[on]
	}
	if dir == "" || write(dir, file, value) != nil {
		return false
	}
	if !on || g.dir != "" {
		return true
	}
	for range 50 {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || strings.TrimSpace(string(b)) == want {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return true
}

// Remove removes the group once it is empty, and what is below it.
func (g *Group) Remove() error {
	if err := g.rmdirs(); err != nil {
		return err
	}
	// What it protected is nobody's; the next group makes good for an error here.
	_ = g.m.protect()
	return nil
}

func (g *Group) rmdirs() error {
	var errs []error
	for _, d := range g.unique() {
		if err := rmdirTree(d); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func rmdirTree(dir string) error {
	err := syscall.Rmdir(dir)
	if err == nil || err == syscall.ENOENT {
		return nil
	}
	es, rerr := os.ReadDir(dir)
	if rerr != nil {
		if errors.Is(rerr, fs.ErrNotExist) {
			return nil
		}
		return rerr
	}
	for _, e := range es {
		if e.IsDir() {
			if err := rmdirTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

func exists(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

func readUint(dir, file string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	s := strings.TrimSpace(string(b))
	if s == "max" || s == "-1" {
		return Unlimited, nil
	}
	return strconv.ParseUint(s, 10, 64)
}
