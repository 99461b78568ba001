package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	journalPrefix = "journal."
	// rotateAt is the size at which a journal is closed: about what is replayed in well under a second.
	rotateAt = 8 << 20
	// maxJournals: so many closed journals may wait for the file system to be synced before Commit waits for it too.
	maxJournals = 8
)

// Store commits batches of operations below one meta directory. Commit and Close are called by one goroutine.
type Store struct {
	fs   FS
	dir  string
	log  *slog.Logger
	size int64 // rotateAt, or less in tests

	journal File
	number  uint64
	length  int64
	// sizes holds the length of files that are appended to: offsets make appending repeatable.
	sizes map[string]int64
	buf   []byte

	// syncing counts closed journals whose operations may not be durable in their files yet.
	syncing chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex // orders the deletion of closed journals
}

// Open replays the journals that an earlier process left below dir, and begins a new one.
func Open(fsys FS, dir string, log *slog.Logger) (*Store, error) {
	return open(fsys, dir, log, rotateAt)
}

func open(fsys FS, dir string, log *slog.Logger, size int64) (*Store, error) {
	s := &Store{fs: fsys, dir: dir, log: log, size: size, sizes: map[string]int64{}, syncing: make(chan struct{}, maxJournals)}
	if _, err := fsys.ReadDir(dir); errors.Is(err, fs.ErrNotExist) {
		if err := fsys.MkdirAll(dir); err != nil {
			return nil, fmt.Errorf("create the agent's meta directory: %w", err)
		}
		if err := fsys.SyncAll(dir); err != nil {
			return nil, fmt.Errorf("create the agent's meta directory: %w", err)
		}
	}
	old, err := s.journals()
	if err != nil {
		return nil, err
	}
	for i, n := range old {
		if err := s.replay(n, i == len(old)-1); err != nil {
			return nil, err
		}
		s.number = n
	}
	if len(old) > 0 {
		if err := fsys.SyncAll(dir); err != nil {
			return nil, fmt.Errorf("sync the agent's meta directory: %w", err)
		}
	}
	if err := s.begin(); err != nil {
		return nil, err
	}
	if err := s.deleteJournals(old); err != nil {
		return nil, err
	}
	s.sizes = map[string]int64{}
	return s, nil
}

func (s *Store) journalPath(n uint64) string {
	return filepath.Join(s.dir, journalPrefix+strconv.FormatUint(n, 10))
}

