package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

const (
	maxLogNodes = 20
	maxLine     = 16 << 10
	// logBatch is how long lines are gathered before they are sent.
	logBatch = 100 * time.Millisecond
	// logQueue is how many lines may wait for a slow reader; beyond it the source is held back.
	logQueue = 2000
)

// logLine is one line as the page gets it.
type logLine struct {
	I   int    `json:"i"`
	T   int64  `json:"t"`
	S   string `json:"s"`
	L   string `json:"l"`
	M   string `json:"m"`
	P   string `json:"p,omitempty"` // its place in a plain file
	Cut bool   `json:"cut,omitempty"`
}

var (
	reLevelWord = regexp.MustCompile(`(?i)(?:^|[^A-Za-z])(TRACE|DEBUG|DBG|INFO|NOTICE|WARN(?:ING)?|WRN|ERROR|ERR|FATAL|CRITICAL|CRIT|PANIC|EMERG|ALERT)(?:[^A-Za-z]|$)`)
	reGlog      = regexp.MustCompile(`^([IWEF])\d{4} \d\d:\d\d:\d\d`)
	reAfter     = regexp.MustCompile(`^(std(out|err)=\d{1,20}-\d{1,18}(,std(out|err)=\d{1,20}-\d{1,18})?)?$`)
	reColour    = regexp.MustCompile(`\x1b\[[0-9;:?]*[ -/]*[@-~]`)
)

// uncoloured is what a line says, without how it looks.
func uncoloured(s string) string {
	if !strings.Contains(s, "\x1b[") {
		return s
	}
	return reColour.ReplaceAllString(s, "")
}

// levelOf recognises the level of a line: of JSON's level key, of glog's first letter, or of a word near the beginning.
func levelOf(s string) string {
	if strings.HasPrefix(s, "{") {
		var m struct {
			Level    any    `json:"level"`
			Severity string `json:"severity"`
			Lvl      string `json:"lvl"`
		}
		if json.Unmarshal([]byte(s), &m) == nil {
			for _, v := range []any{m.Level, m.Severity, m.Lvl} {
				if t, ok := v.(string); ok && t != "" {
					return levelName(t)
				}
			}
		}
	}
	if m := reGlog.FindStringSubmatch(s); m != nil {
		return map[string]string{"I": "info", "W": "warn", "E": "error", "F": "error"}[m[1]]
	}
	head := s[:min(len(s), 120)]
	if m := reLevelWord.FindStringSubmatch(head); m != nil {
		return levelName(m[1])
	}
	return ""
}

func levelName(s string) string {
	switch strings.ToLower(s) {
	case "trace", "debug", "dbg":
		return "debug"
	case "info", "notice":
		return "info"
	case "warn", "warning", "wrn":
		return "warn"
	case "error", "err", "fatal", "critical", "crit", "panic", "emerg", "alert":
		return "error"
	}
	return ""
}

var levelRank = map[string]int{"": 1, "debug": 0, "info": 1, "warn": 2, "error": 3}

// logFilter is what the reader wants of the lines.
type logFilter struct {
	text  string
	re    *regexp.Regexp
	level int
}

func (f *logFilter) keeps(l *logLine) bool {
	if levelRank[l.L] < f.level {
		return false
	}
	switch {
	case f.re != nil:
		return f.re.MatchString(uncoloured(l.M))
	case f.text != "":
		return strings.Contains(strings.ToLower(uncoloured(l.M)), f.text)
	}
	return true
}

func filterOf(r *http.Request) (*logFilter, error) {
	f := &logFilter{level: -1}
	q := r.URL.Query().Get("q")
	if len(q) > 1000 {
		return nil, fail("bad_request", "q is too long", "")
	}
	if n := len(q); n > 2 && q[0] == '/' && q[n-1] == '/' {
		re, err := regexp.Compile("(?i)" + q[1:n-1])
		if err != nil {
			return nil, fail("bad_request", "q is not a regular expression: "+err.Error(), "")
		}
		f.re = re
	} else {
		f.text = strings.ToLower(q)
	}
	if l := r.URL.Query().Get("level"); l != "" {
		rank, ok := levelRank[l]
		if !ok {
			return nil, fail("bad_request", "level is none of debug, info, warn, error", "")
		}
		f.level = rank
	}
	return f, nil
}

