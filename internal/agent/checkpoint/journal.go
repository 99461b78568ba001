package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
)

// A journal begins with 8 bytes of magic and 8 of salt, and goes on with batches:
//
//	4 bytes of the salt, 4 bytes length of the body, 4 bytes CRC-32C of the salt and the body, body
//
// The salt is random, so that nothing which a task has written into its own description can pass for a batch when the reader
// looks for what follows a damaged one.
//
// and a body is a sequence of operations:
//
//	1 byte kind, uvarint length of path, path, uvarint offset, uvarint length of data, data
const (
	journalMagic  = "OCKJRNL2"
	journalHeader = len(journalMagic) + len(salt{})
	batchHeader   = 12
	// maxBatch bounds what a corrupt length may make the reader allocate.
	maxBatch = 256 << 20
)

type salt [8]byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn: the journal goes on with bytes that are no whole batch.
var errTorn = errors.New("torn batch")

func (s salt) header() []byte { return append([]byte(journalMagic), s[:]...) }

func (s salt) checksum(body []byte) uint32 {
	return crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, body)
}

// nextBatch tells where the next whole batch begins after the one at the beginning of data, which is none; -1 for nowhere.
func (s salt) nextBatch(data []byte) int {
	for at := 1; at < len(data); at++ {
		i := bytes.Index(data[at:], s[:4])
		if i < 0 {
			return -1
		}
		at += i
		if _, _, err := s.decodeBatch(data[at:]); !errors.Is(err, errTorn) {
			return at
		}
	}
	return -1
}

type opKind byte

const (
	opPut    opKind = 1
	opAppend opKind = 2
	opRemove opKind = 3
	opLink   opKind = 4
)

// Op is one change below the meta directory. Put, Append, Remove and Link make them.
type Op struct {
	kind   opKind
	path   string
	offset int64
	data   []byte
}

// Put replaces a file by data.
func Put(path string, data []byte) Op { return Op{kind: opPut, path: path, data: data} }

// Append adds one record to the end of a file.
func Append(path string, record []byte) Op { return Op{kind: opAppend, path: path, data: record} }

// Remove deletes a file or a tree.
func Remove(path string) Op { return Op{kind: opRemove, path: path} }

// Link makes or replaces a symbolic link.
func Link(path, target string) Op { return Op{kind: opLink, path: path, data: []byte(target)} }

func appendOp(dst []byte, op Op) []byte {
	dst = append(dst, byte(op.kind))
	dst = binary.AppendUvarint(dst, uint64(len(op.path)))
	dst = append(dst, op.path...)
	dst = binary.AppendUvarint(dst, uint64(op.offset))
	dst = binary.AppendUvarint(dst, uint64(len(op.data)))
	return append(dst, op.data...)
}

// encodeBatch appends the batch to dst[:0].
func (s salt) encodeBatch(dst []byte, ops []Op) []byte {
	dst = append(dst[:0], make([]byte, batchHeader)...)
	for _, op := range ops {
		dst = appendOp(dst, op)
	}
	body := dst[batchHeader:]
	copy(dst, s[:4])
	binary.LittleEndian.PutUint32(dst[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[8:], s.checksum(body))
	return dst
}

// decodeBatch reads the batch at the beginning of data and tells how long it is. errTorn: there is no whole batch.
func (s salt) decodeBatch(data []byte) (ops []Op, size int, err error) {
	if len(data) < batchHeader || !bytes.Equal(data[:4], s[:4]) {
		return nil, 0, errTorn
	}
	n := int64(binary.LittleEndian.Uint32(data[4:]))
	if n > maxBatch || int64(len(data)) < batchHeader+n {
		return nil, 0, errTorn
	}
	body := data[batchHeader : batchHeader+n]
	if s.checksum(body) != binary.LittleEndian.Uint32(data[8:]) {
		return nil, 0, errTorn
	}
	for len(body) > 0 {
		var op Op
		op, body, err = decodeOp(body)
		if err != nil {
			return nil, 0, err
		}
		ops = append(ops, op)
	}
	return ops, int(batchHeader + n), nil
}

func decodeOp(b []byte) (Op, []byte, error) {
	op := Op{kind: opKind(b[0])}
	if op.kind < opPut || op.kind > opLink {
		return op, nil, fmt.Errorf("unknown operation %d in a journal: was it written by a later version?", op.kind)
	}
	path, b, err := decodeBytes(b[1:])
	if err != nil {
		return op, nil, err
	}
	offset, n := binary.Uvarint(b)
	if n <= 0 || offset > 1<<62 {
		return op, nil, errors.New("an operation of a journal has no offset")
	}
	if !filepath.IsLocal(string(path)) {
		return op, nil, fmt.Errorf("an operation of a journal is about %q, which is not below the meta directory", path)
	}
	data, b, err := decodeBytes(b[n:])
	if err != nil {
		return op, nil, err
	}
	op.path, op.offset, op.data = string(path), int64(offset), data
	return op, b, nil
}

func decodeBytes(b []byte) (value, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, errors.New("an operation of a journal is longer than its batch")
	}
	return b[n : n+int(size)], b[n+int(size):], nil
}

// coalesce gives a shorter sequence of operations with the same result: what is replaced or removed later is left out, and
// what is appended to a file is put together. The operations are not changed.
func coalesce(ops []Op) []Op {
	out := make([]Op, 0, len(ops))
	last := make(map[string]int, len(ops)) // of a path, its operation in out
	gone := make([]bool, 0, len(ops))
	add := func(op Op) {
		last[op.path] = len(out)
		out, gone = append(out, op), append(gone, false)
	}
	for _, op := range ops {
		i, there := last[op.path]
		switch op.kind {
		case opPut, opLink:
			if there && out[i].kind != opRemove {
				gone[i] = true
			}
			add(op)
		case opAppend:
			if there && (out[i].kind == opPut || out[i].kind == opAppend) && out[i].offset+int64(len(out[i].data)) == op.offset {
				data := out[i].data
				out[i].data = append(data[:len(data):len(data)], op.data...)
				continue
			}
			add(op)
		case opRemove:
			for path, i := range last {
				if out[i].kind != opRemove && below(path, op.path) {
					gone[i] = true
					delete(last, path)
				}
			}
			add(op)
		}
	}
	kept := out[:0]
	for i, op := range out {
		if !gone[i] {
			kept = append(kept, op)
		}
	}
	return kept
}