// journals lists the numbers of the journals on disk, oldest first.
func (s *Store) journals() ([]uint64, error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read the agent's meta directory: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		if text, ok := strings.CutPrefix(e.Name(), journalPrefix); ok {
			if n, err := strconv.ParseUint(text, 10, 64); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (s *Store) replay(n uint64, last bool) error {
	data, err := s.fs.ReadFile(s.journalPath(n))
	if err != nil {
		return fmt.Errorf("read journal %d: %w", n, err)
	}
	total := len(data)
	for len(data) > 0 {
		ops, size, err := decodeBatch(data)
		if errors.Is(err, errTorn) {
			// What follows was never promised: Commit had not returned. (A journal that is not the last one ends so
			// when its batch was written again, after an error of the disk, to the next one.)
			s.log.Warn("journal ends in a torn batch, which was never promised", "journal", n,
				"offset", total-len(data), "bytes", len(data), "last", last)
			return nil
		}
		if err != nil {
			return fmt.Errorf("journal %s: %w", s.journalPath(n), err)
		}
		for _, op := range ops {
			if err := s.apply(op); err != nil {
				return fmt.Errorf("replay journal %d: %w", n, err)
			}
		}
		data = data[size:]
	}
	return nil
}

// begin opens the next journal. It is durable by name before anything is promised in it.
func (s *Store) begin() error {
	n := s.number + 1
	f, err := s.fs.Create(s.journalPath(n))
	if err != nil {
		return fmt.Errorf("create a journal: %w", err)
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		f.Close()
		return fmt.Errorf("sync the agent's meta directory: %w", err)
	}
	s.journal, s.number, s.length = f, n, 0
	return nil
}

// Commit makes a batch durable and visible. After an error nothing is promised, and the same batch may be committed
// again: it is what the caller does, because there is nothing else that it could do without breaking a promise.
func (s *Store) Commit(ops []Op) error {
	if len(ops) == 0 {
		return nil
	}
	if s.journal == nil {
		// An earlier Commit failed: whether its tail reached the disk is unknown, so a new journal takes over.
		if err := s.begin(); err != nil {
			return err
		}
	}
	undo := s.place(ops)
	s.buf = encodeBatch(s.buf, ops)
	_, err := s.journal.WriteAt(s.buf, s.length)
	if err == nil {
		err = s.journal.Sync()
	}
	if err != nil {
		s.undo(undo)
		s.retire()
		return fmt.Errorf("write the journal: %w", err)
	}
	s.length += int64(len(s.buf))
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
	for _, op := range ops {
		if err := s.apply(op); err != nil {
			// Promised, but not in place: only a replay can put it there. Committing it again does.
			s.undo(undo)
			return fmt.Errorf("apply a journaled operation: %w", err)
		}
	}
	for _, op := range ops {
		if op.kind == opRemove {
			maps.DeleteFunc(s.sizes, func(path string, size int64) bool { return size == 0 && below(path, op.path) })
		}
	}
	if s.length >= s.size {
		return s.rotate()
	}
	return nil
}

// place gives the appends their offsets, and tells how to take that back: the length of each file before the batch.
func (s *Store) place(ops []Op) (undo map[string]int64) {
	undo = map[string]int64{}
	set := func(path string, size int64) {
		if _, saved := undo[path]; !saved {
			if old, known := s.sizes[path]; known {
				undo[path] = old
			} else {
				undo[path] = unknown
			}
		}
		s.sizes[path] = size
	}
	var removed []string // by this batch so far: what is on disk below them does not count any more
	for i := range ops {
		op := &ops[i]
		switch op.kind {
		case opPut:
			if _, known := s.sizes[op.path]; known {
				set(op.path, int64(len(op.data)))
			}
		case opRemove:
			for path := range s.sizes {
				if below(path, op.path) {
					set(path, 0)
				}
			}
			removed = append(removed, op.path)
		case opAppend:
			size, known := s.sizes[op.path]
			if !known && !slices.ContainsFunc(removed, func(r string) bool { return below(op.path, r) }) {
				// The first append of this process: the file may hold records of an earlier one.
				if data, err := s.fs.ReadFile(filepath.Join(s.dir, op.path)); err == nil {
					size = wholeRecords(data)
				}
				s.sizes[op.path] = size // what a failed batch goes back to, though the file may have grown
			}
			op.offset = size
			set(op.path, size+int64(len(op.data)))
		}
	}
	return undo
}

// unknown marks a file whose length was not known before a batch.
const unknown = -1

func (s *Store) undo(sizes map[string]int64) {
	for path, size := range sizes {
		if size == unknown {
			delete(s.sizes, path)
		} else {
			s.sizes[path] = size
		}
	}
}

// below: path is root or lies below it.
func below(path, root string) bool {
	return path == root || strings.HasPrefix(path, root) && path[len(root)] == '/'
}

// wholeRecords is the length of the whole records at the beginning of a file: a torn one is overwritten.
func wholeRecords(data []byte) int64 {
	var n int64
	for int64(len(data))-n >= recordHeader {
		size := int64(uint32(data[n])|uint32(data[n+1])<<8|uint32(data[n+2])<<16|uint32(data[n+3])<<24) + recordHeader
		if size > maxRecord || int64(len(data))-n < size {
			break
		}
		n += size
	}
	return n
}

// Forget drops what the store remembers of a file that will not be appended to any more.
func (s *Store) Forget(path string) { delete(s.sizes, path) }

func (s *Store) apply(op Op) error {
	path := filepath.Join(s.dir, op.path)
	switch op.kind {
	case opPut:
		return writeWhole(s.fs, path, op.data)
	case opAppend:
		return writeAt(s.fs, path, op.data, op.offset)
	case opRemove:
		return s.fs.RemoveAll(path)
	case opLink:
		if err := s.fs.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		return s.fs.Symlink(string(op.data), path)
	}
	return fmt.Errorf("unknown operation %d", op.kind)
}

// retire closes a journal whose tail is unknown without deleting it: its earlier batches are still needed.
func (s *Store) retire() {
	s.journal.Close()
	s.journal = nil
}

// rotate begins a new journal and has the old one deleted once its operations are durable in their files.
func (s *Store) rotate() error {
	old := s.number
	s.retire()
	if err := s.begin(); err != nil {
		// What was committed is promised; the next Commit tries again to begin a journal.
		s.log.Error("cannot begin a journal: free space on the agent's disk", "err", err)
		return nil
	}
	s.syncing <- struct{}{}
	s.wg.Go(func() {
		defer func() { <-s.syncing }()
		s.settle(old)
	})
	return nil
}

// settle deletes every journal up to number once their operations are durable.
func (s *Store) settle(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fs.SyncAll(s.dir); err != nil {
		s.log.Error("cannot sync the agent's meta directory; its journal is kept", "err", err)
		return
	}
	numbers, err := s.journals()
	if err != nil {
		s.log.Error("cannot list the agent's journals", "err", err)
		return
	}
	numbers = slices.DeleteFunc(numbers, func(n uint64) bool { return n > number })
	if err := s.deleteJournals(numbers); err != nil {
		s.log.Error("cannot delete the agent's old journals", "err", err)
	}
}

// deleteJournals deletes journals in their order, and each one durably before the next: an old one that came back without
// those that followed it would be replayed over newer files.
func (s *Store) deleteJournals(numbers []uint64) error {
	for _, n := range numbers {
		if err := s.fs.RemoveAll(s.journalPath(n)); err != nil {
			return fmt.Errorf("delete journal %d: %w", n, err)
		}
		if err := s.fs.SyncDir(s.dir); err != nil {
			return fmt.Errorf("delete journal %d: %w", n, err)
		}
	}
	return nil
}

// ReadFile reads a file below the meta directory.
func (s *Store) ReadFile(path string) ([]byte, error) {
	data, err := s.fs.ReadFile(filepath.Join(s.dir, path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the agent's checkpoint: %w", err)
	}
	return data, err
}

// Close waits for background work. What was committed stays promised without it.
func (s *Store) Close() error {
	s.wg.Wait()
	if s.journal == nil {
		return nil
	}
	err := s.journal.Close()
	s.journal = nil
	return err
}
