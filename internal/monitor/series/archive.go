package series

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Archive is the minute tier: one file an hour with the minimum, average and maximum of each minute of each series. A nil
// Archive keeps nothing. Files are written once, whole, and read in place; what is older than a day is deleted.
//
// A file is: magic, number of series, then that many index entries (hash of the key, offset), sorted by hash, then the
// records: length of the key, the key (id, NUL, metric), and 60 times three packed values.
type Archive struct{ dir string }

const (
	archiveMagic = "omseries1\x00\x00\x00\x00\x00\x00\x00"
	archiveHours = 25
	unfinished   = ".new-*" // names of files that are being written
	minutes      = 60
	recordSize   = minutes * 3 * 2
	entrySize    = 16
	headerSize   = len(archiveMagic) + 8
)

// OpenArchive uses a directory, which it makes.
func OpenArchive(dir string) (*Archive, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the minute tier: %w", err)
	}
	// What a monitor that was killed while it wrote has left behind is of no use.
	left, err := filepath.Glob(filepath.Join(dir, unfinished))
	if err != nil {
		return nil, fmt.Errorf("look for unfinished hours: %w", err)
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("delete an unfinished hour: %w", err)
		}
	}
	return &Archive{dir}, nil
}

func (a *Archive) path(hour int64) string {
	return filepath.Join(a.dir, strconv.FormatInt(hour, 10)+".min")
}

// Key names a series in an archive.
func Key(id, metric string) string { return id + "\x00" + metric }

func hash(k string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, k)
	return h.Sum64()
}

// Collect sums up the minutes of an hour (numbered from 1970) of one series, for Write: it appends the record to buf, or
// nothing when the hour holds no sample. It is called while the ring does not change.
func Collect(buf []byte, r *Ring, hour int64) []byte {
	low, avg, high := r.Minutes(hour*3600_000, minutes)
	if !slices.ContainsFunc(avg, func(v float64) bool { return !math.IsNaN(v) }) {
		return buf
	}
	for i := range minutes {
		buf = binary.LittleEndian.AppendUint16(buf, pack(low[i]))
		buf = binary.LittleEndian.AppendUint16(buf, pack(avg[i]))
		buf = binary.LittleEndian.AppendUint16(buf, pack(high[i]))
	}
	return buf
}

// Writer writes one hour, a series at a time: an hour of a large estate is tens of megabytes, which are never held at once.
// The records go to a file of their own until the index, which stands before them, is known.
type Writer struct {
	a      *Archive
	hour   int64
	body   *os.File
	out    *bufio.Writer
	at     uint64
	index  []indexed // offsets in body
	old    *oldHour
	failed error
}

type indexed struct{ hash, offset uint64 }

// Write begins an hour. Minutes that an earlier file of the same hour knows and the new ones do not (the monitor was
// restarted) are kept. A nil Archive gives a nil Writer, which keeps nothing.
func (a *Archive) Write(hour int64) (*Writer, error) {
	if a == nil {
		return nil, nil //nolint:nilnil // see above
	}
	f, err := os.CreateTemp(a.dir, unfinished)
	if err != nil {
		return nil, fmt.Errorf("write the minute tier: %w", err)
	}
	return &Writer{a: a, hour: hour, body: f, out: bufio.NewWriterSize(f, 64<<10), old: openOld(a.path(hour))}, nil
}

// Add writes one series: its key (of Key) and what Collect gave, which it may change.
func (w *Writer) Add(key string, record []byte) {
	if w == nil {
		return
	}
	h := hash(key)
	if old := w.old.take(h, key); old != nil {
		for m := 0; m < recordSize; m += 2 {
			if binary.LittleEndian.Uint16(record[m:]) == missing {
				copy(record[m:m+2], old[m:m+2])
			}
		}
	}
	w.write(h, key, record)
}

func (w *Writer) write(h uint64, key string, record []byte) {
	w.index = append(w.index, indexed{h, w.at})
	head := binary.LittleEndian.AppendUint16(make([]byte, 0, 2), uint16(len(key)))
	for _, b := range [...][]byte{head, []byte(key), record} {
		n, err := w.out.Write(b)
		w.at += uint64(n)
		w.fail(err)
	}
}

func (w *Writer) fail(err error) {
	if w.failed == nil && err != nil {
		w.failed = fmt.Errorf("write the minute tier: %w", err)
	}
}

// Close puts the file in its place, and deletes hours that are too old.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.old.rest(w.write)
	w.old.close()
	w.fail(w.out.Flush())
	w.place()
	w.body.Close()
	os.Remove(w.body.Name())
	if w.failed != nil {
		return w.failed
	}
	return w.a.expire(w.hour)
}

// place writes the whole file beside the old one, then in its place.
func (w *Writer) place() {
	if w.failed != nil {
		return
	}
	slices.SortFunc(w.index, func(a, b indexed) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.offset, b.offset)) })
	before := uint64(headerSize + entrySize*len(w.index))
	head := make([]byte, 0, before)
	head = binary.LittleEndian.AppendUint64(append(head, archiveMagic...), uint64(len(w.index)))
	for _, e := range w.index {
		head = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(head, e.hash), before+e.offset)
	}
	f, err := os.CreateTemp(w.a.dir, unfinished)
	if err != nil {
		w.fail(err)
		return
	}
	defer os.Remove(f.Name())
	_, err = f.Write(head)
	w.fail(err)
	_, err = w.body.Seek(0, io.SeekStart)
	w.fail(err)
	_, err = io.Copy(f, w.body)
	w.fail(err)
	w.fail(f.Sync()) // or after a power failure the name is there, and nothing under it
	w.fail(f.Close())
	if w.failed == nil {
		w.fail(os.Rename(f.Name(), w.a.path(w.hour)))
	}
}

