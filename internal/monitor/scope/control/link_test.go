package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// fakeProbe speaks as Scope's probe does: it answers calls with what answer says, and opens pipes. The real one is run by
// test/monitoring; this one can misbehave.
type fakeProbe struct {
	t      *testing.T
	link   *Link
	url    string
	answer func(p *fakeProbe, seq uint64, r Request) string // JSON, or "" for no answer
	conn   *websocket.Conn
	wg     sync.WaitGroup

	mu    sync.Mutex
	asked []string
}

func newFakeProbe(t *testing.T, answer func(*fakeProbe, uint64, Request) string) *fakeProbe {
	t.Helper()
	p := &fakeProbe{t: t, link: NewLink(), answer: answer}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) {
		if conn, err := websocket.Accept(w, r, nil); err == nil {
			_ = p.link.Serve(r.Context(), conn)
		}
	})
	mux.HandleFunc("GET /pipe/{id}", func(w http.ResponseWriter, r *http.Request) {
		arrival := p.link.Arrive(r.PathValue("id"))
		if arrival == nil {
			http.NotFound(w, r)
			return
		}
		defer arrival.Release()
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		arrival.Serve(r.Context(), conn)
	})
	srv := httptest.NewServer(mux)
	p.url = "ws" + strings.TrimPrefix(srv.URL, "http")
	p.connect()
	t.Cleanup(func() {
		_ = p.conn.CloseNow()
		p.wg.Wait()
		srv.CloseClientConnections()
		srv.Close()
	})
	return p
}

func (p *fakeProbe) connect() {
	p.t.Helper()
	conn, _, err := websocket.Dial(p.t.Context(), p.url+"/ws", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.conn = conn
	p.wg.Go(func() { p.serve(conn) })
	p.until("a control connection", p.link.Connected)
}

func (p *fakeProbe) serve(conn *websocket.Conn) {
	for {
		var head, body struct {
			Request *header
			Value   Request
		}
		for _, into := range []any{&head, &body} {
			_, data, err := conn.Read(context.WithoutCancel(p.t.Context()))
			if err != nil {
				return
			}
			if err := json.Unmarshal(data, into); err != nil {
				p.t.Error(err)
			}
		}
		if head.Request == nil || head.Request.ServiceMethod != "control.Handle" {
			p.t.Errorf("%+v", head)
			return
		}
		p.mu.Lock()
		p.asked = append(p.asked, body.Value.Control+" "+body.Value.NodeID)
		p.mu.Unlock()
		if text := p.answer(p, head.Request.Seq, body.Value); text != "" {
			p.say(fmt.Sprintf(`{"Request":null,"Response":{"ServiceMethod":"control.Handle","Seq":%d,"Error":""},"Value":null}`, head.Request.Seq))
			p.say(`{"Request":null,"Response":null,"Value":` + text + `}`)
		}
	}
}

func (p *fakeProbe) say(text string) {
	_ = p.conn.Write(context.WithoutCancel(p.t.Context()), websocket.MessageText, []byte(text))
}

// open dials a pipe, as a probe does before it answers.
func (p *fakeProbe) open(id string) (*websocket.Conn, int) {
	conn, resp, err := websocket.Dial(context.WithoutCancel(p.t.Context()), p.url+"/pipe/"+id, nil)
	if err != nil {
		if resp == nil {
			return nil, 0
		}
		return nil, resp.StatusCode
	}
	return conn, http.StatusSwitchingProtocols
}

func (p *fakeProbe) until(what string, cond func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited for: %s", what)
		}
	}
}

// streams makes the two sides of one of our pipes: what the page has, and what Perform is given.
func streams() (page, ours *pipe.Pipe) {
	var a, b *pipe.Mux
	a = pipe.NewMux(func(m *probev1.Pipe) error { b.Handle(m); return nil })
	b = pipe.NewMux(func(m *probev1.Pipe) error { a.Handle(m); return nil })
	return a.Open(1), b.Open(1)
}

