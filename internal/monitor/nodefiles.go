package monitor

import (
	"context"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
)

// target finds the probe of a node.
func (m *Monitor) target(id string) (probe, label, kind string, offered []string, err error) {
	m.estate.Read(func(rd *estate.Reader) {
		e := rd.Entity(id)
		switch {
		case e == nil:
			err = fail("not_found", "no such node; it may have just gone", "")
		case e.Probe() == nil:
			err = fail("conflict", e.Label+" is outside of the estate: nothing can be asked of it", "")
		default:
			probe, label, kind, offered = e.Probe().ID, e.Label, e.Kind, e.Controls
		}
	})
	return probe, label, kind, offered, err
}

// pull answers a request by asking the probe.
func (m *Monitor) pull(verb string, args ...string) handler {
	return func(w http.ResponseWriter, r *http.Request, who identity) error {
		id := r.PathValue("id")
		probe, _, _, _, err := m.target(id)
		if err != nil {
			return err
		}
		req := request{verb: verb, node: id, who: who, args: map[string]string{}}
		for _, a := range args {
			req.args[a] = r.URL.Query().Get(a)
		}
		body, err := m.probes.ask(r.Context(), probe, req)
		if verb != "processes" && verb != "sockets" {
			m.record(r, who, "read."+verb, id, outcome(err), strings.Join(slices.Collect(values(req.args)), " "), int64(len(body)))
		}
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n'))
		return nil
	}
}

func values(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	if a := asAPI(err); a.Code == "forbidden" {
		return "denied"
	}
	return "failed"
}

// file streams a file of a container.
func (m *Monitor) file(w http.ResponseWriter, r *http.Request, who identity) error {
	id, name := r.PathValue("id"), r.URL.Query().Get("path")
	probe, _, _, _, err := m.target(id)
	if err != nil {
		return err
	}
	if name == "" {
		return fail("bad_request", "path is missing", "")
	}
	offset, err := number(r, "offset", 0, 0, 1<<62)
	if err != nil {
		return err
	}
	length, err := number(r, "length", 256<<20, 1, 256<<20)
	if err != nil {
		return err
	}
	c, err := m.probes.begin(r.Context(), probe, request{verb: "file", node: id, who: who, piped: true, args: map[string]string{
		"path": name, "offset": strconv.FormatInt(offset, 10), "length": strconv.FormatInt(length, 10),
	}})
	if err != nil {
		return err
	}
	defer c.end()
	return m.copyOut(w, r, c, func() {
		w.Header().Set("Content-Type", "application/octet-stream")
		disposition(w, r, path.Base(name))
	}, func(n int64, err error) { m.record(r, who, "read.file", id, outcome(err), name, n) })
}

// disposition makes browsers save what must not be shown.
func disposition(w http.ResponseWriter, r *http.Request, name string) {
	if v := r.URL.Query().Get("download"); v == "1" || v == "true" {
		clean := strings.Map(func(c rune) rune {
			if c < 0x20 || c > 0x7e || strings.ContainsRune(`"\/;`, c) {
				return '_'
			}
			return c
		}, name)
		w.Header().Set("Content-Disposition", `attachment; filename="`+clean+`"`)
	}
}

// copyOut writes a pipe's output as the answer, and notes it in the audit log. An error before the first byte becomes an error answer; one after it breaks
// the connection, so that nobody takes half a file for a whole one.
func (m *Monitor) copyOut(w http.ResponseWriter, r *http.Request, c *call, header func(), note func(n int64, err error)) error {
	started, n := false, int64(0)
	for {
		_, data, err := c.pipe.Recv(r.Context())
		if err != nil {
			break
		}
		if !started {
			started = true
			header()
		}
		k, err := w.Write(data)
		n += int64(k)
		if err != nil {
			note(n, nil)
			return nil //nolint:nilerr // the reader has left
		}
	}
	ctx, stop := context.WithTimeout(r.Context(), 5*time.Second)
	defer stop()
	_, err := c.wait(ctx)
	note(n, err)
	switch {
	case err == nil && !started:
		header()
	case err != nil && started && r.Context().Err() == nil:
		panic(http.ErrAbortHandler)
	}
	return err
}

func (m *Monitor) mayLog(who identity) error {
	if d := m.controlOf("logs"); who.role < d.role {
		return fail("forbidden", "role "+who.role.String()+" may not read logs here", "it needs the role "+d.role.String())
	}
	return nil
}

// logArgs reads which lines of a log are wanted.
func logArgs(r *http.Request, tail, most int64) (map[string]string, error) {
	n, err := number(r, "tail", tail, 0, most)
	if err != nil {
		return nil, err
	}
	args := map[string]string{"tail": strconv.FormatInt(n, 10), "stream": r.URL.Query().Get("stream")}
	if s := args["stream"]; s != "" && s != "stdout" && s != "stderr" {
		return nil, fail("bad_request", "stream is neither stdout nor stderr", "")
	}
	for _, name := range []string{"since", "until"} {
		at, err := number(r, name, 0, 0, 1<<53)
		if err != nil {
			return nil, fail("bad_request", name+" is not a time in milliseconds since 1970", "")
		}
		if at > 0 {
			args[name] = strconv.FormatInt(at, 10)
		}
	}
	return args, nil
}

func (m *Monitor) logFile(w http.ResponseWriter, r *http.Request, who identity) error {
	if err := m.mayLog(who); err != nil {
		return err
	}
	id := r.PathValue("id")
	probe, label, _, _, err := m.target(id)
	if err != nil {
		return err
	}
	args, err := logArgs(r, 10_000, 10_000_000)
	if err != nil {
		return err
	}
	c, err := m.probes.begin(r.Context(), probe, request{verb: "logs", node: id, who: who, piped: true, args: args})
	if err != nil {
		return err
	}
	defer c.end()
	out := io.Writer(w)
	stamps := r.URL.Query().Get("timestamps")
	var wrap http.ResponseWriter = w
	if stamps != "1" && stamps != "true" {
		wrap = &unstamped{ResponseWriter: w, out: out}
	}
	return m.copyOut(wrap, r, c, func() {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		disposition(w, r, label+".log")
	}, func(n int64, err error) { m.record(r, who, "read.logs", id, outcome(err), "", n) })
}

// unstamped takes the time off the beginning of every line that has one.
type unstamped struct {
	http.ResponseWriter
	out   io.Writer
	inner bool // inside a line whose time is off
	head  []byte
}

func (u *unstamped) Write(b []byte) (int, error) {
	var out []byte
	for _, c := range b {
		switch {
		case u.inner:
			out = append(out, c)
		case c == ' ' || c == '\n':
			if _, err := time.Parse(time.RFC3339Nano, string(u.head)); err != nil {
				out = append(append(out, u.head...), c)
			} else if c == '\n' {
				out = append(out, c)
			}
			u.inner, u.head = true, u.head[:0]
		default:
			u.head = append(u.head, c)
			if len(u.head) > 40 { // no time after all
				out = append(out, u.head...)
				u.inner, u.head = true, u.head[:0]
			}
		}
		if c == '\n' {
			u.inner = false
		}
	}
	if _, err := u.out.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
