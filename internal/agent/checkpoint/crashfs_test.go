package checkpoint

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

var errCrashed = errors.New("the machine has crashed")

type node struct {
	dir  bool
	link string
	data []byte
}

// change is one mutation that the disk may or may not keep.
type change struct {
	kind     string // mkdir create write truncate rename remove link
	path, to string
	data     []byte
	offset   int64
	synced   bool
}

// crashFS is a file system in memory that forgets, when it crashes, an arbitrary part of what was not synced: names and
// contents independently, writes also by halves.
type crashFS struct {
	mu      sync.Mutex
	rand    *rand.Rand
	now     map[string]node // what the running process sees
	durable map[string]node // what was there at the last full sync
	pending []change
	// crashAt counts mutations down to the crash; failEvery makes about one mutation in so many fail (0: none).
	crashAt   int
	failEvery int
	crashed   bool
}

func newCrashFS(seed uint64) *crashFS {
	return &crashFS{rand: rand.New(rand.NewPCG(seed, 1)), now: map[string]node{"/": {dir: true}}, durable: map[string]node{"/": {dir: true}}, crashAt: -1}
}

func applyChange(m map[string]node, c change) {
	switch c.kind {
	case "mkdir":
		if _, ok := m[c.path]; !ok {
			m[c.path] = node{dir: true}
		}
	case "create":
		if m[path.Dir(c.path)].dir {
			m[c.path] = node{}
		}
	case "write":
		n, ok := m[c.path]
		if !ok {
			return
		}
		end := int(c.offset) + len(c.data)
		data := make([]byte, max(end, len(n.data)))
		copy(data, n.data)
		copy(data[c.offset:], c.data)
		m[c.path] = node{data: data}
	case "rename":
		if n, ok := m[c.path]; ok {
			delete(m, c.path)
			m[c.to] = n
		}
	case "remove":
		delete(m, c.path)
		maps.DeleteFunc(m, func(p string, _ node) bool { return strings.HasPrefix(p, c.path+"/") })
	case "link":
		if m[path.Dir(c.path)].dir {
			m[c.path] = node{link: string(c.data)}
		}
	}
}

func clone(m map[string]node) map[string]node { return maps.Clone(m) }

// mutate makes one change, or crashes, or fails.
func (f *crashFS) mutate(c change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return errCrashed
	}
	if f.crashAt >= 0 {
		if f.crashAt == 0 {
			if f.rand.IntN(2) == 0 {
				f.pending = append(f.pending, c) // it may have reached the disk nevertheless
			}
			f.crashed = true
			return errCrashed
		}
		f.crashAt--
	}
	if f.failEvery > 0 && f.rand.IntN(f.failEvery) == 0 {
		if c.kind == "write" && len(c.data) > 0 {
			c.data = c.data[:f.rand.IntN(len(c.data))]
			f.pending = append(f.pending, c)
			applyChange(f.now, c)
		}
		return syscall.ENOSPC
	}
	f.pending = append(f.pending, c)
	applyChange(f.now, c)
	return nil
}

// reboot is the machine after the crash: what was synced, and any part of the rest.
func (f *crashFS) reboot() *crashFS {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := clone(f.durable)
	for _, c := range f.pending {
		if !c.synced {
			if f.rand.IntN(2) == 0 {
				continue
			}
			if c.kind == "write" && f.rand.IntN(3) == 0 && len(c.data) > 0 {
				c.data = c.data[:f.rand.IntN(len(c.data))]
			}
		}
		applyChange(m, c)
	}
	return &crashFS{rand: f.rand, now: m, durable: clone(m), crashAt: -1}
}

func (f *crashFS) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return errCrashed
	}
	return nil
}

func (f *crashFS) MkdirAll(p string) error {
	for _, d := range parents(p) {
		f.mu.Lock()
		_, ok := f.now[d]
		f.mu.Unlock()
		if ok {
			continue
		}
		if err := f.mutate(change{kind: "mkdir", path: d}); err != nil {
			return err
		}
	}
	return nil
}

