package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OOMKills counts the processes that the kernel has killed in the group for want of memory.
func (g *Group) OOMKills() uint64 {
	f := g.OOMFile()
	if f == "" {
		return 0
	}
	b, err := os.ReadFile(f)
	if err != nil {
		return 0
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if v, ok := bytes.CutPrefix(sc.Bytes(), []byte("oom_kill ")); ok {
			n, _ := strconv.ParseUint(string(v), 10, 64)
			return n
		}
	}
	return 0
}

// WaitOOM returns nil when the group's memory is exhausted, or has been before, and ctx's error when ctx ends first.
func (g *Group) WaitOOM(ctx context.Context) error {
	if g.OOMFile() == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	if g.dir != "" {
		return g.m.oom.wait(ctx, g)
	}
	return g.waitOOM1(ctx)
}

// waitOOM1 is told by the kernel through an event descriptor, which it also rings when the group is removed.
func (g *Group) waitOOM1(ctx context.Context) error {
	dir := g.dirs["memory"]
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	ev := os.NewFile(uintptr(efd), "oom")
	defer ev.Close()
	ctl, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer ctl.Close()
	if err := write(dir, "cgroup.event_control", fmt.Sprintf("%d %d", efd, ctl.Fd())); err != nil {
		return fmt.Errorf("ask to be told of memory exhaustion: %w", err)
	}
	if g.OOMKills() > 0 { // before we asked
		return nil
	}
	stop := context.AfterFunc(ctx, func() { ev.Close() })
	defer stop()
	var b [8]byte
	if _, err := ev.Read(b[:]); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("wait for memory exhaustion: %w", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, err := os.Stat(dir); err != nil {
		<-ctx.Done() // removed: it will not happen any more
		return ctx.Err()
	}
	return nil
}

// oomWatcher follows the memory.events files of all v2 groups with one inotify descriptor.
type oomWatcher struct {
	f  *os.File
	mu sync.Mutex
	by map[int32]chan struct{}
}

func newOOMWatcher() (*oomWatcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &oomWatcher{f: os.NewFile(uintptr(fd), "inotify"), by: make(map[int32]chan struct{})}
	go w.read() // ends with close
	return w, nil
}

func (w *oomWatcher) close() { w.f.Close() }

func (w *oomWatcher) read() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Wd):]))
			l := binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Len):])
			b = b[min(len(b), unix.SizeofInotifyEvent+int(l)):]
			w.mu.Lock()
			c := w.by[wd]
			w.mu.Unlock()
			if c != nil {
				select {
				case c <- struct{}{}:
				default: // it will look anyway
				}
			}
		}
	}
}

func (w *oomWatcher) wait(ctx context.Context, g *Group) error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	var wd int
	var addErr error
	c := make(chan struct{}, 1)
	err = raw.Control(func(fd uintptr) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if wd, addErr = unix.InotifyAddWatch(int(fd), g.OOMFile(), unix.IN_MODIFY); addErr == nil {
			w.by[int32(wd)] = c
		}
	})
	if err = errors.Join(err, addErr); err != nil {
		return fmt.Errorf("watch %s: %w", g.OOMFile(), err)
	}
	defer func() {
		_ = raw.Control(func(fd uintptr) {
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(w.by, int32(wd))
			_, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) // gone with the group
		})
	}()
	for g.OOMKills() == 0 {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
