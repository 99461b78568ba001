package projectquota

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Range is a range of project numbers, both ends included.
type Range struct{ First, Last uint32 }

// Store gives out the project numbers of one file system. Its methods may be called at the same time.
type Store struct {
	path   string
	dir    *os.File
	dev    uint64
	device string // its name, where the kernel wants it
	ranges []Range

	mu   sync.Mutex
	next uint64 // where the search for a free number goes on, counted over all ranges
}

// Open checks that the file system at path keeps accounts of projects and enforces their limits. The error says what is missing.
func Open(path string, ranges []Range) (*Store, error) {
	for _, r := range ranges {
		if r.First == 0 || r.Last < r.First || r.Last == noNumber {
			return nil, fmt.Errorf("project numbers %d-%d: a range goes from 1 to at most %d", r.First, r.Last, uint32(noNumber-1))
		}
	}
	if len(ranges) == 0 {
		return nil, errors.New("there are no project numbers to give out")
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, dir: dir, ranges: ranges}
	if err := s.check(); err != nil {
		dir.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(s.dir.Fd()), &st); err != nil {
		return err
	}
	s.dev = st.Dev
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.dir.Fd()), &fs); err != nil {
		return err
	}
	const how = "mount it with the option prjquota (XFS, or ext4 with the features quota and project)"
	var state [stateSize]byte
	if err := s.quotactl(getState, 0, unsafe.Pointer(&state)); err != nil {
		return fmt.Errorf("the file system of %s has no project quotas (type %#x: %w): %s", s.path, fs.Type, err, how)
	}
	if flags := *(*uint16)(unsafe.Pointer(&state[2])); flags&accounted == 0 || flags&enforced == 0 {
		return fmt.Errorf("the file system of %s does not enforce project quotas: %s", s.path, how)
	}
	return nil
}

// Close closes the store. Quotas stay.
func (s *Store) Close() error { return s.dir.Close() }

// Holds reports whether a directory lies on this store's file system.
func (s *Store) Holds(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Dev == s.dev
}

// ErrNone says that every number is somebody's.
var ErrNone = errors.New("no project number is free")

// Own makes a directory and all that is in it a project's of its own, with that limit (0: none), and gives the project. One that
// has been given a number before keeps it, and only its limit is set anew.
func (s *Store) Own(dir string, limit uint64) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := Project(dir)
	if err != nil {
		return 0, err
	}
	if s.ours(id) {
		return id, s.Limit(id, limit)
	}
	if id, err = s.free(); err != nil {
		return 0, err
	}
	// The limit of whoever had the number before must not be this one's for a moment.
	if err := s.Limit(id, limit); err != nil {
		return 0, err
	}
	// The directory is the last to bear the number: one that does has nothing in it that does not, however this process ends.
	return id, s.Assign(dir, id)
}

func (s *Store) ours(id uint32) bool {
	for _, r := range s.ranges {
		if r.First <= id && id <= r.Last {
			return true
		}
	}
	return false
}

// free finds a number that nothing on the file system bears.
func (s *Store) free() (uint32, error) {
	var total uint64
	for _, r := range s.ranges {
		total += uint64(r.Last-r.First) + 1
	}
	for range total {
		id := s.number(s.next % total)
		s.next++
		a, err := s.account(id)
		if err != nil {
			return 0, err
		}
		if a.files == 0 && a.blocks == 0 {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w of %d: sandboxes and volumes that are deleted free theirs", ErrNone, total)
}

func (s *Store) number(n uint64) uint32 {
	for _, r := range s.ranges {
		size := uint64(r.Last-r.First) + 1
		if n < size {
			return r.First + uint32(n)
		}
		n -= size
	}
	return 0
}

func (s *Store) account(id uint32) (account, error) {
	var a account
	if err := s.quotactl(getQuota, id, unsafe.Pointer(&a)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		return a, fmt.Errorf("read the quota of project %d: %w", id, err)
	}
	return a, nil
}

// Usage gives what a project uses and may use, in bytes; a limit of 0 is none.
func (s *Store) Usage(id uint32) (used, limit uint64, err error) {
	a, err := s.account(id)
	return a.blocks * block, a.blocksHard * block, err
}

// Limit sets what a project may use, in bytes, rounded up to blocks; 0: no limit. Beyond it writing ends with EDQUOT.
func (s *Store) Limit(id uint32, bytes uint64) error {
	n := bytes / block
	if bytes%block > 0 {
		n++
	}
	a := account{version: 1, flags: kindProject, fields: softBlocks | hardBlocks, id: id, blocksHard: n, blocksSoft: n}
	if err := s.quotactl(setLimit, id, unsafe.Pointer(&a)); err != nil {
		return fmt.Errorf("limit project %d: %w", id, err)
	}
	return nil
}

// Project gives the number that a directory bears and hands down; 0: none.
func Project(dir string) (uint32, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var a attributes
	if err := a.ioctl(fd, ioctlRead); err != nil {
		return 0, &os.PathError{Op: "read the project of", Path: dir, Err: err}
	}
	return a.project, nil
}

// Assign makes a directory and all that is in it a project's. What can't bear a number (links, devices) is passed over, and so is
// what lies on another file system.
func (s *Store) Assign(dir string, id uint32) error {
	if !s.Holds(dir) {
		return fmt.Errorf("%s is not on the file system of %s, whose quotas are used", dir, s.path)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return s.assign(os.NewFile(uintptr(fd), dir), id, 0)
}

// maxDepth bounds how deep a tree is followed: every level holds a descriptor.
const maxDepth = 512

// assign takes over the directory's descriptor. By it nobody can put a link in the way of what is opened.
func (s *Store) assign(dir *os.File, id uint32, depth int) error {
	defer dir.Close()
	if depth > maxDepth {
		return fmt.Errorf("%s: directories are nested deeper than %d", dir.Name(), maxDepth)
	}
	for {
		es, err := dir.ReadDir(1000)
		for _, e := range es {
			if !e.IsDir() && !e.Type().IsRegular() {
				continue
			}
			name := filepath.Join(dir.Name(), e.Name())
			fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
				continue // it has gone or become something else
			}
			if err != nil {
				return &os.PathError{Op: "open", Path: name, Err: err}
			}
			f := os.NewFile(uintptr(fd), name)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				f.Close()
				return &os.PathError{Op: "stat", Path: name, Err: err}
			}
			switch kind := st.Mode & unix.S_IFMT; {
			case st.Dev != s.dev:
				f.Close()
			case kind == unix.S_IFDIR:
				if err := s.assign(f, id, depth+1); err != nil {
					return err
				}
			case kind == unix.S_IFREG:
				err := set(fd, id, false)
				f.Close()
				if err != nil {
					return &os.PathError{Op: "set the project of", Path: name, Err: err}
				}
			default:
				f.Close()
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := set(int(dir.Fd()), id, true); err != nil {
		return &os.PathError{Op: "set the project of", Path: dir.Name(), Err: err}
	}
	return nil
}

func set(fd int, id uint32, dir bool) error {
	var a attributes
	if err := a.ioctl(fd, ioctlRead); err != nil {
		return err
	}
	flags := a.flags
	if dir && id != 0 {
		flags |= inherit
	} else if dir {
		flags &^= inherit
	}
	if a.project == id && a.flags == flags {
		return nil
	}
	a.project, a.flags = id, flags
	return a.ioctl(fd, ioctlWrite)
}
