package zkfile

import (
	"bufio"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
)

const (
	snapshotMagic = 0x5a4b534e // ZKSN
	logMagic      = 0x5a4b4c47 // ZKLG
	fileVersion   = 2
	// MaxBuffer bounds one buffer in a file: servers refuse to write larger nodes unless jute.maxbuffer was raised far.
	MaxBuffer = 256 << 20
)

// SnapshotName is the file name of a snapshot that was begun at zxid.
func SnapshotName(zxid int64) string { return "snapshot." + strconv.FormatInt(zxid, 16) }

// LogName is the file name of a log whose first transaction is zxid.
func LogName(zxid int64) string { return "log." + strconv.FormatInt(zxid, 16) }

// zxidOf reads the number in a file's name.
func zxidOf(name, prefix string) (int64, bool) {
	rest, ok := strings.CutPrefix(filepath.Base(name), prefix+".")
	if !ok {
		return 0, false
	}
	z, err := strconv.ParseUint(rest, 16, 64)
	return int64(z), err == nil
}

type sumReader struct {
	r   io.Reader
	sum hash.Hash32
}

func (s *sumReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	_, _ = s.sum.Write(b[:n])
	return n, err
}

// WriteSnapshot writes a snapshot file, whole or not at all (a temporary file beside it, synced and renamed).
func WriteSnapshot(dir string, t *tree.Tree) (path string, err error) {
	path = filepath.Join(dir, SnapshotName(t.Zxid()))
	f, err := os.CreateTemp(dir, "new-snapshot-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := EncodeSnapshot(w, t); err != nil {
		return "", err
	}
	if err := errors.Join(w.Flush(), f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", err
	}
	return path, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// EncodeSnapshot writes a snapshot as it stands in a file: header, body, checksum, digest, checksum.
func EncodeSnapshot(w io.Writer, t *tree.Tree) error {
	sum := adler32.New()
	out := io.MultiWriter(w, sum)
	b := jute.AppendInt(nil, snapshotMagic)
	b = jute.AppendInt(b, fileVersion)
	b = jute.AppendLong(b, -1)
	if _, err := out.Write(b); err != nil {
		return err
	}
	if err := t.Write(out); err != nil {
		return err
	}
	seal := func() error {
		_, err := out.Write(jute.AppendString(jute.AppendLong(nil, int64(sum.Sum32())), "/"))
		return err
	}
	if err := seal(); err != nil {
		return err
	}
	b = jute.AppendLong(b[:0], t.Zxid())
	b = jute.AppendInt(b, tree.DigestVersion)
	b = jute.AppendLong(b, t.Digest())
	if _, err := out.Write(b); err != nil {
		return err
	}
	return seal()
}

// ReadSnapshot reads a snapshot file and checks its checksum. The tree is fuzzy: the logs from its zxid on make it exact.
func ReadSnapshot(path string) (*tree.Tree, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := DecodeSnapshot(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if z, ok := zxidOf(path, "snapshot"); ok {
		t.SetZxid(z)
	}
	return t, nil
}

// DecodeSnapshot reads what EncodeSnapshot, or a server, has written.
func DecodeSnapshot(r io.Reader) (*tree.Tree, error) {
	// The checksum covers exactly the bytes in front of it, so nothing may be read ahead of the sum: the reader under the
	// sum is buffered, the one over it takes what it needs.
	sum := &sumReader{bufio.NewReaderSize(r, 1<<20), adler32.New()}
	s := jute.NewStreamUnbuffered(sum, MaxBuffer)
	if magic := s.Int(); s.Err() == nil && magic != snapshotMagic {
		return nil, fmt.Errorf("not a ZooKeeper snapshot (it begins with 0x%x)", uint32(magic))
	}
	if v := s.Int(); s.Err() == nil && v != fileVersion {
		return nil, fmt.Errorf("snapshot of version %d, only %d is known", v, fileVersion)
	}
	_ = s.Long()
	t, err := tree.Read(s)
	if err != nil {
		return nil, err
	}
	want := int64(sum.sum.Sum32())
	got := s.Long()
	if s.Err() != nil {
		return nil, fmt.Errorf("snapshot has no checksum: it was not written to its end")
	}
	if got != want {
		return nil, fmt.Errorf("snapshot's checksum is wrong: the file is damaged")
	}
	return t, nil
}
