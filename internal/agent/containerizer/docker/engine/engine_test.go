package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// serve answers every connection with the same bytes.
func serve(t *testing.T, answer string) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// The head of the request, so that the answer does not overtake it.
			r := bufio.NewReader(c)
			for {
				if line, err := r.ReadString('\n'); err != nil || line == "\r\n" {
					break
				}
			}
			_, _ = io.WriteString(c, answer)
			c.Close()
		}
	}()
	return &Client{Socket: socket}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.0 200 OK\r\nX: y\r\n\r\n"
	code, err := serve(t, head+`{"StatusCode":7}`).Wait(t.Context(), "x")
	if err != nil || code != 7 {
		t.Errorf("%d %v", code, err)
	}
	for name, answer := range map[string]string{
		"nothing": "", "not HTTP": "hello\r\n\r\n", "cut head": "HTTP/1.0 200 OK\r\nX", "no end of the head": "HTTP/1.0 200 OK\r\n" + strings.Repeat("a: b\r\n", 20_000),
		"cut body": head + `{"StatusCode"`, "no code": head + `{}`, "error": "HTTP/1.0 500 Oops\r\n\r\n" + `{"message":"it burns"}`,
	} {
		_, err := serve(t, answer).Wait(t.Context(), "x")
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if name == "error" && (!IsStatus(err, 500) || err.Error() != "it burns") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := serve(t, head+`{"Id":`).Inspect(t.Context(), "x"); err == nil {
		t.Error("an answer that is cut short was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := serve(t, head).Wait(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 2, 'h', 'i', 2, 0, 0, 0, 0, 0, 0, 1, '!'})
	f.Add([]byte{1, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_ = Frames(bytes.NewReader(b), func(_ byte, data []byte) { n += len(data) })
		if n > len(b) {
			t.Errorf("%d bytes came out of %d", n, len(b))
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 UPGRADED\r\nContent-Type: x\r\n\r\nrest"))
	f.Fuzz(func(t *testing.T, b []byte) {
		status, err := readHead(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && (status < 100 || status > 999) {
			t.Errorf("status %d", status)
		}
	})
}

func TestSince(t *testing.T) {
	t.Parallel()
	if s := pad(7); s != "000000007" {
		t.Error(s)
	}
	if b, err := json.Marshal(Command{Cmd: []string{"a"}}); err != nil || strings.Contains(string(b), "ConsoleSize") {
		t.Errorf("%s %v", b, err)
	}
}