func TestCalls(t *testing.T) {
	t.Parallel()
	p := newFakeProbe(t, func(_ *fakeProbe, _ uint64, r Request) string {
		switch r.Control {
		case "bad":
			return `{"error":"no \u001b[31msuch container"}`
		case "args":
			return `{"value":"` + r.ControlArgs["a"] + `"}`
		case "odd":
			return `[1]`
		}
		return `{}`
	})
	ask := func(control string, args ...*probev1.Attr) *probev1.Response {
		return p.link.Perform(t.Context(), &probev1.Request{Verb: "stop", Args: args}, "n", control, nil)
	}
	if r := ask("docker_stop_container"); r.Code != "" || string(r.Body) != `{"message":"done"}` {
		t.Errorf("%v", r)
	}
	if r := ask("args", &probev1.Attr{Key: "a", Value: "hello"}); string(r.Body) != `{"message":"hello"}` {
		t.Errorf("%v", r)
	}
	if r := ask("bad"); r.Code != "probe_failed" || r.Message != "no \uFFFD[31msuch container" {
		t.Errorf("%v", r)
	}
	if r := ask("odd"); r.Code != "probe_failed" {
		t.Errorf("%v", r)
	}
	if r := ask(""); r.Code != "not_found" {
		t.Errorf("%v", r)
	}
	var wg sync.WaitGroup
	for range 50 { // answers find their calls
		wg.Go(func() {
			if r := ask("args", &probev1.Attr{Key: "a", Value: "x"}); string(r.Body) != `{"message":"x"}` {
				t.Errorf("%v", r)
			}
		})
	}
	wg.Wait()
	if !slices.Contains(p.asked, "docker_stop_container n") {
		t.Errorf("%q", p.asked)
	}
}

func TestAProbeThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	p := newFakeProbe(t, func(*fakeProbe, uint64, Request) string { return "" })
	r := p.link.Perform(t.Context(), &probev1.Request{Verb: "stop", DeadlineMs: time.Now().Add(time.Second).UnixMilli()}, "n", "c", nil)
	if r.Code != "timeout" {
		t.Errorf("%v", r)
	}
	// Its connection is lost while it is asked.
	done := make(chan *probev1.Response)
	go func() { done <- p.link.Perform(t.Context(), &probev1.Request{Verb: "stop"}, "n", "c", nil) }()
	p.until("the question", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.asked) == 2 })
	_ = p.conn.CloseNow()
	if r := <-done; r.Code != "probe_gone" {
		t.Errorf("%v", r)
	}
	p.until("the end of the connection", func() bool { return !p.link.Connected() })
	if r := p.link.Perform(t.Context(), &probev1.Request{Verb: "stop"}, "n", "c", nil); r.Code != "probe_gone" {
		t.Errorf("%v", r)
	}
}

