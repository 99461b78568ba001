package files

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Errors that callers branch on.
var (
	// ErrNotFound: there is no such file, or nothing is attached there.
	ErrNotFound = errors.New("no such file")
	// ErrDirectory: the path is a directory where a file is needed.
	ErrDirectory = errors.New("it is a directory")
	// ErrNotRegular: neither a file nor a directory.
	ErrNotRegular = errors.New("it is neither a regular file nor a directory")
	// ErrForbidden: the principal may not see what is attached there.
	ErrForbidden = errors.New("access is not allowed")
	// ErrEscape: a link leads out of what is attached.
	ErrEscape = errors.New("a link on the path leads outside of what may be seen")
)

// Limits of one answer.
const (
	MaxRead    = 64 << 10 // bytes of one read: 16 pages, as in Mesos
	MaxEntries = 20_000   // entries of a listing; the rest is left out
	maxPath    = 4096
)

// Info describes a file of a listing.
type Info struct {
	Path  string // virtual
	Links uint64
	Size  int64
	MTime time.Time
	Mode  fs.FileMode
	UID   uint32
	GID   uint32
}

// Chunk is a part of a file.
type Chunk struct {
	Data   []byte
	Offset int64 // where Data begins
	Size   int64 // of the whole file now
}

// Files is the set of what is attached. Its methods may be called from any goroutine.
type Files struct {
	mu       sync.RWMutex
	attached map[string]attachment
}

type attachment struct {
	path  string
	allow func(principal string) bool
}

// New returns a set with nothing attached.
func New() *Files { return &Files{attached: map[string]attachment{}} }

// Attach makes the file or directory at path visible under the virtual path. It need not exist yet. allow decides who may see
// it; nil allows everybody. Whatever was attached there is replaced.
func (f *Files) Attach(realPath, virtual string, allow func(principal string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attached[clean(virtual)] = attachment{path: filepath.Clean(realPath), allow: allow}
}

// Detach undoes Attach.
func (f *Files) Detach(virtual string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, clean(virtual))
}

// Attached are the virtual paths that the principal may see, with the real ones.
func (f *Files) Attached(principal string) map[string]string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make(map[string]string, len(f.attached))
	for v, a := range f.attached {
		if a.allow == nil || a.allow(principal) {
			out[v] = a.path
		}
	}
	return out
}

// clean brings a virtual path into one form. A path without a leading slash is another path, as in Mesos.
func clean(virtual string) string {
	if len(virtual) > 1 {
		virtual = strings.TrimRight(virtual, "/")
	}
	return virtual
}

// resolve finds the attachment that answers for the virtual path and the path below it ("." for itself).
func (f *Files) resolve(principal, virtual string) (attachment, string, error) {
	if len(virtual) > maxPath || strings.IndexByte(virtual, 0) >= 0 {
		return attachment{}, "", ErrNotFound
	}
	virtual = clean(virtual)
	f.mu.RLock()
	defer f.mu.RUnlock()
	for prefix := virtual; ; {
		if a, ok := f.attached[prefix]; ok {
			if a.allow != nil && !a.allow(principal) {
				return attachment{}, "", ErrForbidden
			}
			below := strings.TrimLeft(virtual[len(prefix):], "/")
			if below == "" {
				below = "."
			}
			if !filepath.IsLocal(below) {
				return attachment{}, "", ErrEscape
			}
			return a, below, nil
		}
		i := strings.LastIndexByte(prefix, '/')
		if i < 0 {
			return attachment{}, "", ErrNotFound
		}
		prefix = prefix[:i]
	}
}

