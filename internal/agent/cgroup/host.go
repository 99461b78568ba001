package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host says where the controllers are.
type Host struct {
	// V1 maps a controller to its hierarchy's mount point.
	V1 map[string]string
	// roots maps a v1 mount point to the group that is visible there as its root: "/" but in containers.
	roots map[string]string
	// V2 is the mount point of the unified hierarchy when its memory controller is to be had there; else empty.
	V2 string
	// V2Controllers are those that V2 offers.
	V2Controllers []string
}

// v1Controllers are those that a container gets a group of: cpu, memory and pids limit, cpuacct measures, freezer kills.
var v1Controllers = []string{"cpu", "cpuacct", "memory", "pids", "freezer"}

// v1Optional are those of which they get one where the agent asks for it (Config.Controllers).
var v1Optional = []string{"cpuset", "devices", "blkio"}

// Has reports whether the host offers a controller. blkio is named io, and devices are a program's business, in v2.
func (h *Host) Has(controller string) bool {
	if h.V2 == "" {
		return h.V1[controller] != ""
	}
	switch controller {
	case "freezer", "cpuacct", "devices":
		return true
	case "blkio":
		controller = "io"
	}
	return slices.Contains(h.V2Controllers, controller)
}

// Detect reads where cgroups are mounted. An error says that there are none to use.
func Detect() (*Host, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return detect(f, func(dir string) ([]string, error) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		return strings.Fields(string(b)), err
	})
}

func detect(mountinfo io.Reader, controllers func(string) ([]string, error)) (*Host, error) {
	h := &Host{V1: make(map[string]string), roots: make(map[string]string)}
	var unified []string
	sc := bufio.NewScanner(mountinfo)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		// id parent dev root mountpoint options … - type source super-options
		before, after, ok := strings.Cut(sc.Text(), " - ")
		pre, post := strings.Fields(before), strings.Fields(after)
		if !ok || len(pre) < 6 || len(post) < 3 {
			continue
		}
		dir := unescape(pre[4])
		switch post[0] {
		case "cgroup":
			for _, c := range strings.Split(post[2], ",") {
				if (slices.Contains(v1Controllers, c) || slices.Contains(v1Optional, c)) && h.V1[c] == "" {
					h.V1[c], h.roots[dir] = dir, unescape(pre[3])
				}
			}
		case "cgroup2":
			unified = append(unified, dir)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	for _, dir := range unified {
		cs, err := controllers(dir)
		if err == nil && slices.Contains(cs, "memory") {
			h.V2, h.V2Controllers = dir, cs
			return h, nil
		}
	}
	if h.V1["memory"] == "" && h.V1["cpu"] == "" {
		return nil, errors.New("no cgroup controllers are mounted")
	}
	return h, nil
}

// unescape undoes mountinfo's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Config is how groups are made.
type Config struct {
	// Root is the directory below each hierarchy: Mesos' --cgroups_root, "mesos".
	Root string
	// EnableCFS limits CPU time to the requested CPUs even without an explicit limit: --cgroups_enable_cfs.
	EnableCFS bool
	// LimitSwap makes the memory limit one on memory and swap: --cgroups_limit_swap.
	LimitSwap bool
	// Owner marks the groups that are ours where several agents share a root; empty: all below the root are.
	Owner string
	// Controllers are to be had beside cpu, memory and pids: cpuset, devices, blkio.
	Controllers []string
	// CPUs and Mems are the processors and memory nodes that containers are pinned to, with the controller cpuset; empty: all.
	CPUs, Mems string
	// PIDs is the greatest number of processes and threads of a container; 0: DefaultPIDs.
	PIDs int
}

// DefaultPIDs lets a large JVM live and a fork bomb hurt only itself.
const DefaultPIDs = 8192

// Manager makes and finds groups.
type Manager struct {
	host Host
	cfg  Config
	oom  *oomWatcher
	home map[string]string // v1 hierarchy -> the agent's own group in it

	protecting sync.Mutex
}

// New prepares the root in every hierarchy. Without the right to, the error says so, and containers run without groups.
func New(h *Host, cfg Config) (_ *Manager, err error) {
	if cfg.Root == "" {
		cfg.Root = "mesos"
	}
	if cfg.Root != filepath.Clean(cfg.Root) || filepath.IsAbs(cfg.Root) || strings.HasPrefix(cfg.Root, "..") || cfg.Root == "." {
		return nil, fmt.Errorf("cgroups_root %q must be a plain relative path", cfg.Root)
	}
	if cfg.PIDs == 0 {
		cfg.PIDs = DefaultPIDs
	}
	m := &Manager{host: *h, cfg: cfg}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if h.V2 != "" {
		if err := m.checkPins(); err != nil {
			return nil, err
		}
		root := filepath.Join(h.V2, cfg.Root)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, fmt.Errorf("make the root cgroup: %w", err)
		}
		for _, dir := range m.levels() {
			err := m.enable(dir)
			if dir == h.V2 && errors.Is(err, unix.EBUSY) {
				// What we see as the root is a group with processes in it, ours among them: we are in a container.
				if err = m.makeRoom(); err == nil {
					err = m.enable(dir)
				}
			}
			if err != nil {
				return nil, err
			}
		}
		if m.oom, err = newOOMWatcher(); err != nil {
			return nil, err
		}
		return m, nil
	}
	for _, base := range m.bases() {
		if err := os.MkdirAll(filepath.Join(base, cfg.Root), 0o755); err != nil {
			return nil, fmt.Errorf("make the root cgroup: %w", err)
		}
	}
	if m.Has("cpuset") {
		// A group without processors and memory takes no process; a child has none until it is told.
		at := h.V1["cpuset"]
		for _, part := range strings.Split(cfg.Root, "/") {
			up := at
			at = filepath.Join(at, part)
			if err := m.pin(at, up); err != nil {
				return nil, err
			}
		}
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	m.home = homes(h, string(b))
	for _, base := range m.bases() {
		if !exists(m.home[base], "tasks") {
			return nil, fmt.Errorf("the agent's own cgroup %q below %s is not visible", m.home[base], base)
		}
	}
	return m, nil
}

// homes finds this process's own group in every v1 hierarchy from /proc/self/cgroup ("id:controllers:path" lines).
func homes(h *Host, self string) map[string]string {
	out := make(map[string]string)
	for _, line := range strings.Split(self, "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			base := h.V1[c]
			if base == "" {
				continue
			}
			rel := f[2]
			if root := h.roots[base]; root != "/" && root != "" {
				var ok bool
				if rel, ok = strings.CutPrefix(rel, root); !ok {
					rel = "/" // a cgroup namespace: the visible root is as near as it gets
				}
			}
			out[base] = filepath.Join(base, rel)
		}
	}
	return out
}