// What a probe says without being asked ends its connection, or is let drop.
func TestAProbeThatTalksOutOfTurn(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"no JSON": "\x00", "no answer": `{"Request":{"ServiceMethod":"control.Handle","Seq":1}}`, "too much": `{"Value":"` + strings.Repeat("x", maxMessage) + `"}`} {
		p := newFakeProbe(t, func(*fakeProbe, uint64, Request) string { return `{}` })
		p.say(text)
		p.until(name+": the end", func() bool { return !p.link.Connected() })
		p.connect()
		p.say(`{"Response":{"Seq":77}}`)
		p.say(`{"Value":{"error":"to nobody"}}`)
		if r := p.link.Perform(t.Context(), &probev1.Request{Verb: "stop"}, "n", "c", nil); r.Code != "" {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestAStreamGoesBothWaysAndEnds(t *testing.T) {
	t.Parallel()
	opened := make(chan *websocket.Conn, 1)
	p := newFakeProbe(t, func(p *fakeProbe, _ uint64, r Request) string {
		if r.Control == "resize" {
			return `{}`
		}
		conn, _ := p.open("pipe-1") // before the answer, as the real one does
		opened <- conn
		return `{"pipe":"pipe-1","raw_tty":true,"resize_tty_control":"resize"}`
	})
	page, ours := streams()
	done := make(chan *probev1.Response)
	go func() {
		done <- p.link.Perform(t.Context(), &probev1.Request{Verb: "exec", Args: []*probev1.Attr{{Key: "cols", Value: "80"}, {Key: "rows", Value: "24"}}}, "n", "docker_exec_container", ours)
	}()
	conn := <-opened
	if err := page.Send(t.Context(), pipe.Stdin, []byte("ls\n")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := conn.Read(t.Context()); err != nil || string(data) != "ls\n" {
		t.Errorf("%q %v", data, err)
	}
	if err := page.Send(t.Context(), pipe.Control, []byte(`{"type":"resize","cols":100,"rows":40}`)); err != nil {
		t.Fatal(err)
	}
	p.until("both sizes", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(slices.DeleteFunc(slices.Clone(p.asked), func(s string) bool { return s != "resize n" })) == 2
	})
	// The network hiccups: the probe dials the same pipe again.
	_ = conn.CloseNow()
	var status int
	p.until("the pipe again", func() bool { conn, status = p.open("pipe-1"); return conn != nil })
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte("last words")); err != nil {
		t.Fatal(err)
	}
	p.link.End("pipe-1")
	if _, data, err := page.Recv(t.Context()); err != nil || string(data) != "last words" {
		t.Errorf("%q %v", data, err)
	}
	_ = conn.CloseNow()
	if r := <-done; r.Code != "" || string(r.Body) != `{"code":-1}` {
		t.Errorf("%v", r)
	}
	if conn, status = p.open("pipe-1"); conn != nil || status != http.StatusNotFound {
		t.Errorf("a pipe that is over: %d", status)
	}
}

// The page leaves: the probe is told that the pipe is over, at which it ends what it had started.
func TestAPageThatLeaves(t *testing.T) {
	t.Parallel()
	opened := make(chan *websocket.Conn, 1)
	p := newFakeProbe(t, func(p *fakeProbe, _ uint64, _ Request) string {
		conn, _ := p.open("pipe-1")
		opened <- conn
		return `{"pipe":"pipe-1"}`
	})
	page, ours := streams()
	done := make(chan *probev1.Response)
	go func() {
		done <- p.link.Perform(t.Context(), &probev1.Request{Verb: "logs"}, "n", "docker_attach_container", ours)
	}()
	conn := <-opened
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte("line\n")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := page.Recv(t.Context()); err != nil || string(data) != "line\n" {
		t.Errorf("%q %v", data, err)
	}
	page.Close()
	if r := <-done; r.Code != "" {
		t.Errorf("%v", r)
	}
	if _, _, err := conn.Read(t.Context()); err == nil {
		t.Error("the pipe's socket is open")
	}
	if c, status := p.open("pipe-1"); c != nil || status != http.StatusNotFound {
		t.Errorf("%d", status)
	}
}

// Pipes that nobody has asked for are not taken, and one that was opened beside the one that was named is shut.
func TestPipesThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	stray := make(chan *websocket.Conn, 2)
	p := newFakeProbe(t, func(p *fakeProbe, _ uint64, r Request) string {
		if r.Control == "plain" {
			return `{"pipe":"never-opened"}`
		}
		for _, id := range []string{"other", "mine"} {
			conn, _ := p.open(id)
			stray <- conn
		}
		return `{"pipe":"mine"}`
	})
	if c, status := p.open("out-of-the-blue"); c != nil || status != http.StatusNotFound {
		t.Errorf("%d", status)
	}
	// An answer that names a pipe where none was asked for opens none.
	if r := p.link.Perform(t.Context(), &probev1.Request{Verb: "scope~x"}, "n", "plain", nil); r.Code != "" {
		t.Errorf("%v", r)
	}
	if p.link.Arrive("never-opened") != nil {
		t.Error("a pipe is expected that nobody listens to")
	}
	page, ours := streams()
	done := make(chan *probev1.Response)
	go func() { done <- p.link.Perform(t.Context(), &probev1.Request{Verb: "exec"}, "n", "c", ours) }()
	other, mine := <-stray, <-stray
	if other == nil || mine == nil {
		t.Fatal("a pipe was not taken while something was asked")
	}
	if _, _, err := other.Read(t.Context()); err == nil {
		t.Error("the stray one is open")
	}
	if r := p.link.Perform(t.Context(), &probev1.Request{Verb: "exec", Argv: []string{"id"}}, "n", "c", ours); r.Code != "bad_request" {
		t.Errorf("%v", r)
	}
	page.Close()
	<-done
	_ = mine.CloseNow()
	_ = other.CloseNow()
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	if len(p.link.pipes) != 0 || p.link.opening != 0 {
		t.Errorf("%d pipes, %d opening", len(p.link.pipes), p.link.opening)
	}
}
