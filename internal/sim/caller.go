package sim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// sentCall is a call that awaits its answer.
type sentCall struct {
	sentAt   int64 // when it was queued
	intended int64 // when the task should have been launched whose TASK_RUNNING it acknowledges; 0 for all other calls
	ack      bool
}

// caller POSTs calls on one keep-alive connection without waiting for the answers to earlier ones (HTTP/1.1 pipelining;
// the server still answers each). It is a client whose own cost is as small as it can be, so that a measurement on one
// machine is of the server.
type caller struct {
	conn net.Conn
	head []byte // of every request, up to the value of Content-Length
	// answered is told the status of each answer, from the goroutine that reads them; it is 0 if the connection ends before.
	answered func(call sentCall, status int)

	mu       sync.Mutex
	pending  []byte
	spare    []byte
	inflight []sentCall // oldest first, from answers on
	answers  int        // how many of inflight were answered
	writing  bool
	err      error
	writers  sync.WaitGroup
}

// dialCaller connects to address. header is the rest of the request's head, each line ending in CRLF.
func dialCaller(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), address, path, header string, answered func(sentCall, int)) (*caller, error) {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dialling the master: %w", err)
	}
	return &caller{conn: conn, answered: answered, head: []byte("POST " + path + " HTTP/1.1\r\nHost: " + address + "\r\n" + header + "Content-Length: ")}, nil
}

// post queues a call, whose sentAt it sets.
func (c *caller) post(body []byte, call sentCall) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	if c.pending == nil {
		c.pending, c.spare = c.spare[:0], nil
	}
	c.pending = append(c.pending, c.head...)
	c.pending = strconv.AppendInt(c.pending, int64(len(body)), 10)
	c.pending = append(c.pending, "\r\n\r\n"...)
	c.pending = append(c.pending, body...)
	call.sentAt = now()
	c.inflight = append(c.inflight, call)
	if !c.writing {
		c.writing = true
		c.writers.Add(1)
		go c.write()
	}
	return true
}

func (c *caller) write() {
	defer c.writers.Done()
	for {
		c.mu.Lock()
		batch := c.pending
		c.pending = nil
		if len(batch) == 0 || c.err != nil {
			c.writing = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		_ = c.conn.SetWriteDeadline(time.Now().Add(time.Minute))
		_, err := c.conn.Write(batch)
		c.mu.Lock()
		if cap(batch) <= 1<<20 {
			c.spare = batch[:0]
		}
		if err != nil && c.err == nil {
			c.err = err
			c.conn.Close()
		}
		c.mu.Unlock()
	}
}

// run reads answers until the connection ends or ctx is done.
func (c *caller) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(c.conn, 32<<10)
	var err error
	for err == nil {
		var status int
		if status, err = readAnswer(r); err == nil {
			err = c.answer(status)
		}
	}
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	left := c.inflight[c.answers:]
	c.inflight, c.answers = nil, 0
	c.mu.Unlock()
	for _, call := range left {
		c.answered(call, 0)
	}
	c.conn.Close()
	c.writers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *caller) answer(status int) error {
	c.mu.Lock()
	if c.answers == len(c.inflight) {
		c.mu.Unlock()
		return errors.New("the server answered a call that was not made")
	}
	call := c.inflight[c.answers]
	c.answers++
	switch {
	case c.answers == len(c.inflight):
		c.inflight, c.answers = c.inflight[:0], 0
	case c.answers >= 1024 && 2*c.answers >= len(c.inflight):
		c.inflight = c.inflight[:copy(c.inflight, c.inflight[c.answers:])]
		c.answers = 0
	}
	c.mu.Unlock()
	c.answered(call, status)
	return nil
}

var contentLength = []byte("content-length:")

// readAnswer reads one answer that has a Content-Length and throws its body away.
func readAnswer(r *bufio.Reader) (status int, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("not an HTTP answer: %.40q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, fmt.Errorf("not an HTTP answer: %.40q", line)
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return 0, fmt.Errorf("bad Content-Length: %w", err)
			}
		}
	}
	if length < 0 {
		return 0, errors.New("an answer without Content-Length")
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return status, err
}
