package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// Terminals: the session outlives its socket for a while, so that a page that lost its network comes back to its shell.
const (
	detachedFor  = 60 * time.Second
	idleFor      = 15 * time.Minute
	maxTerminals = 500
)

type terminal struct {
	id    string
	who   identity
	node  string
	call  *call
	cmd   []string
	bytes int64
	from  string
	out   *termOutput

	mu       sync.Mutex
	detached time.Time
	active   time.Time
	why      string // it was ended by the monitor
	exit     json.RawMessage
	err      error
	over     chan struct{}
}

type terminals struct {
	mu   sync.Mutex
	byID map[string]*terminal
	wg   sync.WaitGroup
}

func newTerminals() *terminals { return &terminals{byID: map[string]*terminal{}} }

// run ends terminals that nobody has come back to, or that nobody uses.
func (t *terminals) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.mu.Lock()
			for _, x := range t.byID {
				x.stop("the monitor has ended")
			}
			t.mu.Unlock()
			t.wg.Wait()
			return nil
		case now := <-tick.C:
			t.mu.Lock()
			for _, x := range t.byID {
				x.mu.Lock()
				left, idle := x.out.alone() && now.Sub(x.detached) > detachedFor, now.Sub(x.active) > idleFor
				x.mu.Unlock()
				switch {
				case left:
					x.stop("its page has gone")
				case idle:
					x.stop("nobody has used it for a quarter of an hour")
				}
			}
			t.mu.Unlock()
		}
	}
}

// start opens a terminal and reads its output for as long as it lives.
func (m *Monitor) startTerminal(r *http.Request, who identity) (*terminal, error) {
	q := r.URL.Query()
	id := q.Get("id")
	probe, _, kind, offered, err := m.target(id)
	if err != nil {
		return nil, err
	}
	verb := "exec"
	if kind == topology.KindHost {
		verb = "host-exec"
	}
	if q.Get("attach") == "1" {
		verb = "attach"
	}
	d := m.controlOf(verb)
	switch {
	case who.role < d.role:
		err = fail("forbidden", "role "+who.role.String()+" may not open this shell", "it needs the role "+d.role.String())
	case verb == "host-exec" && !slices.Contains(offered, verb):
		err = fail("forbidden", "the probe on this host does not allow a host shell", "start the probe with --policy=…,host-exec to allow it")
	case !slices.Contains(offered, verb):
		err = fail("conflict", "this node does not offer a shell now", "its state or the probe's policy does not allow it")
	}
	m.terms.mu.Lock()
	full := len(m.terms.byID) >= maxTerminals
	m.terms.mu.Unlock()
	if err == nil && full {
		err = fail("too_many", "too many terminals are open", "close some")
	}
	argv := q["cmd"]
	if err == nil && (len(argv) > 100 || len(strings.Join(argv, " ")) > 8192) {
		err = fail("bad_request", "the command is too long", "")
	}
	if err != nil {
		m.record(r, who, "exec", id, outcome(err), asAPI(err).Message, 0)
		return nil, err
	}
	args := map[string]string{"tty": cmpOr(q.Get("tty"), "1"), "cols": q.Get("cols"), "rows": q.Get("rows")}
	c, err := m.probes.begin(m.stopping, probe, request{verb: verb, node: id, who: who, args: args, argv: argv, piped: true})
	if err != nil {
		m.record(r, who, "exec", id, "failed", asAPI(err).Message, 0)
		return nil, err
	}
	m.record(r, who, verb+".start", id, "ok", strings.Join(argv, " "), 0)
	now := time.Now()
	t := &terminal{id: secret("x-")[:24], who: who, node: id, call: c, cmd: argv, from: clientAddr(r), out: newTermOutput(), over: make(chan struct{}), active: now, detached: now}
	m.terms.mu.Lock()
	m.terms.byID[t.id] = t
	m.terms.mu.Unlock()
	// It outlives its sockets, but not the right to it.
	leave := m.accounts.whileStill(who, func() { go t.stop("who opened it may no longer") })
	m.terms.wg.Go(func() {
		defer leave()
		t.read(m.stopping)
		m.terms.mu.Lock()
		delete(m.terms.byID, t.id)
		m.terms.mu.Unlock()
		ended, detail := outcome(t.err), string(t.exit)
		t.mu.Lock()
		if t.why != "" {
			ended, detail = "ok", t.why
		}
		t.mu.Unlock()
		m.record(r, who, verb+".end", id, ended, detail, t.bytes)
	})
	return t, nil
}

