package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
)

// logFile is one of a sandbox's stdout and stderr. The sandbox belongs to the task, which may swap names in it at any
// time: files are made relative to a descriptor of the directory, never through a link, and never opened again.
type logFile struct {
	mu   sync.Mutex
	dir  int // descriptor of the sandbox
	name string
	log  spec.Log
	uid  int
	gid  int
	f    *os.File
	size int64
}

// openLog opens name in the sandbox for appending. uid < 0: it stays the helper's.
func openLog(dir int, name string, log spec.Log, uid, gid int) (*logFile, error) {
	l := &logFile{dir: dir, name: name, log: log, uid: uid, gid: gid}
	if err := l.open(0); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *logFile) open(flags int) error {
	fd, err := unix.Openat(l.dir, l.name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0o644)
	if err != nil {
		return fmt.Errorf("open %s in the sandbox: %w", l.name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		unix.Close(fd)
		return fmt.Errorf("%s in the sandbox is not a plain file", l.name)
	}
	if l.uid >= 0 {
		// Without the right to give it away the file stays ours, and readable.
		_ = unix.Fchown(fd, l.uid, l.gid)
	}
	l.f, l.size = os.NewFile(uintptr(fd), l.name), st.Size
	return nil
}

// Write appends, and turns the files over when the current one is full. What can't be written (a full disk) is lost: a
// task must not stop because nobody keeps its output.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		n := len(rest)
		if l.log.MaxBytes > 0 {
			if l.size >= l.log.MaxBytes {
				l.rotate()
			}
			n = int(min(int64(n), max(l.log.MaxBytes-l.size, 1)))
		}
		if l.f != nil {
			w, _ := l.f.Write(rest[:n])
			_ = w
		}
		l.size += int64(n)
		rest = rest[n:]
	}
	return len(p), nil
}

// rotate renames name.1 to name.2 and so on, name to name.1, and begins anew.
func (l *logFile) rotate() {
	older := func(i int) string { return l.name + "." + strconv.Itoa(i) }
	if l.log.Keep < 1 {
		// Only one file may be kept: it begins anew.
		_ = unix.Unlinkat(l.dir, l.name, 0)
	} else {
		for i := l.log.Keep; i > 1; i-- {
			_ = unix.Renameat(l.dir, older(i-1), l.dir, older(i))
		}
		_ = unix.Renameat(l.dir, l.name, l.dir, older(1))
	}
	old := l.f
	if err := l.open(unix.O_EXCL); err != nil {
		// The task put something of its own at this name. Go on with the old file, and try again after another portion.
		l.f, l.size = old, 0
		return
	}
	if old != nil {
		old.Close()
	}
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}