func parents(p string) []string {
	var all []string
	for ; p != "/"; p = path.Dir(p) {
		all = append(all, p)
	}
	slices.Reverse(all)
	return all
}

func (f *crashFS) Create(p string) (File, error) {
	if !f.has(path.Dir(p)) {
		return nil, fs.ErrNotExist
	}
	if err := f.mutate(change{kind: "create", path: p}); err != nil {
		return nil, err
	}
	return &crashFile{f, p}, nil
}

func (f *crashFS) Open(p string) (File, error) {
	if !f.has(p) {
		return f.Create(p)
	}
	return &crashFile{f, p}, f.check()
}

func (f *crashFS) has(p string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.now[p]
	return ok
}

func (f *crashFS) ReadFile(p string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, errCrashed
	}
	n, ok := f.now[p]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if n.dir {
		return nil, syscall.EISDIR
	}
	return slices.Clone(n.data), nil
}

func (f *crashFS) ReadDir(p string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, errCrashed
	}
	if _, ok := f.now[p]; !ok {
		return nil, fs.ErrNotExist
	}
	var entries []fs.DirEntry
	for q, n := range f.now {
		if q != "/" && path.Dir(q) == p {
			entries = append(entries, crashEntry{path.Base(q), n})
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

func (f *crashFS) Rename(from, to string) error {
	return f.mutate(change{kind: "rename", path: from, to: to})
}

func (f *crashFS) RemoveAll(p string) error { return f.mutate(change{kind: "remove", path: p}) }

func (f *crashFS) Symlink(target, p string) error {
	return f.mutate(change{kind: "link", path: p, data: []byte(target)})
}

func (f *crashFS) Readlink(p string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.now[p]
	if !ok || n.link == "" {
		return "", fs.ErrNotExist
	}
	return n.link, nil
}

func (f *crashFS) SyncDir(p string) error {
	if err := f.check(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range f.pending {
		if c.kind != "write" && (path.Dir(c.path) == p || c.to != "" && path.Dir(c.to) == p || c.path == p) {
			f.pending[i].synced = true
		}
	}
	return nil
}

func (f *crashFS) SyncAll(string) error {
	if err := f.check(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.durable = clone(f.now)
	f.pending = nil
	return nil
}

type crashFile struct {
	fs   *crashFS
	path string
}

func (c *crashFile) WriteAt(b []byte, offset int64) (int, error) {
	if err := c.fs.mutate(change{kind: "write", path: c.path, data: slices.Clone(b), offset: offset}); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *crashFile) Truncate(int64) error { return errors.ErrUnsupported }
func (c *crashFile) Close() error         { return nil }

func (c *crashFile) Sync() error {
	// Syncing counts as a mutation, so that a crash can come in the middle of it.
	if err := c.fs.mutate(change{kind: "sync"}); err != nil {
		return err
	}
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	for i, p := range c.fs.pending {
		if p.path == c.path && p.kind == "write" {
			c.fs.pending[i].synced = true
		}
	}
	return nil
}

type crashEntry struct {
	name string
	node node
}

func (e crashEntry) Name() string               { return e.name }
func (e crashEntry) IsDir() bool                { return e.node.dir }
func (e crashEntry) Info() (fs.FileInfo, error) { return crashInfo(e), nil }
func (e crashEntry) Type() fs.FileMode {
	if e.node.dir {
		return fs.ModeDir
	}
	return 0
}

type crashInfo crashEntry

func (i crashInfo) Name() string       { return i.name }
func (i crashInfo) Size() int64        { return int64(len(i.node.data)) }
func (i crashInfo) Mode() fs.FileMode  { return crashEntry(i).Type() }
func (i crashInfo) ModTime() time.Time { return time.Time{} }
func (i crashInfo) IsDir() bool        { return i.node.dir }
func (i crashInfo) Sys() any           { return nil }
