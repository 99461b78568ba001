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

	"golang.org/x/sys/unix"
)

// levels are the directories from the unified hierarchy's mount point down to the root of the containers' groups.
func (m *Manager) levels() []string {
	out := []string{m.host.V2}
	for _, part := range strings.Split(m.cfg.Root, "/") {
		out = append(out, filepath.Join(out[len(out)-1], part))
	}
	return out
}

// enable lets the children of a v2 group have what controllers it can give them.
func (m *Manager) enable(dir string) error {
	wanted := []string{"cpu", "memory", "pids"}
	if m.Has("blkio") {
		wanted = append(wanted, "io")
	}
	if m.Has("cpuset") {
		wanted = append(wanted, "cpuset")
	}
	var on []string
	for _, c := range wanted {
		if slices.Contains(m.host.V2Controllers, c) {
			on = append(on, "+"+c)
		}
	}
	if len(on) == 0 {
		return nil
	}
	// All at one time: in a group with processes some alone would be granted, and make of it one below which there can be no
	// processes any more (a threaded domain), instead of an error.
	if err := write(dir, "cgroup.subtree_control", strings.Join(on, " ")); err != nil {
		return fmt.Errorf("enable the controllers %s below %s: %w", strings.Join(on, " "), dir, err)
	}
	return nil
}

// checkPins refuses processors and memory nodes that are not there. In a unified hierarchy the kernel takes them, and lets the
// processes run anywhere.
func (m *Manager) checkPins() error {
	for file, want := range map[string]string{"cpuset.cpus": m.cfg.CPUs, "cpuset.mems": m.cfg.Mems} {
		if want == "" || !m.Has("cpuset") {
			continue
		}
		wanted, err := parseList(want)
		if err != nil {
			return fmt.Errorf("pin to %s: %w", file, err)
		}
		b, err := os.ReadFile(filepath.Join(m.host.V2, file+".effective"))
		if err != nil {
			return err
		}
		there, err := parseList(strings.TrimSpace(string(b)))
		if err != nil {
			return fmt.Errorf("%s.effective: %w", file, err)
		}
		for n := range wanted {
			if !there[n] {
				return fmt.Errorf("pin to %s %q: %d is not among %s", file, want, n, strings.TrimSpace(string(b)))
			}
		}
	}
	return nil
}

// parseList reads a list of the kernel's form "0-3,5".
func parseList(s string) (map[int]bool, error) {
	const most = 1 << 16
	out := make(map[int]bool)
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 32)
		b, err2 := strconv.ParseUint(to, 10, 32)
		if err1 != nil || err2 != nil || a > b || b > most {
			return nil, fmt.Errorf("%q is not a list such as 0-3,5", s)
		}
		for n := a; n <= b; n++ {
			out[int(n)] = true
		}
	}
	return out, nil
}

// makeRoom takes the processes out of the group that is the root to us and puts them into one below it: a group that has
// processes can't have its controllers in those below it. Only in a cgroup namespace does the root hold any that matter.
func (m *Manager) makeRoom() error {
	dir := filepath.Join(m.host.V2, strings.SplitN(m.cfg.Root, "/", 2)[0]+"_agent") // Mesos' name of it
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a cgroup for the agent itself: %w", err)
	}
	const rounds = 100 // processes fork meanwhile
	for range rounds {
		b, err := os.ReadFile(filepath.Join(m.host.V2, "cgroup.procs"))
		if err != nil {
			return err
		}
		pids := strings.Fields(string(b))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if pid == "0" {
				return fmt.Errorf("a process that is not visible here is in the cgroup %s: limits can't be given below it", m.host.V2)
			}
			if err := write(dir, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s to the cgroup %s: %w", pid, dir, err)
			}
		}
	}
	return fmt.Errorf("processes keep coming into the cgroup %s", m.host.V2)
}

// protect lets the root keep from reclaim what its groups are to keep together: to the kernel a group's protection is a share of
// its parent's, and without one there the containers' soft limits would be words. More than the sum must not be said, or all that
// they use would be kept. The same goes for what is above the root, below which other agents may have theirs.
//
// Agents of one host know nothing of each other, and one that has summed up may write when another, who has counted a newer group, has
// done so before. So what was written is summed up once more, until nothing has to be written: the last one to write has then seen
// everything, for whoever changes a group after that will sum up itself. A lock would do as well, but an agent that is stopped while
// it holds it would stop all others' launches.
func (m *Manager) protect() error {
	if m.host.V2 == "" || !m.Has("memory") {
		return nil
	}
	m.protecting.Lock()
	defer m.protecting.Unlock()
	levels := m.levels()[1:]
	slices.Reverse(levels)
	const rounds = 1000 // each but the last two of which another agent has spoilt, who therefore goes on
	for range rounds {
		settled := true
		for _, dir := range levels {
			same, err := protectLevel(dir)
			if err != nil {
				return fmt.Errorf("protect the containers' memory: %w", err)
			}
			settled = settled && same
		}
		if settled {
			break
		}
	}
	return nil
}

// protectLevel sets a group's protection to the sum of those below it, and reports whether it was that.
func protectLevel(dir string) (same bool, err error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	var sum uint64
	for _, e := range es {
		if !e.IsDir() {
			continue
		}
		low, err := readUint(filepath.Join(dir, e.Name()), "memory.low")
		if err != nil {
			continue // it has just gone
		}
		if sum += low; sum < low {
			sum = math.MaxUint64
		}
	}
	if now, err := readUint(dir, "memory.low"); err == nil && now == sum {
		return true, nil
	}
	value := strconv.FormatUint(sum, 10)
	if sum == math.MaxUint64 {
		value = "max"
	}
	return false, write(dir, "memory.low", value)
}
