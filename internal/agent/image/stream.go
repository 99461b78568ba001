package image

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// counter counts what comes from a source. Its count may be read by others.
type counter struct {
	r     io.Reader
	n     atomic.Int64
	total func(float64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	c.total(float64(n))
	return n, err
}

// windowLimit bounds the memory that a zstd stream can ask for.
const windowLimit = 128 << 20

// decompress finds out by the first bytes how a layer is compressed: gzip, zstd or not at all.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(b)
	case len(head) == 4 && head[0] == 0x28 && head[1] == 0xb5 && head[2] == 0x2f && head[3] == 0xfd:
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(windowLimit), zstd.WithDecoderMaxMemory(2*windowLimit))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// Bounds on how much bigger a layer may become than it came. gzip can't go beyond 1032.
const (
	maxRatio     = 1000
	ratioMatters = 256 << 20
)

// ahead decompresses and hashes in a goroutine of its own while its reader writes files: both of two processors work.
type ahead struct {
	full  chan []byte
	empty chan []byte
	stop  chan struct{}
	done  chan struct{}
	now   []byte // what Read has not given yet
	buf   []byte
	err   error // set before full is closed
	hash  hash.Hash
}

func readAhead(plain io.ReadCloser, from *counter, limit int64) *ahead {
	const depth, size = 4, 256 << 10
	a := &ahead{full: make(chan []byte, depth), empty: make(chan []byte, depth), stop: make(chan struct{}), done: make(chan struct{}), hash: sha256.New()}
	for range depth {
		a.empty <- make([]byte, size)
	}
	go func() {
		defer close(a.done)
		defer plain.Close()
		defer close(a.full)
		var total int64
		for {
			var b []byte
			select {
			case b = <-a.empty:
			case <-a.stop:
				a.err = io.ErrClosedPipe
				return
			}
			n, err := io.ReadFull(plain, b[:cap(b)])
			a.hash.Write(b[:n])
			if n > 0 {
				select {
				case a.full <- b[:n]:
				case <-a.stop:
					a.err = io.ErrClosedPipe
					return
				}
			}
			total += int64(n)
			switch {
			case err == nil:
			case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n > 0 && endOf(plain):
				a.err = io.EOF
				return
			default:
				a.err = err
				return
			}
			if came := from.n.Load(); total > ratioMatters && total/maxRatio > came {
				a.err = fmt.Errorf("refused: %d bytes have become %d: a compression bomb", came, total)
				return
			}
			if total > limit+limit/8+ratioMatters {
				a.err = fmt.Errorf("refused: it unpacks to more than %d bytes", limit)
				return
			}
		}
	}()
	return a
}

// endOf tells the short last block of a whole stream from one that was cut off: only the former is followed by io.EOF.
func endOf(r io.Reader) bool {
	var b [1]byte
	n, err := r.Read(b[:])
	return n == 0 && errors.Is(err, io.EOF)
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now) == 0 {
		if a.buf != nil {
			a.empty <- a.buf
			a.buf = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.now, a.buf = b, b
	}
	n := copy(p, a.now)
	a.now = a.now[n:]
	return n, nil
}

// rest reads to the end, so that the digest is that of the whole.
func (a *ahead) rest() error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{a})
	return err
}

// sum is the digest of all that was read. It is called after rest.
func (a *ahead) sum() string { return hex.EncodeToString(a.hash.Sum(nil)) }

// Close ends the goroutine.
func (a *ahead) Close() {
	close(a.stop)
	<-a.done
}