// read passes what comes on to whatever socket there is or will be.
func (t *terminal) read(ctx context.Context) {
	defer close(t.over)
	for {
		stream, data, err := t.call.pipe.Recv(ctx)
		if err != nil {
			break
		}
		t.mu.Lock()
		t.active = time.Now()
		t.bytes += int64(len(data))
		t.mu.Unlock()
		t.out.put(ctx, byte(stream), data)
	}
	t.mu.Lock()
	why := t.why
	t.mu.Unlock()
	if why != "" {
		t.err = fail("conflict", why, "")
		return
	}
	wctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	t.exit, t.err = t.call.wait(wctx)
	t.call.end()
}

// stop ends it for a reason that whoever looks at it, or reads the audit log, is told.
func (t *terminal) stop(why string) {
	t.mu.Lock()
	t.why = cmpOr(t.why, why)
	t.mu.Unlock()
	t.call.end()
}

// take makes a socket the terminal's own; one that has it gives way.
func (t *terminal) take() *outlet {
	t.mu.Lock()
	t.active = time.Now()
	t.mu.Unlock()
	return t.out.take()
}

func (t *terminal) leave(to *outlet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.leave(to) {
		t.detached = time.Now()
	}
}

func (m *Monitor) exec(w http.ResponseWriter, r *http.Request, who identity) error {
	if err := mustBeSocket(r); err != nil {
		return err
	}
	var t *terminal
	if id := r.URL.Query().Get("session"); id != "" {
		m.terms.mu.Lock()
		t = m.terms.byID[id]
		m.terms.mu.Unlock()
		if t == nil || t.who.name != who.name || who.role < t.who.role {
			return fail("not_found", "this terminal has ended", "open a new one")
		}
	} else {
		var err error
		if t, err = m.startTerminal(r, who); err != nil {
			return err
		}
	}
	conn, err := m.accept(w, r)
	if conn == nil {
		return err
	}
	defer m.sockets.Add(-1)
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	ctx, stop := m.streamContext(r)
	defer stop()
	to := t.take()
	defer t.leave(to)
	cmd := t.cmd
	if cmd == nil {
		cmd = []string{}
	}
	hello, _ := json.Marshal(map[string]any{"type": "started", "session": t.id, "cmd": cmd})
	if conn.Write(ctx, websocket.MessageText, hello) != nil {
		return nil
	}
	send := func() error {
		for {
			frame := t.out.next(to)
			if frame == nil {
				return nil
			}
			wctx, wstop := context.WithTimeout(ctx, writeTimeout)
			err := conn.Write(wctx, websocket.MessageBinary, frame)
			wstop()
			if err != nil {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		defer stop()
		t.input(ctx, conn)
	})
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-to.lost:
			_ = conn.Close(websocket.StatusGoingAway, "the terminal was opened elsewhere")
			return nil
		case <-to.more:
			if send() != nil {
				return nil
			}
		case <-ping.C:
			pctx, pstop := context.WithTimeout(ctx, writeTimeout)
			err := conn.Ping(pctx)
			pstop()
			if err != nil {
				return nil
			}
		case <-t.over:
			if send() != nil {
				return nil
			}
			msg := map[string]any{"type": "exit", "code": -1}
			var body struct{ Code int }
			switch {
			case t.err != nil:
				msg = map[string]any{"type": "error", "error": asAPI(t.err)}
			case json.Unmarshal(t.exit, &body) == nil:
				msg["code"] = body.Code
			}
			b, _ := json.Marshal(msg)
			_ = conn.Write(ctx, websocket.MessageText, b)
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return nil
		}
	}
}

// input passes what the page sends to the process.
func (t *terminal) input(ctx context.Context, conn *websocket.Conn) {
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return
		}
		t.mu.Lock()
		t.active = time.Now()
		t.mu.Unlock()
		stream := uint32(pipe.Stdin)
		if kind == websocket.MessageText {
			var msg struct{ Type, Signal string }
			if json.Unmarshal(data, &msg) != nil {
				continue
			}
			if msg.Type == "signal" {
				// A terminal turns these bytes into signals for whatever runs in front.
				b, ok := map[string]byte{"SIGINT": 3, "SIGQUIT": 28, "SIGTSTP": 26}[msg.Signal]
				if !ok {
					continue
				}
				data = []byte{b}
			} else {
				stream = pipe.Control
			}
		}
		if err := t.call.pipe.Send(ctx, stream, data); err != nil && !errors.Is(err, context.Canceled) {
			return
		}
	}
}
