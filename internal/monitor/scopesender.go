package monitor

import (
	"context"
	"fmt"
	"sync"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/scope/control"
	"github.com/orchestrator/orchestrator/internal/monitor/scope/report"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

// scopeStale is when a Scope probe, which sends every 3 seconds, is shown as stale. It is lost after report.Window.
const scopeStale = 10 * time.Second

// scopeSender stands for a Scope probe where a probe of ours would be connected: it takes what the monitor sends to a probe, and
// says to the monitor what a probe would say. One goroutine owns it.
type scopeSender struct {
	m       *Monitor
	name    string
	reports chan scopeWork
	gone    chan struct{}

	held     *report.Sender
	link     *control.Link
	conn     *probeConn
	epoch    uint64
	pipes    *pipe.Mux // the probe's side of the pipes
	snapshot bool      // the next delta has to be whole
	hidden   string    // the probe of ours that sees the same host, while there is one
	cancels  map[uint64]context.CancelFunc
	wg       sync.WaitGroup
	mu       sync.Mutex // of cancels
}

// scopeWork is one report on its way to the estate.
type scopeWork struct {
	report  *scope.Report
	version string
	done    chan error
}

// scopeSend hands a report to its sender, which is made for the first one, and waits until it is on the map.
func (m *Monitor) scopeSend(ctx context.Context, name, version string, r *scope.Report) error {
	w := scopeWork{report: r, version: version, done: make(chan error, 1)}
	ctx, stop := context.WithTimeout(ctx, reportWait)
	defer stop()
	for {
		s, err := m.scopeSender(name)
		if err != nil {
			return err
		}
		select {
		case s.reports <- w:
		case <-s.gone:
			continue // it has just been given up
		case <-ctx.Done():
			return fail("timeout", "the monitor did not come to take the report", "")
		}
		select {
		case err := <-w.done:
			return err
		case <-s.gone:
			return fail("probe_gone", "another probe has connected under the same id", "")
		}
	}
}

func (m *Monitor) scopeSender(name string) (*scopeSender, error) {
	t := m.scope
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.senders[name]
	switch {
	case s != nil:
		return s, nil
	case len(t.senders) >= maxProbes:
		return nil, fail("too_many", fmt.Sprintf("there are %d probes already", maxProbes), "")
	case m.stopping.Err() != nil:
		return nil, fail("probe_gone", "the monitor is ending", "")
	}
	link, release, err := t.linkLocked(name)
	if err != nil {
		return nil, err
	}
	s = &scopeSender{m: m, name: name, reports: make(chan scopeWork), gone: make(chan struct{}), held: report.NewSender(), link: link, cancels: map[uint64]context.CancelFunc{}}
	t.senders[name] = s
	m.streams.Go(func() {
		defer release()
		defer func() {
			t.mu.Lock()
			delete(t.senders, name)
			t.mu.Unlock()
			close(s.gone)
		}()
		defer m.recovered("Scope sender", scopeID(name))
		s.run(m.stopping)
	})
	return s, nil
}

// run lives for as long as reports come.
func (s *scopeSender) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer cancel()
	defer func() {
		if s.conn != nil {
			s.m.probes.detach(s.conn, s.epoch)
		}
	}()
	silent := time.NewTimer(report.Window)
	defer silent.Stop()
	var out chan *probev1.Frame
	var closed chan struct{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-silent.C:
			return
		case <-closed:
			return
		case w := <-s.reports:
			err := s.take(w)
			if s.conn != nil && out == nil {
				s.conn.mu.Lock()
				out, closed = s.conn.out, s.conn.closed
				s.conn.mu.Unlock()
			}
			w.done <- err
			silent.Reset(report.Window)
		case f := <-out:
			for _, req := range f.Requests {
				s.serve(ctx, req)
			}
			for _, msg := range f.Pipes {
				s.pipes.Handle(msg)
			}
		}
	}
}

// take puts a report on the map.
func (s *scopeSender) take(w scopeWork) error {
	now := time.Now()
	s.held.Take(w.report, now)
	host := s.held.Host()
	if host == "" {
		host = "scope-" + s.name // one that watches a cluster and no host
	}
	if s.conn == nil {
		if err := s.attach(host, w.version); err != nil {
			return err
		}
	}
	p, t := s.conn, s.m.probes
	if !t.heard(p, s.epoch, s.status(w.report)) {
		return fail("conflict", "another probe has connected under the same id", "")
	}
	if native := t.nativeOn(host); native != s.hidden {
		s.hidden, s.snapshot = native, true
		if native != "" {
			s.m.log.Info("a Scope probe's host has a probe of its own: its reports are not shown", "probe", p.id, "host", host, "by", native)
		}
	}
	f := s.held.Frame(now, s.snapshot)
	if s.hidden != "" { // nothing twice
		f.Delta.Entities, f.Delta.Edges, f.Delta.Listeners, f.Metrics = nil, nil, nil, nil
	}
	if err := topology.Check(f); err != nil {
		s.snapshot = true
		return fail("too_large", "the report makes more than is taken of one host: "+err.Error(), "")
	}
	s.snapshot = !t.estate.Apply(p.id, f.Delta, now.UnixMilli())
	if f.Metrics != nil {
		t.estate.Metrics(p.id, f.Metrics, now.UnixMilli())
	}
	t.frames.Add(1)
	return nil
}

