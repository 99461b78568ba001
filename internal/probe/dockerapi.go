package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// dockerAPI is a thin client of the Engine's API over its socket. Paths carry no version, so the Engine answers in its own,
// whatever that is: what is read here has been there since API 1.22 (Docker 1.10).
type dockerAPI struct {
	socket string
	http   *http.Client
}

func newDockerAPI(socket string) *dockerAPI {
	d := &dockerAPI{socket: socket}
	d.http = &http.Client{Transport: &http.Transport{DialContext: d.dial, MaxIdleConns: 4, IdleConnTimeout: time.Minute}}
	return d
}

func (d *dockerAPI) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", d.socket)
}

// dockerError is an answer of the Engine that is not a success.
type dockerError struct {
	status  int
	message string
}

func (e *dockerError) Error() string { return e.message }

// maxDockerBody bounds an answer that is read whole.
const maxDockerBody = 32 << 20

// open sends a request and gives the answer's body when it is a success.
func (d *dockerAPI) open(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(b)
	}
	u := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), in)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask Docker: %w", err)
	}
	if resp.StatusCode >= 400 || resp.StatusCode == http.StatusNotModified {
		defer resp.Body.Close()
		return nil, dockerFailure(resp)
	}
	return resp, nil
}

func dockerFailure(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var m struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(b, &m) != nil || m.Message == "" {
		m.Message = strings.TrimSpace(string(b[:min(len(b), 500)]))
	}
	if m.Message == "" {
		m.Message = resp.Status
	}
	return &dockerError{resp.StatusCode, m.Message}
}

// call sends a request and reads its answer into out, when there is one.
func (d *dockerAPI) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	resp, err := d.open(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxDockerBody))
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDockerBody)).Decode(out); err != nil {
		return fmt.Errorf("read Docker's answer to %s: %w", path, err)
	}
	return nil
}

// hijack sends a request after which the connection is a raw stream (attach, exec).
func (d *dockerAPI) hijack(ctx context.Context, path string, body any) (net.Conn, *bufio.Reader, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	conn, err := d.dial(ctx, "", "")
	if err != nil {
		return nil, nil, fmt.Errorf("connect to Docker: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	req, _ := http.NewRequest(http.MethodPost, "http://docker"+path, bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	err = req.Write(conn)
	r := bufio.NewReader(conn)
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(r, req) //nolint:bodyclose // the connection is closed, or the caller's
	}
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols && resp.StatusCode != http.StatusOK {
		err = dockerFailure(resp)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("open a stream from Docker: %w", err)
	}
	return conn, r, nil
}

// demux splits the Engine's framed output (8 bytes of header: stream, 0, 0, 0, length) and calls each with every piece.
func demux(r io.Reader, each func(stream uint32, data []byte) error) error {
	var header [8]byte
	buf := make([]byte, 32<<10)
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
		size := int(header[4])<<24 | int(header[5])<<16 | int(header[6])<<8 | int(header[7])
		stream := uint32(header[0])
		if stream != 2 {
			stream = 1
		}
		for size > 0 {
			n, err := r.Read(buf[:min(size, len(buf))])
			if n > 0 {
				if err := each(stream, buf[:n]); err != nil {
					return err
				}
				size -= n
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
	}
}