// lineReader cuts a stream into lines and takes the time off each.
type lineReader struct {
	parts map[uint32][]byte // by stream: the beginning of the next line
	over  map[uint32]bool   // by stream: the rest of a line that was too long, and has been told, is still to come
}

func (l *lineReader) take(i int, stream uint32, data []byte, each func(logLine) error) error {
	part := append(l.parts[stream], data...)
	for {
		n := bytes.IndexByte(part, '\n')
		if n < 0 {
			break
		}
		if !l.over[stream] {
			if err := each(parseLine(i, stream, part[:n])); err != nil {
				return err
			}
		}
		l.over[stream], part = false, part[n+1:]
	}
	if !l.over[stream] && len(part) > 2*maxLine {
		if err := each(parseLine(i, stream, part)); err != nil {
			return err
		}
		l.over[stream] = true
	}
	if l.over[stream] {
		part = nil
	}
	l.parts[stream] = append([]byte(nil), part...)
	return nil
}

// rest gives the last lines, which nothing has ended.
func (l *lineReader) rest(i int, each func(logLine) error) error {
	for stream, part := range l.parts {
		if len(part) > 0 {
			if err := each(parseLine(i, stream, part)); err != nil {
				return err
			}
		}
	}
	return nil
}

func parseLine(i int, stream uint32, b []byte) logLine {
	line := logLine{I: i, S: "stdout"}
	if stream == pipe.Stderr {
		line.S = "stderr"
	}
	if sp := bytes.IndexByte(b, ' '); sp > 0 && sp < 80 {
		at, place, _ := strings.Cut(string(b[:sp]), "@")
		if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
			line.T, line.P = t.UnixMilli(), place
			b = b[sp+1:]
		}
	}
	b = bytes.TrimSuffix(b, []byte("\r"))
	if line.Cut = len(b) > maxLine; line.Cut {
		n := maxLine
		for n > 0 && n > maxLine-utf8.UTFMax && !utf8.RuneStart(b[n]) {
			n--
		}
		b = b[:n]
	}
	line.M = strings.ToValidUTF8(string(b), string(utf8.RuneError))
	line.L = levelOf(uncoloured(line.M))
	return line
}