// oldHour is an earlier file of the hour that is written.
type oldHour struct {
	file  *os.File
	index []indexed // sorted by hash
	taken []bool
}

// openOld opens a file and reads its index. What is not there or is no hour has an empty one.
func openOld(path string) *oldHour {
	o := &oldHour{}
	f, err := os.Open(path)
	if err != nil {
		return o
	}
	o.file = f
	st, err := f.Stat()
	head := make([]byte, headerSize)
	if err != nil || readAll(f, head, 0) != nil || string(head[:len(archiveMagic)]) != archiveMagic {
		return o
	}
	n := binary.LittleEndian.Uint64(head[len(archiveMagic):])
	if n > uint64(st.Size())/entrySize {
		return o
	}
	b := make([]byte, n*entrySize)
	if readAll(f, b, int64(headerSize)) != nil {
		return o
	}
	for ; len(b) > 0; b = b[entrySize:] {
		o.index = append(o.index, indexed{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])})
	}
	o.taken = make([]bool, len(o.index))
	return o
}

func readAll(f *os.File, b []byte, at int64) error {
	_, err := f.ReadAt(b, at)
	return err
}

// take gives the record of a series, nil when there is none.
func (o *oldHour) take(h uint64, key string) []byte {
	i, _ := slices.BinarySearchFunc(o.index, h, func(e indexed, h uint64) int { return cmp.Compare(e.hash, h) })
	for ; i < len(o.index) && o.index[i].hash == h; i++ {
		if k, rec, ok := o.record(i); ok && k == key {
			o.taken[i] = true
			return rec
		}
	}
	return nil
}

// rest calls f with each series that nobody has taken.
func (o *oldHour) rest(f func(h uint64, key string, record []byte)) {
	for i := range o.index {
		if o.taken[i] {
			continue
		}
		if k, rec, ok := o.record(i); ok {
			f(o.index[i].hash, k, rec)
		}
	}
}

func (o *oldHour) record(i int) (key string, rec []byte, ok bool) {
	var n [2]byte
	at := int64(o.index[i].offset)
	if at < 0 || readAll(o.file, n[:], at) != nil {
		return "", nil, false
	}
	b := make([]byte, int(binary.LittleEndian.Uint16(n[:]))+recordSize)
	if readAll(o.file, b, at+2) != nil {
		return "", nil, false
	}
	return string(b[:len(b)-recordSize]), b[len(b)-recordSize:], true
}

func (o *oldHour) close() {
	if o.file != nil {
		o.file.Close()
	}
}

func (a *Archive) expire(hour int64) error {
	list, err := os.ReadDir(a.dir)
	if err != nil {
		return fmt.Errorf("read the minute tier: %w", err)
	}
	for _, d := range list {
		name, ok := strings.CutSuffix(d.Name(), ".min")
		if h, err := strconv.ParseInt(name, 10, 64); ok && err == nil && h < hour-archiveHours {
			if err := os.Remove(filepath.Join(a.dir, d.Name())); err != nil {
				return fmt.Errorf("delete an old hour: %w", err)
			}
		}
	}
	return nil
}

// Fill puts what the archive knows into the gaps of minutes that begin at a time.
func (a *Archive) Fill(id, metric string, fromMs int64, low, avg, high []float64) {
	if a == nil || len(avg) == 0 {
		return
	}
	for hour := fromMs / 3600_000; hour <= (fromMs+int64(len(avg)-1)*60_000)/3600_000; hour++ {
		gap := false
		for m := range minutes {
			i := int((hour*3600_000 + int64(m)*60_000 - fromMs) / 60_000)
			gap = gap || i >= 0 && i < len(avg) && math.IsNaN(avg[i])
		}
		if !gap {
			continue
		}
		rec, err := a.find(hour, Key(id, metric))
		if err != nil {
			continue // no such hour
		}
		for m := range minutes {
			i := int((hour*3600_000 + int64(m)*60_000 - fromMs) / 60_000)
			if i < 0 || i >= len(avg) || !math.IsNaN(avg[i]) {
				continue
			}
			le := binary.LittleEndian
			low[i], avg[i], high[i] = unpack(le.Uint16(rec[m*6:])), unpack(le.Uint16(rec[m*6+2:])), unpack(le.Uint16(rec[m*6+4:]))
		}
	}
}

var errNotThere = errors.New("no such series")

// find reads one record by halving the index, in place.
func (a *Archive) find(hour int64, k string) ([]byte, error) {
	f, err := os.Open(a.path(hour))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var head [headerSize]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:len(archiveMagic)]) != archiveMagic {
		return nil, errNotThere
	}
	n := int64(binary.LittleEndian.Uint64(head[len(archiveMagic):]))
	want := hash(k)
	var e [entrySize]byte
	at := func(i int64) (uint64, uint64, error) {
		_, err := f.ReadAt(e[:], int64(headerSize)+i*entrySize)
		return binary.LittleEndian.Uint64(e[:]), binary.LittleEndian.Uint64(e[8:]), err
	}
	lo, hi := int64(0), n
	for lo < hi {
		mid := (lo + hi) / 2
		h, _, err := at(mid)
		if err != nil {
			return nil, err
		}
		if h < want {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < n; lo++ {
		h, off, err := at(lo)
		if err != nil || h != want {
			break
		}
		b := make([]byte, 2+len(k)+recordSize)
		if _, err := f.ReadAt(b, int64(off)); err != nil {
			continue
		}
		if int(binary.LittleEndian.Uint16(b)) == len(k) && string(b[2:2+len(k)]) == k {
			return b[2+len(k):], nil
		}
	}
	return nil, errNotThere
}