// open opens the file or directory of a virtual path for reading, beneath its root.
func (f *Files) open(principal, virtual string) (*os.File, fs.FileInfo, error) {
	a, below, err := f.resolve(principal, virtual)
	if err != nil {
		return nil, nil, err
	}
	dir, name := a.path, below
	if info, err := os.Stat(a.path); err != nil {
		return nil, nil, convert(err)
	} else if !info.IsDir() {
		if below != "." {
			return nil, nil, ErrNotFound
		}
		dir, name = filepath.Split(a.path)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, convert(err)
	}
	defer root.Close()
	if err := regular(root.Stat(name)); err != nil {
		return nil, nil, err
	}
	// It may be another file by now: O_NONBLOCK keeps a FIFO from being waited for, and what was opened is checked again.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, convert(err)
	}
	info, err := file.Stat()
	if err := regular(info, err); err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

func regular(info fs.FileInfo, err error) error {
	if err != nil {
		return convert(err)
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return ErrNotRegular
	}
	return nil
}

// convert turns the errors of the file system into ours, without its paths.
func convert(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w by the file system", ErrForbidden)
	case errors.Is(err, syscall.ELOOP):
		return ErrEscape
	}
	// os.Root has no exported error for a path that leaves it.
	if strings.HasSuffix(err.Error(), "path escapes from parent") {
		return ErrEscape
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// List lists a directory, sorted by name. Links are followed where they stay inside and told as links where not.
func (f *Files) List(principal, virtual string) ([]Info, error) {
	a, below, err := f.resolve(principal, virtual)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(a.path); err != nil {
		return nil, convert(err)
	} else if !info.IsDir() {
		if below != "." {
			return nil, ErrNotFound
		}
		return nil, nil // Mesos lists nothing for a file
	}
	root, err := os.OpenRoot(a.path)
	if err != nil {
		return nil, convert(err)
	}
	defer root.Close()
	if info, err := root.Stat(below); err != nil {
		return nil, convert(err)
	} else if !info.IsDir() {
		return nil, nil
	}
	sub, err := root.OpenRoot(below)
	if err != nil {
		return nil, convert(err)
	}
	defer sub.Close()
	dir, err := sub.Open(".")
	if err != nil {
		return nil, convert(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(MaxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, convert(err)
	}
	out := make([]Info, 0, len(names))
	for _, name := range names {
		// A link may be followed as far as the attachment's root, not only this directory's.
		info, err := root.Stat(filepath.Join(below, name))
		if err != nil {
			if info, err = sub.Lstat(name); err != nil {
				continue // gone meanwhile
			}
		}
		out = append(out, describe(path.Join(virtual, name), info))
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.Path, b.Path) })
	return out, nil
}

func describe(virtual string, info fs.FileInfo) Info {
	out := Info{Path: virtual, Links: 1, Size: info.Size(), MTime: info.ModTime(), Mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		out.Links, out.UID, out.GID = uint64(st.Nlink), st.Uid, st.Gid //nolint:unconvert // differs by architecture
	}
	return out
}

// Read reads up to length bytes from offset, at most MaxRead. Offset -1 asks for the size only; length -1 is no limit. At or
// beyond the end the chunk is empty and its Offset is the size.
func (f *Files) Read(principal, virtual string, offset, length int64) (Chunk, error) {
	file, info, err := f.open(principal, virtual)
	if err != nil {
		return Chunk{}, err
	}
	defer file.Close()
	if info.IsDir() {
		return Chunk{}, ErrDirectory
	}
	size := info.Size()
	if offset < 0 || offset >= size {
		return Chunk{Offset: size, Size: size}, nil
	}
	n := min(size-offset, MaxRead)
	if length >= 0 {
		n = min(n, length)
	}
	data := make([]byte, n)
	got, err := file.ReadAt(data, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return Chunk{}, convert(err)
	}
	return Chunk{Data: data[:got], Offset: offset, Size: size}, nil
}

// Open opens a regular file for reading.
func (f *Files) Open(principal, virtual string) (*os.File, fs.FileInfo, error) {
	file, info, err := f.open(principal, virtual)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		file.Close()
		return nil, nil, ErrDirectory
	}
	return file, info, nil
}
