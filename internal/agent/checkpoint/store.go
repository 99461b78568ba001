package checkpoint

import (
	"bytes"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	journalPrefix = "journal."
	// rotateAt is the size at which a journal is closed: about what is replayed in a second.
	rotateAt = 4 << 20
	// maxBacklog is how much may be promised and not be in the files yet before Commit waits for them.
	maxBacklog = 64 << 20
	// flushEvery is how long a change may be in the journal only.
	flushEvery = time.Second
)

// Store commits batches of operations below one meta directory. Commit, Forget and Close are called by one goroutine.
type Store struct {
	fs   FS
	dir  string
	log  *slog.Logger
	size int64 // rotateAt, or less in tests

	journal File
	salt    salt
	number  uint64
	length  int64
	// sizes holds the length of files that are appended to: offsets make appending repeatable.
	sizes map[string]int64
	buf   []byte
	// problems are damaged parts of journals that were left out, because strict is false.
	problems []error

	stop    chan struct{}
	stopped chan struct{} // nil: nothing flushes but flush itself (tests)
	wake    chan struct{}
	room    chan struct{}

	mu      sync.Mutex
	backlog []Op   // promised, not in the files yet
	bytes   int    // of the backlog
	closed  uint64 // the last journal that will not grow; all of it is in the backlog or in the files
	settled uint64 // the last journal that was deleted
	// removes counts the removals of the backlog by path: what is on disk below them does not count any more.
	removes map[string]int
}

// Open replays the journals that an earlier process left below dir, and begins a new one. When one is damaged before its
// end it touches nothing and says what to do; with strict false it leaves the damaged part out and lists it in Problems.
func Open(fsys FS, dir string, strict bool, log *slog.Logger) (*Store, error) {
	s, err := open(fsys, dir, strict, log, rotateAt)
	if err != nil {
		return nil, err
	}
	s.stop, s.stopped = make(chan struct{}), make(chan struct{})
	go s.run()
	return s, nil
}

