package containerd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
)

// codeUnimplemented is gRPC's: the server does not have that service.
const codeUnimplemented = 12

// statusError is an answer whose status is not OK.
type statusError struct {
	code    int
	message string
}

func (e *statusError) Error() string { return fmt.Sprintf("%s (gRPC status %d)", e.message, e.code) }

// unimplemented reports whether the server does not have the service that was called.
func unimplemented(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == codeUnimplemented
}

// maxMessage bounds one message: containerd's own limit is 16 MB.
const maxMessage = 32 << 20

// conn calls gRPC methods of one server on a unix socket.
type conn struct{ http *http.Client }

func dial(socket string) *conn {
	var both http.Protocols
	both.SetUnencryptedHTTP2(true)
	return &conn{&http.Client{Transport: &http.Transport{
		Protocols: &both, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *conn) close() { c.http.CloseIdleConnections() }

// stream calls a method and hands every message of the answer to each, which must not keep it. An empty in is the request.
func (c *conn) stream(ctx context.Context, method, namespace string, in proto.Message, each func(data []byte) error) error {
	data, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(append(body, data...)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	if namespace != "" {
		req.Header.Set("containerd-namespace", namespace)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: the server answers %s: it does not speak gRPC", method, resp.Status)
	}
	var header [5]byte
	var buf bytes.Buffer
	for {
		if _, err := io.ReadFull(resp.Body, header[:]); errors.Is(err, io.EOF) {
			return status(resp)
		} else if err != nil {
			return fmt.Errorf("%s: read the answer: %w", method, err)
		}
		size := binary.BigEndian.Uint32(header[1:])
		if header[0] != 0 || size > maxMessage {
			return fmt.Errorf("%s: a message of %d bytes (compressed: %d) is not taken", method, size, header[0])
		}
		buf.Reset()
		if _, err := io.CopyN(&buf, resp.Body, int64(size)); err != nil {
			return fmt.Errorf("%s: read the answer: %w", method, err)
		}
		if err := each(buf.Bytes()); err != nil {
			return err
		}
	}
}

// call calls a method that gives one message.
func (c *conn) call(ctx context.Context, method, namespace string, in, out proto.Message) error {
	return c.stream(ctx, method, namespace, in, func(data []byte) error { return proto.Unmarshal(data, out) })
}

// status reads how a call has ended, from the trailer or, when there was no message, the header.
func status(resp *http.Response) error {
	from := resp.Trailer
	if from.Get("Grpc-Status") == "" {
		from = resp.Header
	}
	code, err := strconv.Atoi(from.Get("Grpc-Status"))
	if err != nil {
		return errors.New("the answer ended without a status: the runtime has gone")
	}
	if code == 0 {
		return nil
	}
	message := from.Get("Grpc-Message")
	if text, err := url.PathUnescape(message); err == nil {
		message = text
	}
	return &statusError{code, message}
}
