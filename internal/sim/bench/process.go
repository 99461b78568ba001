package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is one process of a benchmark.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
	ready Ready
}

// Ready is what a process of a benchmark writes into its ready file.
type Ready struct {
	Master string `json:"master,omitempty"` // "http://host:port"
	PID    int    `json:"pid"`
}

// WriteReady writes a ready file in one piece.
func WriteReady(path string, r Ready) error {
	if path == "" {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// start runs this binary with arguments and waits until it has written its ready file.
func (b *Bench) start(ctx context.Context, name string, args ...string) (*child, error) {
	dir, err := os.MkdirTemp(b.dir, name)
	if err != nil {
		return nil, err
	}
	ready := filepath.Join(dir, "ready")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	c := &child{ended: make(chan struct{})}
	c.cmd = exec.CommandContext(ctx, b.cfg.Executable, append(args, "--ready-file", ready)...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = 10 * time.Second
	// It ends with us, even if we are killed.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		log.Close()
		close(c.ended)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &c.ready) == nil {
			return c, nil
		}
		select {
		case <-tick.C:
		case <-c.ended:
			return nil, fmt.Errorf("%s ended early: %w: %s", name, orNil(c.err), tail(log.Name()))
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s: %w: %s", name, context.Cause(ctx), tail(log.Name()))
		}
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("exit code 0")
	}
	return err
}

func tail(path string) string {
	b, _ := os.ReadFile(path)
	return string(b[max(0, len(b)-2000):])
}

// stop ends a process and waits for it.
func (c *child) stop() {
	if c == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(15 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// cpu is the processor time that a process has used.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const utime, stime = 11, 12
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	u, err1 := strconv.ParseInt(fields[utime], 10, 64)
	s, err2 := strconv.ParseInt(fields[stime], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(u+s) * tick, errors.Join(err1, err2)
}

// resident is the memory of a process in bytes, after it was asked to collect its garbage.
func resident(ctx context.Context, pid int) (float64, error) {
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return 0, err
	}
	// Collecting takes a moment; memory that has stopped shrinking is what counts.
	last := 0.0
	for range 50 {
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return 0, err
		}
		v, err := rss(pid)
		if err != nil {
			return 0, err
		}
		if last > 0 && v > last*0.999 {
			return v, nil
		}
		last = v
	}
	return last, nil
}

func rss(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, io.ErrUnexpectedEOF
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()), err
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
