package events

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// connect opens a stream and gives its raw lines.
func connect(t *testing.T, h *Hub, query string) (lines <-chan string, closeStream func()) {
	t.Helper()
	server := httptest.NewServer(h)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", server.URL+query, nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/event-stream") || resp.ContentLength > 0 {
		t.Errorf("Content-Type %q, length %d", ct, resp.ContentLength)
	}
	out := make(chan string, 100000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(out)
		r := bufio.NewReader(resp.Body)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			out <- line
		}
	}()
	return out, func() { cancel(); resp.Body.Close(); <-done; server.Close() }
}

func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case l, ok := <-lines:
		if !ok {
			return "closed"
		}
		return l
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing came")
		return ""
	}
}

func notice(kind string) core.Notice {
	return core.Notice{Type: kind, At: 1_500_000_000_123, Fields: core.AppTerminated{AppID: "/a"}}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	h := NewHub(10, time.Hour, func() time.Time { return time.UnixMilli(0) })
	lines, stop := connect(t, h, "")
	defer stop()
	if l := next(t, lines); l != "event: event_stream_attached\r\n" {
		t.Errorf("first line %q", l)
	}
	if l := next(t, lines); !strings.HasPrefix(l, `data: {"remoteAddress":"127.0.0.1:`) || !strings.HasSuffix(l, "\"eventType\":\"event_stream_attached\",\"timestamp\":\"1970-01-01T00:00:00.000Z\"}\r\n") {
		t.Errorf("second line %q", l)
	}
	next(t, lines)
	if err := h.Publish(notice("app_terminated_event")); err != nil {
		t.Fatal(err)
	}
	got := next(t, lines) + next(t, lines) + next(t, lines)
	want := "event: app_terminated_event\r\ndata: {\"appId\":\"/a\",\"eventType\":\"app_terminated_event\",\"timestamp\":\"2017-07-14T02:40:00.123Z\"}\r\n\r\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	h := NewHub(10, time.Hour, time.Now)
	lines, stop := connect(t, h, "?event_type=b&event_type=c&plan-format=light")
	defer stop()
	for range 3 {
		next(t, lines)
	}
	for _, k := range []string{"a", "b", "a", "c"} {
		if err := h.Publish(notice(k)); err != nil {
			t.Fatal(err)
		}
	}
	if a, _, _, b := next(t, lines), next(t, lines), next(t, lines), next(t, lines); a != "event: b\r\n" || b != "event: c\r\n" {
		t.Errorf("%q then %q", a, b)
	}
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	h := NewHub(10, 10*time.Millisecond, time.Now)
	lines, stop := connect(t, h, "")
	defer stop()
	for range 3 {
		next(t, lines)
	}
	if l := next(t, lines); l != ":\r\n" {
		t.Errorf("an idle stream carries %q", l)
	}
}

// stuck is a reader that never reads.
type stuck struct {
	header http.Header
	block  chan struct{}
}

func (s *stuck) Header() http.Header         { return s.header }
func (s *stuck) WriteHeader(int)             {}
func (s *stuck) Flush()                      {}
func (s *stuck) Write(b []byte) (int, error) { <-s.block; return len(b), nil }

// TestSlowReaderIsCutOff: one reader that never reads disturbs nobody and is told by the end of its stream.
func TestSlowReaderIsCutOff(t *testing.T) {
	t.Parallel()
	h := NewHub(5, time.Hour, time.Now)
	s := &stuck{http.Header{}, make(chan struct{})}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		h.ServeHTTP(s, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
		close(done)
	}()
	for n := 0; ; n++ {
		if open, _ := h.Readers(); open == 1 {
			break
		}
		if n > 60_000 {
			t.Fatal("the reader never came")
		}
		<-time.After(time.Millisecond)
	}
	for range 20 {
		if err := h.Publish(notice("x")); err != nil {
			t.Fatal(err)
		}
	}
	if open, dropped := h.Readers(); open != 0 || dropped != 1 {
		t.Errorf("%d open, %d dropped", open, dropped)
	}
	close(s.block)
	<-done
}

func TestCloseEndsStreams(t *testing.T) {
	t.Parallel()
	h := NewHub(5, time.Hour, time.Now)
	lines, stop := connect(t, h, "")
	defer stop()
	for range 3 {
		next(t, lines)
	}
	h.Close()
	if l := next(t, lines); l != "closed" {
		t.Errorf("after Close came %q", l)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("a closed hub answers %d", w.Code)
	}
}

func TestCallbacks(t *testing.T) {
	t.Parallel()
	got := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var e struct{ EventType string }
		_ = json.Unmarshal(b, &e)
		got <- e.EventType
	}))
	defer server.Close()
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer silent.Close()
	defer close(release)
	h := NewHub(5, time.Hour, time.Now)
	for _, u := range []string{server.URL, silent.URL, server.URL} {
		if err := h.Subscribe(u); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(h.Callbacks()); n != 2 {
		t.Errorf("%d callbacks", n)
	}
	for range 5 {
		if err := h.Publish(notice("app_terminated_event")); err != nil {
			t.Fatal(err)
		}
		select {
		case k := <-got:
			if k != "app_terminated_event" {
				t.Errorf("got %q", k)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("one that never reads keeps the others from hearing")
		}
	}
	if !h.Unsubscribe(silent.URL) || h.Unsubscribe("http://nobody") {
		t.Error("Unsubscribe is wrong about what was there")
	}
	h.Close()
	if err := h.Publish(core.Notice{Type: "x", At: spec.Version(1), Fields: struct{}{}}); err != nil {
		t.Error(err)
	}
}