// Close ends what watches for memory exhaustion and, on v1, removes the root if it is empty: whoever needs it makes it anew.
func (m *Manager) Close() {
	if m.oom != nil {
		m.oom.close()
		return
	}
	for _, base := range m.bases() {
		_ = syscall.Rmdir(filepath.Join(base, m.cfg.Root)) // not empty: in use
	}
}

// bases gives the v1 hierarchies, each once (cpu and cpuacct are often one).
func (m *Manager) bases() []string {
	var out []string
	for _, c := range slices.Concat(v1Controllers, v1Optional) {
		if !m.Has(c) {
			continue
		}
		if b := m.host.V1[c]; b != "" && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// Version is 1 or 2.
func (m *Manager) Version() int {
	if m.host.V2 != "" {
		return 2
	}
	return 1
}

// Has reports whether a controller is there to be used.
func (m *Manager) Has(controller string) bool {
	return m.host.Has(controller) && (!slices.Contains(v1Optional, controller) || slices.Contains(m.cfg.Controllers, controller))
}

// ownerXattr bears Config.Owner on a group's directory.
const ownerXattr = "trusted.orchestrator"

// owned reports whether a group's directory bears our mark.
func (m *Manager) owned(dir string) bool {
	if m.cfg.Owner == "" {
		return true
	}
	buf := make([]byte, len(m.cfg.Owner)+1)
	n, err := unix.Getxattr(dir, ownerXattr, buf)
	return err == nil && string(buf[:n]) == m.cfg.Owner
}

// List gives the names of the root containers of this owner that have a group in any hierarchy: after a crash, a superset
// of what runs.
func (m *Manager) List() ([]string, error) {
	bases := m.bases()
	if m.host.V2 != "" {
		bases = []string{m.host.V2}
	}
	var names []string
	for _, b := range bases {
		es, err := os.ReadDir(filepath.Join(b, m.cfg.Root))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			if e.IsDir() && !slices.Contains(names, e.Name()) && m.owned(filepath.Join(b, m.cfg.Root, e.Name())) {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
