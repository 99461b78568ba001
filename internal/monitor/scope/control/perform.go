package control

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// openTimeout is how long a probe may take to open a stream.
const openTimeout = 30 * time.Second

// Perform does what our own probes do on the same request: node and control are the probe's words for it, s is the request's pipe, if
// it has one. It returns when the stream has ended.
func (l *Link) Perform(ctx context.Context, req *probev1.Request, node, control string, s *pipe.Pipe) *probev1.Response {
	if control == "" {
		return refuse("not_found", "a Weave Scope probe does not do "+topology.Clean(req.Verb, 64), "")
	}
	if req.DeadlineMs > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, time.UnixMilli(req.DeadlineMs))
		defer stop()
	}
	args := map[string]string{}
	for _, a := range req.Args {
		args[a.Key] = a.Value
	}
	if s != nil {
		return l.stream(ctx, req, Request{NodeID: node, Control: control}, args, s)
	}
	resp, err := l.Call(ctx, Request{NodeID: node, Control: control, ControlArgs: args})
	if r := failure(resp, err); r != nil {
		return r
	}
	message := "done"
	var text string
	if json.Unmarshal(resp.Value, &text) == nil && text != "" {
		message = topology.Printable(text, 400)
	}
	body, err := json.Marshal(map[string]string{"message": message})
	if err != nil {
		return refuse("probe_failed", err.Error(), "")
	}
	return &probev1.Response{Body: body}
}

func refuse(code, message, hint string) *probev1.Response {
	return &probev1.Response{Code: code, Message: topology.Printable(message, 1000), Hint: hint}
}

// failure makes what went wrong an answer; nil when nothing did.
func failure(resp Response, err error) *probev1.Response {
	switch {
	case errors.Is(err, ErrGone):
		return refuse("probe_gone", ErrGone.Error(), "it comes back by itself unless the probe was started with --probe.no-controls")
	case errors.Is(err, errBusy):
		return refuse("too_many", err.Error(), "")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return refuse("timeout", "the probe did not answer in time", "look at the node: it may have been done")
	case err != nil:
		return refuse("probe_failed", err.Error(), "")
	case resp.Error != "":
		return refuse("probe_failed", resp.Error, "")
	}
	return nil
}

// stream opens a shell, what a container prints, or a pod's log.
func (l *Link) stream(ctx context.Context, req *probev1.Request, ask Request, args map[string]string, s *pipe.Pipe) *probev1.Response {
	defer s.Close()
	if len(req.Argv) > 0 {
		return refuse("bad_request", "a Weave Scope probe opens a shell and runs no command of one's own", "leave the command out")
	}
	octx, stop := context.WithTimeout(ctx, openTimeout)
	resp, b, err := l.open(octx, ask)
	stop()
	if r := failure(resp, err); r != nil {
		return r
	}
	if b == nil {
		return refuse("probe_failed", "the probe has opened no stream", "")
	}
	defer close(b.unused)
	defer l.End(resp.Pipe)
	resize := func(cols, rows int) {
		if resp.ResizeTTYControl == "" || cols < 1 || rows < 1 || cols > 10_000 || rows > 10_000 {
			return
		}
		rctx, stop := context.WithTimeout(ctx, 5*time.Second)
		defer stop()
		_, _ = l.Call(rctx, Request{NodeID: ask.NodeID, Control: resp.ResizeTTYControl, ControlArgs: map[string]string{
			"pipeID": resp.Pipe, "width": strconv.Itoa(cols), "height": strconv.Itoa(rows),
		}}) // a terminal of another size is one all the same
	}
	cols, _ := strconv.Atoi(args["cols"])
	rows, _ := strconv.Atoi(args["rows"])
	resize(cols, rows)
	err = l.join(ctx, b, s, func(data []byte) {
		var m struct {
			Type       string
			Cols, Rows int
		}
		if json.Unmarshal(data, &m) == nil && m.Type == "resize" {
			resize(m.Cols, m.Rows)
		}
	})
	if err != nil {
		return refuse("probe_failed", err.Error(), "")
	}
	if req.Verb == "exec" || req.Verb == "host-exec" {
		return &probev1.Response{Body: []byte(`{"code":-1}`)} // with what code it ended Scope does not tell
	}
	return &probev1.Response{Body: []byte(`{"code":0}`)}
}
