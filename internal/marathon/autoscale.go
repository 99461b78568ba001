package marathon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// scaler sets the number of instances of those apps whose labels ask for it, by what their instances use.
type scaler struct {
	t      *term
	http   *http.Client
	last   map[string]usage // by task, of the round before: cores are a difference
	scaled map[string]time.Time
}

type usage struct {
	cpuSeconds, at float64
	memory         float64
}

// maxStatistics bounds the answer of one agent.
const maxStatistics = 64 << 20

func (t *term) autoscale(ctx context.Context) error {
	s := &scaler{t: t, http: &http.Client{Timeout: 10 * time.Second, Transport: wire.NewTransport(t.m.deps.Dial)}, last: map[string]usage{}, scaled: map[string]time.Time{}}
	defer s.http.CloseIdleConnections()
	tick := time.NewTicker(t.m.cfg.AutoscaleInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			s.round(ctx)
		}
	}
}

// round looks at every app that scales by itself. Where a measurement fails nothing is changed.
func (s *scaler) round(ctx context.Context) {
	snap := s.t.snapshot.Load()
	type wish struct {
		sp *spec.Spec
		a  spec.Autoscale
	}
	var wishes []wish
	measure := false
	for sp := range snap.Root.Specs(spec.RootID) {
		if sp.App == nil || sp.App.Labels[spec.LabelAutoMax] == "" {
			continue
		}
		if a, ok, err := spec.ReadAutoscale(sp.App.Labels); ok && err == nil {
			wishes = append(wishes, wish{sp, a})
			measure = measure || a.Metric == spec.MetricCPU || a.Metric == spec.MetricMem
		}
	}
	if len(wishes) == 0 {
		return
	}
	var used map[string]usage
	if measure {
		var err error
		if used, err = s.statistics(ctx); err != nil {
			s.t.log.Warn("autoscaling has no measurements", "error", err)
		}
	}
	for _, w := range wishes {
		if now := s.t.m.deps.Clock(); now.Sub(s.scaled[w.sp.ID]) < w.a.Cooldown || len(snap.DeploymentsOf(w.sp.ID)) > 0 {
			continue
		}
		var sum float64
		ok := true
		switch w.a.Metric {
		case spec.MetricCPU, spec.MetricMem:
			sum, ok = s.sum(snap.Instances(w.sp.ID), w.sp.App, w.a.Metric, used)
		default:
			v, err := askPrometheus(ctx, s.t.m.cfg.PrometheusURL, w.a.Metric)
			if err != nil {
				s.t.log.Warn("autoscaling query failed", "app", w.sp.ID, "error", err)
				ok = false
			}
			sum = v
		}
		if !ok {
			continue
		}
		if n := w.a.Want(w.sp.Instances(), sum); n != w.sp.Instances() {
			s.scale(ctx, w.sp, n, sum)
		}
	}
	if used != nil {
		s.last = used
	}
}

func (s *scaler) scale(ctx context.Context, sp *spec.Spec, n int, sum float64) {
	_, err := s.t.do(ctx, func(token any) core.Event {
		return core.Update{Token: token, Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
			current := root.Get(sp.ID)
			if current == nil || current.Version != sp.Version {
				return nil // somebody else has changed it meanwhile
			}
			return root.Put(current.WithInstances(n), now, false)
		}}
	})
	if err != nil {
		s.t.log.Warn("autoscaling could not change the number of instances", "app", sp.ID, "error", err)
		return
	}
	s.scaled[sp.ID] = s.t.m.deps.Clock()
	s.t.log.Info("scaled", "app", sp.ID, "from", sp.Instances(), "to", n, "measured", sum)
}

// sum adds up what an app's running instances use, in percent of what each asked for. It is only known when each of them
// was measured.
func (s *scaler) sum(instances []*core.Instance, a *spec.App, metric string, used map[string]usage) (float64, bool) {
	total, n := 0.0, 0
	for _, i := range instances {
		if i.Condition != core.Running || len(i.Tasks) == 0 {
			continue
		}
		now, ok := used[i.Tasks[0].ID]
		if !ok {
			return 0, false
		}
		n++
		if metric == spec.MetricMem {
			total += 100 * now.memory / (a.Mem * (1 << 20))
			continue
		}
		before, ok := s.last[i.Tasks[0].ID]
		if !ok || now.at <= before.at || a.CPUs <= 0 {
			return 0, false
		}
		total += 100 * (now.cpuSeconds - before.cpuSeconds) / (now.at - before.at) / a.CPUs
	}
	return total, n > 0
}

// statistics asks every agent that the master knows what its containers use. The executor's id of an app is its task's.
func (s *scaler) statistics(ctx context.Context) (map[string]usage, error) {
	base := s.t.sched.client.Leader()
	if base == "" {
		return nil, fmt.Errorf("no Mesos master is known")
	}
	var agents struct {
		Slaves []struct {
			PID    string `json:"pid"`
			Active bool   `json:"active"`
		} `json:"slaves"`
	}
	if err := s.get(ctx, base+"/slaves", &agents); err != nil {
		return nil, err
	}
	out := map[string]usage{}
	for _, a := range agents.Slaves {
		_, address, ok := strings.Cut(a.PID, "@")
		if !ok || !a.Active {
			continue
		}
		var list []struct {
			ExecutorID string `json:"executor_id"`
			Statistics struct {
				User      float64 `json:"cpus_user_time_secs"`
				System    float64 `json:"cpus_system_time_secs"`
				RSS       float64 `json:"mem_rss_bytes"`
				Total     float64 `json:"mem_total_bytes"`
				Timestamp float64 `json:"timestamp"`
			} `json:"statistics"`
		}
		if err := s.get(ctx, "http://"+address+"/monitor/statistics", &list); err != nil {
			s.t.log.Warn("an agent's statistics could not be read", "agent", address, "error", err)
			continue
		}
		for _, x := range list {
			mem := x.Statistics.RSS
			if mem == 0 {
				mem = x.Statistics.Total
			}
			out[x.ExecutorID] = usage{x.Statistics.User + x.Statistics.System, x.Statistics.Timestamp, mem}
		}
	}
	return out, nil
}

func (s *scaler) get(ctx context.Context, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	if c := &s.t.m.cfg; c.Principal != "" {
		req.SetBasicAuth(c.Principal, c.Secret)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking %s: %s", url, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatistics)).Decode(v); err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	return nil
}
