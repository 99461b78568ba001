package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// MaxRecord is the default limit of a RecordIO record that is read. Mesos' operator stream begins with a snapshot of the
// whole cluster, so it is generous.
const MaxRecord = 256 << 20

// MaxEvent is the size under which events that carry many elements are cut: readers in the field refuse records above
// 4 MiB.
const MaxEvent = 4 << 20

// maxHeader is the longest record header: the decimal digits of a 64-bit length.
const maxHeader = 20

// ErrRecord is wrapped by every error about a malformed or oversized record.
var ErrRecord = errors.New("bad RecordIO")

// AppendRecord appends one record: the decimal length of body, a newline, body.
func AppendRecord(dst, body []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	return append(append(dst, '\n'), body...)
}

// RecordReader reads RecordIO.
type RecordReader struct {
	r   *bufio.Reader
	max int
	buf []byte
}

// NewRecordReader reads records of up to max bytes from r; 0 stands for MaxRecord.
func NewRecordReader(r io.Reader, max int) *RecordReader {
	if max <= 0 {
		max = MaxRecord
	}
	return &RecordReader{r: bufio.NewReader(r), max: max}
}

// Next returns the next record, valid until the following call. At the end of the stream between records it returns
// io.EOF; within a record io.ErrUnexpectedEOF.
func (rr *RecordReader) Next() ([]byte, error) {
	length, err := rr.header()
	if err != nil {
		return nil, err
	}
	// A reader that was once sent a giant record need not keep the memory for ever.
	const keep = 1 << 20
	if cap(rr.buf) > keep && length <= keep {
		rr.buf = nil
	}
	// Memory is taken as the bytes arrive, so that a header alone cannot claim it.
	rr.buf = rr.buf[:0]
	for len(rr.buf) < length {
		step := min(length-len(rr.buf), max(keep, len(rr.buf)))
		start := len(rr.buf)
		rr.buf = grow(rr.buf, step)
		if _, err := io.ReadFull(rr.r, rr.buf[start:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return rr.buf, nil
}

func (rr *RecordReader) header() (int, error) {
	length, digits := 0, 0
	for {
		c, err := rr.r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && digits > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		switch {
		case c >= '0' && c <= '9':
			if digits++; digits > maxHeader {
				return 0, fmt.Errorf("%w: header is longer than %d digits", ErrRecord, maxHeader)
			}
			length = length*10 + int(c-'0')
			if length > rr.max {
				return 0, fmt.Errorf("%w: record is larger than the limit of %d bytes", ErrRecord, rr.max)
			}
		case c == '\n' && digits > 0:
			return length, nil
		case c == '\n':
			return 0, fmt.Errorf("%w: empty header", ErrRecord)
		default:
			return 0, fmt.Errorf("%w: unexpected byte %q in a header", ErrRecord, c)
		}
	}
}