// attach registers the sender as a probe is that connects.
func (s *scopeSender) attach(host, version string) error {
	hello := &probev1.Hello{
		ProbeId: scopeID(s.name), Instance: secret("")[:16], Hostname: host, Version: scopeVersion(version), NowMs: time.Now().UnixMilli(),
		Policy: []string{"lifecycle", "logs", "exec", "host-exec"},
	}
	f := &probev1.Frame{Hello: hello}
	if err := topology.Check(f); err != nil {
		return fail("bad_request", err.Error(), "")
	}
	p, _, err := s.m.probes.attach(f)
	if err != nil {
		return fail("too_many", err.Error(), "")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scope, p.staleAfter = true, scopeStale
	s.conn, s.epoch, s.snapshot = p, p.epoch, true
	mux := p.mux
	s.pipes = pipe.NewMux(func(msg *probev1.Pipe) error {
		mux.Handle(msg)
		return nil
	})
	return nil
}

// nativeOn finds the probe of ours that is connected on a host.
func (t *probeTable) nativeOn(host string) string {
	for _, p := range t.list() {
		p.mu.Lock()
		found := !p.scope && p.state != "lost" && p.hello.Hostname == host
		p.mu.Unlock()
		if found {
			return p.id
		}
	}
	return ""
}

// status says of the sender what a probe of ours says of itself.
func (s *scopeSender) status(r *scope.Report) *probev1.Status {
	reports := &probev1.Collector{Name: "reports", State: "ok"}
	left := s.held.Left()
	switch {
	case s.hidden != "":
		reports.State, reports.Message = "off", "not shown: "+s.hidden+" sees this host itself"
	case left.Nodes > 0:
		reports.State, reports.Message = "degraded", fmt.Sprintf("%d nodes or connections are more than is shown of one host", left.Nodes)
	case left.Named > 0:
		reports.Message = fmt.Sprintf("%d nodes have no id or host that can be read", left.Named)
	}
	way := &probev1.Collector{Name: "control", State: "ok"}
	if !s.link.Connected() {
		way.State, way.Message = "off", "no control connection: nothing can be asked of it (was it started with --probe.no-controls?)"
	}
	out := &probev1.Status{IntervalMs: 3000, Collectors: []*probev1.Collector{reports, way}}
	for _, p := range r.Plugins[:min(len(r.Plugins), 64)] {
		out.Plugins = append(out.Plugins, &probev1.Collector{
			Name: topology.Printable(p.ID, 64), Label: topology.Printable(p.Label, 200), Description: topology.Printable(p.Description, 500), State: "ok", Message: topology.Printable(p.Status, 200),
			Interfaces: p.Interfaces[:min(len(p.Interfaces), 10)],
		})
	}
	if f := (&probev1.Frame{Status: out}); topology.Check(f) != nil {
		out.Plugins = nil
	}
	return out
}

// serve does what was asked of the probe.
func (s *scopeSender) serve(ctx context.Context, req *probev1.Request) {
	if req.Cancel != 0 {
		s.mu.Lock()
		if stop := s.cancels[req.Cancel]; stop != nil {
			stop()
		}
		s.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.cancels[req.Id] = cancel
	s.mu.Unlock()
	var stream *pipe.Pipe
	if req.Pipe != 0 {
		stream = s.pipes.Open(req.Pipe)
	}
	o, known := s.held.Origin(req.Node)
	s.wg.Go(func() {
		defer s.m.recovered("Scope request", scopeID(s.name))
		defer func() {
			cancel()
			s.mu.Lock()
			delete(s.cancels, req.Id)
			s.mu.Unlock()
		}()
		resp := &probev1.Response{Code: "not_found", Message: "the probe knows this node no more"}
		if known {
			resp = s.link.Perform(ctx, req, o.Node, o.Controls[req.Verb], stream)
		}
		if stream != nil {
			stream.Close()
		}
		resp.Id = req.Id
		s.conn.answer(resp)
	})
}
