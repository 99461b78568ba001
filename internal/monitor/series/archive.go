package series

import (
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
	minutes      = 60
	recordSize   = minutes * 3 * 2
	entrySize    = 16
	headerSize   = len(archiveMagic) + 8
)

// Series is one series to archive.
type Series struct {
	ID, Metric string
	Ring       *Ring
}

// OpenArchive uses a directory, which it makes.
func OpenArchive(dir string) (*Archive, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the minute tier: %w", err)
	}
	return &Archive{dir}, nil
}

func (a *Archive) path(hour int64) string {
	return filepath.Join(a.dir, strconv.FormatInt(hour, 10)+".min")
}

func key(id, metric string) string { return id + "\x00" + metric }

func hash(k string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, k)
	return h.Sum64()
}

// Collect sums up the minutes of an hour (numbered from 1970) of one series, for Write. It is called while the ring does
// not change.
func Collect(s Series, hour int64) []byte {
	low, avg, high := s.Ring.Minutes(hour*3600_000, minutes)
	any := false
	b := make([]byte, 0, recordSize)
	for i := range minutes {
		any = any || !math.IsNaN(avg[i])
		b = binary.LittleEndian.AppendUint16(b, pack(low[i]))
		b = binary.LittleEndian.AppendUint16(b, pack(avg[i]))
		b = binary.LittleEndian.AppendUint16(b, pack(high[i]))
	}
	if !any {
		return nil
	}
	return b
}

// Write writes an hour: keys (of Key) to what Collect gave. Minutes that an earlier file of the same hour knows and the new
// ones do not (the monitor was restarted) are kept.
func (a *Archive) Write(hour int64, records map[string][]byte) error {
	if a == nil {
		return nil
	}
	if old, err := os.ReadFile(a.path(hour)); err == nil {
		merge(records, old)
	}
	type entry struct {
		hash uint64
		key  string
	}
	list := make([]entry, 0, len(records))
	for k := range records {
		list = append(list, entry{hash(k), k})
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.key, b.key)) })
	head := append([]byte(archiveMagic), binary.LittleEndian.AppendUint64(nil, uint64(len(list)))...)
	var body []byte
	at := uint64(headerSize + entrySize*len(list))
	for _, e := range list {
		head = binary.LittleEndian.AppendUint64(head, e.hash)
		head = binary.LittleEndian.AppendUint64(head, at+uint64(len(body)))
		body = binary.LittleEndian.AppendUint16(body, uint16(len(e.key)))
		body = append(append(body, e.key...), records[e.key]...)
	}
	f, err := os.CreateTemp(a.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write the minute tier: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(head)
	if err == nil {
		_, err = f.Write(body)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), a.path(hour))
	}
	if err != nil {
		return fmt.Errorf("write the minute tier: %w", err)
	}
	return a.expire(hour)
}

// Key names a series in an archive.
func Key(id, metric string) string { return key(id, metric) }

func merge(records map[string][]byte, old []byte) {
	if len(old) < headerSize || string(old[:len(archiveMagic)]) != archiveMagic {
		return
	}
	n := binary.LittleEndian.Uint64(old[len(archiveMagic):])
	if n > uint64(len(old)/entrySize) {
		return
	}
	for i := range int(n) {
		off := binary.LittleEndian.Uint64(old[headerSize+i*entrySize+8:])
		k, rec, ok := recordAt(old, off)
		if !ok {
			continue
		}
		now, there := records[k]
		if !there {
			records[k] = slices.Clone(rec)
			continue
		}
		for m := 0; m < recordSize; m += 2 {
			if binary.LittleEndian.Uint16(now[m:]) == missing {
				copy(now[m:m+2], rec[m:m+2])
			}
		}
	}
}

func recordAt(b []byte, off uint64) (k string, rec []byte, ok bool) {
	if off+2 > uint64(len(b)) {
		return "", nil, false
	}
	n := uint64(binary.LittleEndian.Uint16(b[off:]))
	if off+2+n+recordSize > uint64(len(b)) {
		return "", nil, false
	}
	return string(b[off+2 : off+2+n]), b[off+2+n : off+2+n+recordSize], true
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
		rec, err := a.find(hour, key(id, metric))
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
