package zkfile

import (
	"bufio"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// endOfRecord stands behind every transaction in a log.
const endOfRecord = 'B'

// LogReader reads the transactions of one log file in order.
type LogReader struct {
	s *jute.Stream
	f *os.File
}

// OpenLog opens a log file.
func OpenLog(path string) (*LogReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := NewLogReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.f = f
	return r, nil
}

// NewLogReader reads a log's header.
func NewLogReader(in io.Reader) (*LogReader, error) {
	s := jute.NewStream(in, MaxBuffer)
	magic, version, _ := s.Int(), s.Int(), s.Long()
	switch {
	case s.Err() != nil:
		return nil, fmt.Errorf("log has no header: %w", s.Err())
	case magic != logMagic:
		return nil, fmt.Errorf("not a ZooKeeper log (it begins with 0x%x)", uint32(magic))
	case version != fileVersion:
		return nil, fmt.Errorf("log of version %d, only %d is known", version, fileVersion)
	}
	return &LogReader{s: s}, nil
}

// Next returns the next transaction; io.EOF at the end. A log that a server had not finished writing ends in zeros or in the
// middle of a record: both are the end.
func (r *LogReader) Next() (*txn.Txn, error) {
	sum := r.s.Long()
	b := r.s.Buffer()
	end := r.s.Byte()
	if err := r.s.Err(); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, io.EOF
		}
		return nil, err
	}
	if len(b) == 0 {
		return nil, io.EOF // the space that servers allocate ahead
	}
	if end != endOfRecord {
		return nil, io.EOF // torn
	}
	if int64(adler32.Checksum(b)) != sum {
		return nil, fmt.Errorf("log's checksum is wrong before offset %d: the file is damaged", r.s.Offset())
	}
	return txn.Decode(b)
}

// Close closes the file.
func (r *LogReader) Close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}

// LogWriter writes a log file.
type LogWriter struct {
	f *os.File
	w *bufio.Writer
	b []byte
}

// CreateLog creates the log file whose first transaction is zxid.
func CreateLog(dir string, zxid int64) (*LogWriter, error) {
	f, err := os.OpenFile(filepath.Join(dir, LogName(zxid)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	w := &LogWriter{f: f, w: bufio.NewWriterSize(f, 1<<20)}
	b := jute.AppendInt(nil, logMagic)
	b = jute.AppendInt(b, fileVersion)
	b = jute.AppendLong(b, 0)
	_, err = w.w.Write(b)
	return w, err
}

// Append writes a transaction; Sync or Close makes it durable.
func (w *LogWriter) Append(t *txn.Txn) error {
	rec := t.Append(nil)
	w.b = jute.AppendLong(w.b[:0], int64(adler32.Checksum(rec)))
	w.b = jute.AppendBuffer(w.b, rec)
	w.b = append(w.b, endOfRecord)
	_, err := w.w.Write(w.b)
	return err
}

// Sync makes what was appended durable.
func (w *LogWriter) Sync() error { return errors.Join(w.w.Flush(), w.f.Sync()) }

// Close syncs and closes the file.
func (w *LogWriter) Close() error {
	return errors.Join(w.Sync(), w.f.Close(), syncDir(filepath.Dir(w.f.Name())))
}

// Load reads a server's data directory (version-2): the newest snapshot that is whole, and every transaction after it. The
// server may be running; what it commits afterwards is not seen.
func Load(dir string) (*tree.Tree, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var snaps, logs []int64
	for _, e := range entries {
		if z, ok := zxidOf(e.Name(), "snapshot"); ok {
			snaps = append(snaps, z)
		}
		if z, ok := zxidOf(e.Name(), "log"); ok {
			logs = append(logs, z)
		}
	}
	slices.Sort(snaps)
	slices.Sort(logs)
	t := tree.New()
	var broken error
	for i := len(snaps) - 1; i >= 0; i-- {
		s, err := ReadSnapshot(filepath.Join(dir, SnapshotName(snaps[i])))
		if err == nil {
			t, broken = s, nil
			break
		}
		broken = err
	}
	if broken != nil {
		return nil, fmt.Errorf("no snapshot in %s can be read: %w", dir, broken)
	}
	start := t.Zxid()
	for i, z := range logs {
		if i+1 < len(logs) && logs[i+1] <= start+1 {
			continue // all of it is older than the snapshot
		}
		if err := replay(filepath.Join(dir, LogName(z)), t, start); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func replay(path string, t *tree.Tree, after int64) error {
	r, err := OpenLog(path)
	if err != nil {
		if info, serr := os.Stat(path); serr == nil && info.Size() < 16 {
			return nil // created and not written to yet
		}
		return err
	}
	defer func() { _ = r.Close() }()
	for {
		x, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if x.Zxid > after {
			t.Apply(x)
		}
	}
}

// WriteEpoch writes the files that let a server start as if it had followed a leader of this epoch.
func WriteEpoch(dir string, epoch int64) error {
	for _, name := range []string{"currentEpoch", "acceptedEpoch"} {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Append(nil, epoch), 0o644); err != nil {
			return err
		}
	}
	return syncDir(dir)
}
