package supervisor

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper waits for every child of this process, known or inherited.
type Reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

// NewReaper makes this process the one that inherits its descendants' orphans and begins to reap.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err)
	}
	r := &Reaper{waiting: make(map[int]chan syscall.WaitStatus)}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGCHLD)
	go func() { // lives as long as the process: it is the process's one reaper
		for range sig {
			r.reap()
		}
	}()
	return r, nil
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			c <- ws // has room for it
		}
	}
}

// start runs fork under the reaper's lock, so that a child which ends at once is known before it is reaped.
func (r *Reaper) start(fork func() (int, error)) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	c := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = c
	return pid, c, nil
}

// Kill signals a child that has not been reaped: its number can't belong to another process meanwhile.
func (r *Reaper) Kill(pid int, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[pid]; !ok {
		return syscall.ESRCH
	}
	return syscall.Kill(pid, sig)
}

// adopt takes over a descendant that another process has started and left behind.
func (r *Reaper) adopt(pid int) <-chan syscall.WaitStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan syscall.WaitStatus, 1)
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		// Reaped already as a stranger: it was killed before it was told to go on.
		c <- syscall.WaitStatus(syscall.SIGKILL)
		return c
	}
	r.waiting[pid] = c
	return c
}
