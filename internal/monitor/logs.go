package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

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
