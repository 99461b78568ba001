package proctree

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stat is the part of /proc/PID/stat that makes the tree.
type stat struct {
	pid, ppid int
	zombie    bool
	stopped   bool
}

// parseStat reads "pid (comm) state ppid …"; comm may hold anything, parentheses and newlines included.
func parseStat(b []byte) (stat, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return stat{}, false
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	if err != nil {
		return stat{}, false
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 2 {
		return stat{}, false
	}
	ppid, err := strconv.Atoi(string(f[1]))
	if err != nil {
		return stat{}, false
	}
	return stat{pid: pid, ppid: ppid, zombie: f[0][0] == 'Z' || f[0][0] == 'X', stopped: f[0][0] == 'T' || f[0][0] == 't'}, true
}

// StartTime is when a process started, in ticks since boot: field 22 of /proc/PID/stat.
func StartTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is malformed", pid)
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}

// End ends a process that fd is a descriptor of, and everything below it: stopped first, because what it forked after the look at
// its children would outlive it.
func End(fd, pid int) error {
	if err := unix.PidfdSendSignal(fd, syscall.SIGSTOP, nil, 0); err != nil {
		return err
	}
	awaitStopped(pid, 100*time.Millisecond)
	Kill(pid, time.Second)
	return unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0)
}

// Descendants lists the living processes below root, parents before children, without those in the trees of except.
func Descendants(root int, except ...int) []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	names, _ := dir.Readdirnames(-1)
	dir.Close()
	children := make(map[int][]stat)
	for _, n := range names {
		if n[0] < '1' || n[0] > '9' {
			continue
		}
		b, err := os.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue
		}
		if s, ok := parseStat(b); ok {
			children[s.ppid] = append(children[s.ppid], s)
		}
	}
	var out []int
	queue := []int{root}
	for len(queue) > 0 {
		kids := children[queue[0]]
		delete(children, queue[0]) // a torn snapshot can hold a cycle
		queue = queue[1:]
		for _, k := range kids {
			if slices.Contains(except, k.pid) {
				continue
			}
			if !k.zombie {
				out = append(out, k.pid)
			}
			queue = append(queue, k.pid)
		}
	}
	return out
}

// Signal sends a signal to everything below this process except the trees of except.
func Signal(sig syscall.Signal, except ...int) {
	for _, pid := range Descendants(os.Getpid(), except...) {
		_ = syscall.Kill(pid, sig) // it may have just gone
	}
}

// childless reports whether this process has no children, not even dead ones: as the one who inherits its descendants'
// orphans it then has no descendants either. It saves a walk through all the host's processes.
func childless() bool {
	return unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD
}

// awaitStopped returns when a process that was sent SIGSTOP has stopped or gone, or after limit.
func awaitStopped(pid int, limit time.Duration) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if s, ok := parseStat(b); err != nil || ok && (s.stopped || s.zombie) {
			return
		}
	}
}

// Kill kills everything below root (root itself excluded), also what forks without end: whatever is seen is stopped
// first, so that no new children can come, and killed when nothing new is seen any more. It returns when all have gone, or
// after limit.
func Kill(root int, limit time.Duration, except ...int) {
	deadline := time.Now().Add(limit)
	own := root == os.Getpid() && len(except) == 0
	if own && childless() {
		return
	}
	if own && root == 1 {
		_ = syscall.Kill(-1, syscall.SIGKILL) // the whole PID namespace but us, in one step
	}
	stopped := make(map[int]bool)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if own && childless() {
			return
		}
		pids := Descendants(root, except...)
		if len(pids) == 0 {
			return
		}
		fresh := false
		for _, p := range pids {
			if !stopped[p] {
				stopped[p], fresh = true, true
				_ = syscall.Kill(p, syscall.SIGSTOP)
			}
		}
		if !fresh || time.Now().After(deadline) {
			for _, p := range pids {
				_ = syscall.Kill(p, syscall.SIGKILL)
			}
			if time.Now().After(deadline) {
				return
			}
			time.Sleep(pause)
		}
	}
}