// logs streams the lines of several nodes, merged.
func (m *Monitor) logs(w http.ResponseWriter, r *http.Request, who identity) error {
	if err := m.mayLog(who); err != nil {
		return err
	}
	q := r.URL.Query()
	ids := q["id"]
	if len(ids) == 0 || len(ids) > maxLogNodes {
		return fail("bad_request", "1 to 20 ids are needed", "")
	}
	filter, err := filterOf(r)
	if err != nil {
		return err
	}
	args, err := logArgs(r, 200, 10_000)
	if err != nil {
		return err
	}
	switch q.Get("follow") {
	case "", "1", "true":
		args["follow"] = "1"
	case "0", "false":
	default:
		return fail("bad_request", "follow is neither 1 nor 0", "")
	}
	args["places"] = "1"
	after := q["after"]
	if len(after) > 0 && len(after) != len(ids) {
		return fail("bad_request", "after is not there for each id", "it is empty for a node of which nothing was read")
	}
	type source struct {
		id, label, probe string
		args             map[string]string
	}
	var sources []source
	for i, id := range ids {
		probe, label, _, _, err := m.target(id)
		if err != nil {
			return err
		}
		s := source{id, label, probe, maps.Clone(args)}
		if len(after) > 0 {
			if !reAfter.MatchString(after[i]) {
				return fail("bad_request", "after is no place in a log", "it is stdout=<p>,stderr=<p> with p of the last line read of each")
			}
			s.args["after"] = after[i]
		}
		sources = append(sources, s)
	}
	conn, err := m.accept(w, r)
	if conn == nil {
		return err
	}
	defer m.sockets.Add(-1)
	defer conn.CloseNow()
	conn.SetReadLimit(64 << 10)
	ctx, stop := m.streamContext(r)
	defer stop()
	m.record(r, who, "read.logs", strings.Join(ids, " "), "ok", "", 0)
	send := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		wctx, wstop := context.WithTimeout(ctx, writeTimeout)
		defer wstop()
		return conn.Write(wctx, websocket.MessageText, b)
	}
	nodes := []map[string]any{}
	for i, s := range sources {
		nodes = append(nodes, map[string]any{"i": i, "id": s.id, "label": s.label})
	}
	if send(map[string]any{"type": "start", "nodes": nodes}) != nil {
		return nil
	}
	type ended struct {
		i   int
		err error
	}
	lines, ends := make(chan logLine, logQueue), make(chan ended, len(sources))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i, s := range sources {
		wg.Go(func() {
			err := m.tail(ctx, s.probe, request{verb: "logs", node: s.id, who: who, args: s.args, piped: true}, i, func(l logLine) error {
				if !filter.keeps(&l) {
					return nil
				}
				select {
				case lines <- l:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			ends <- ended{i, err}
		})
	}
	paused := make(chan bool, 1)
	wg.Go(func() {
		defer stop()
		for {
			_, data, err := conn.Read(ctx)
			if err != nil {
				return
			}
			var msg struct{ Type string }
			if json.Unmarshal(data, &msg) == nil && (msg.Type == "pause" || msg.Type == "resume") {
				select {
				case paused <- msg.Type == "pause":
				case <-ctx.Done():
					return
				}
			}
		}
	})
	tick := time.NewTicker(logBatch)
	defer tick.Stop()
	var batch []logLine
	held, left, bytesSent := false, len(sources), int64(0)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		slices.SortStableFunc(batch, func(a, b logLine) int {
			if a.T == 0 || b.T == 0 {
				return 0
			}
			return int(max(-1, min(1, a.T-b.T)))
		})
		err := send(map[string]any{"type": "lines", "lines": batch})
		batch = nil
		return err
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		in := lines
		if held || len(batch) >= logQueue {
			in = nil // the queue fills, and the source waits
		}
		select {
		case <-ctx.Done():
			return nil
		case held = <-paused:
		case l := <-in:
			batch = append(batch, l)
			bytesSent += int64(len(l.M))
		case <-tick.C:
			if !held && flush() != nil {
				return nil
			}
		case <-ping.C:
			pctx, pstop := context.WithTimeout(ctx, writeTimeout)
			err := conn.Ping(pctx)
			pstop()
			if err != nil {
				return nil
			}
		case e := <-ends:
			for drained := false; !drained; {
				select {
				case l := <-lines:
					batch = append(batch, l)
				default:
					drained = true
				}
			}
			if flush() != nil {
				return nil
			}
			msg := map[string]any{"type": "end", "i": e.i, "error": nil}
			if e.err != nil {
				msg["error"] = asAPI(e.err)
			}
			if send(msg) != nil {
				return nil
			}
			if left--; left == 0 {
				_ = conn.Close(websocket.StatusNormalClosure, "")
				return nil
			}
		}
	}
}

// tail reads one node's log until it ends.
func (m *Monitor) tail(ctx context.Context, probe string, req request, i int, each func(logLine) error) error {
	c, err := m.probes.begin(ctx, probe, req)
	if err != nil {
		return err
	}
	defer c.end()
	lr := lineReader{parts: map[uint32][]byte{}, over: map[uint32]bool{}}
	for {
		stream, data, err := c.pipe.Recv(ctx)
		if err != nil {
			break
		}
		if err := lr.take(i, stream, data, each); err != nil {
			return nil //nolint:nilerr // the reader has left
		}
	}
	if lr.rest(i, each) != nil {
		return nil // the reader has left
	}
	if ctx.Err() != nil {
		return nil
	}
	wctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	_, err = c.wait(wctx)
	return err
}

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