func open(fsys FS, dir string, strict bool, log *slog.Logger, size int64) (*Store, error) {
	s := &Store{
		fs: fsys, dir: dir, log: log, size: size, sizes: map[string]int64{}, removes: map[string]int{},
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
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
	var ops []Op
	for i, n := range old {
		if ops, err = s.read(ops, n, i == len(old)-1, strict); err != nil {
			return nil, err
		}
		s.number = n
	}
	for _, op := range coalesce(ops) {
		if err := s.apply(op); err != nil {
			return nil, fmt.Errorf("replay the journal: %w", err)
		}
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

// Problems are the damaged parts of journals that Open left out.
func (s *Store) Problems() []error { return s.problems }

// read appends the operations of a journal.
func (s *Store) read(ops []Op, n uint64, last, strict bool) ([]Op, error) {
	data, err := s.fs.ReadFile(s.journalPath(n))
	if err != nil {
		return ops, fmt.Errorf("read journal %d: %w", n, err)
	}
	if len(data) <= journalHeader { // the header is on disk before the first batch is written
		return ops, nil
	}
	total := len(data)
	if string(data[:len(journalMagic)]) != journalMagic {
		return ops, s.damage(n, 0, total, strict, errors.New("it does not begin as a journal does"))
	}
	salt := salt(data[len(journalMagic):journalHeader])
	for data = data[journalHeader:]; len(data) > 0; {
		batch, size, err := salt.decodeBatch(data)
		if errors.Is(err, errTorn) {
			next := salt.nextBatch(data)
			if next < 0 {
				// What follows was never promised: Commit had not returned. (A journal that is not the last one ends so
				// when its batch was written again, after an error of the disk, to the next one.)
				s.log.Warn("journal ends in a torn batch, which was never promised", "journal", n,
					"offset", total-len(data), "bytes", len(data), "last", last)
				return ops, nil
			}
			// A batch is written when the one before it is durable: this one was promised, and the disk lost it.
			if err := s.damage(n, total-len(data), next, strict, errors.New("whole batches follow")); err != nil {
				return ops, err
			}
			data = data[next:]
			continue
		}
		if err != nil {
			return ops, fmt.Errorf("journal %s: %w", s.journalPath(n), err)
		}
		ops = append(ops, batch...)
		data = data[size:]
	}
	return ops, nil
}

// damage is a part of a journal that was promised and can't be read.
func (s *Store) damage(n uint64, offset, size int, strict bool, why error) error {
	err := fmt.Errorf("%s is corrupt: %d bytes at offset %d can't be read, and %w", s.journalPath(n), size, offset, why)
	if strict {
		return fmt.Errorf("%w; start with --no-strict to go on without what they say (of tasks and status updates of the last "+
			"seconds before the agent stopped), or remove meta/slaves/latest and meta/journal.* to begin as a new agent", err)
	}
	s.problems = append(s.problems, err)
	return nil
}

// begin opens the next journal. Its name and its header are durable before anything is promised in it.
func (s *Store) begin() error {
	n := s.number + 1
	f, err := s.fs.Create(s.journalPath(n))
	if err != nil {
		return fmt.Errorf("create a journal: %w", err)
	}
	fail := func(err error) error {
		f.Close()
		return fmt.Errorf("begin a journal: %w", err)
	}
	if _, err := cryptorand.Read(s.salt[:]); err != nil {
		return fail(err)
	}
	header := s.salt.header()
	if _, err := f.WriteAt(header, 0); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return fail(err)
	}
	s.journal, s.number, s.length = f, n, int64(len(header))
	return nil
}

// Commit makes a batch durable. It is in the files soon after (see flush). After an error nothing is promised, and the same
// batch may be committed again: it is what the caller does, because there is nothing else that it could do without breaking
// a promise.
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
	s.buf = s.salt.encodeBatch(s.buf, ops)
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
	for _, op := range ops {
		if op.kind == opRemove {
			for name, size := range s.sizes {
				if size == 0 && below(name, op.path) {
					delete(s.sizes, name)
				}
			}
		}
	}
	s.enqueue(ops, len(s.buf))
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
	if s.length >= s.size {
		s.rotate()
	}
	return nil
}

// enqueue hands a promised batch to flush.
func (s *Store) enqueue(ops []Op, size int) {
	s.mu.Lock()
	for _, op := range ops {
		if op.kind == opRemove {
			s.removes[op.path]++
		}
	}
	s.backlog = append(s.backlog, ops...)
	s.bytes += size
	full := s.bytes > maxBacklog
	s.mu.Unlock()
	if s.stopped == nil {
		return
	}
	if full {
		select {
		case s.wake <- struct{}{}:
		default:
		}
		select { // the disk is far behind: wait for it, as for a Commit that is slow
		case <-s.room:
		case <-s.stopped:
		}
	}
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
			if _, known := s.sizes[op.path]; known || path.Base(op.path) == updatesFile {
				set(op.path, int64(len(op.data)))
			}
		case opRemove:
			for name := range s.sizes {
				if below(name, op.path) {
					set(name, 0)
				}
			}
			removed = append(removed, op.path)
		case opAppend:
			size, known := s.sizes[op.path]
			if !known && !slices.ContainsFunc(removed, func(r string) bool { return below(op.path, r) }) && !s.removing(op.path) {
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

// removing reports whether a removal that is not carried out yet will delete the file.
func (s *Store) removing(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.removes {
		if below(path, r) {
			return true
		}
	}
	return false
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
		if old, err := s.fs.ReadFile(path); err == nil && bytes.Equal(old, op.data) {
			return nil // of a replay, mostly
		}
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

// rotate begins a new journal; the old one is deleted once its operations are durable in their files.
func (s *Store) rotate() {
	old := s.number
	s.retire()
	s.mu.Lock()
	s.closed = old
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if err := s.begin(); err != nil {
		// What was committed is promised; the next Commit tries again to begin a journal.
		s.log.Error("cannot begin a journal: free space on the agent's disk", "err", err)
	}
}

// run flushes until Close.
func (s *Store) run() {
	defer close(s.stopped)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for failures := 0; ; {
		stopping := false
		select {
		case <-s.stop:
			stopping = true
		case <-s.wake:
		case <-tick.C:
		}
		err := s.flush()
		switch {
		case err == nil:
			failures = 0
			select {
			case s.room <- struct{}{}:
			default:
			}
		default:
			if failures++; failures&(failures-1) == 0 { // seldom, but again and again
				s.log.Error("cannot bring the checkpoint's files up to date; the journal has everything: free space on the agent's disk", "err", err)
			}
		}
		if stopping {
			return // what is left is replayed by the next process
		}
	}
}

// flush brings the files up to date with what was promised so far, and deletes the journals that nobody needs any more.
func (s *Store) flush() error {
	s.mu.Lock()
	ops, size, upTo := coalesce(s.backlog), s.bytes, s.closed
	s.backlog, s.bytes = nil, 0
	s.mu.Unlock()
	for i, op := range ops {
		if err := s.apply(op); err != nil {
			s.mu.Lock()
			s.backlog = append(slices.Clone(ops[i:]), s.backlog...)
			s.bytes += size
			s.mu.Unlock()
			return fmt.Errorf("apply a journaled operation: %w", err)
		}
		if op.kind == opRemove {
			s.mu.Lock()
			if s.removes[op.path]--; s.removes[op.path] <= 0 {
				delete(s.removes, op.path)
			}
			s.mu.Unlock()
		}
	}
	if upTo <= s.settled {
		return nil
	}
	if err := s.fs.SyncAll(s.dir); err != nil {
		return fmt.Errorf("sync the agent's meta directory: %w", err)
	}
	numbers, err := s.journals()
	if err != nil {
		return err
	}
	if err := s.deleteJournals(slices.DeleteFunc(numbers, func(n uint64) bool { return n > upTo })); err != nil {
		return err
	}
	s.settled = upTo
	return nil
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

// Close brings the files up to date as far as that works. What was committed stays promised without it.
func (s *Store) Close() error {
	if s.stopped != nil {
		close(s.stop)
		<-s.stopped
		s.stopped = nil
	}
	if s.journal == nil {
		return nil
	}
	err := s.journal.Close()
	s.journal = nil
	return err
}
