package zksync

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// AlertConfig says when somebody is told.
type AlertConfig struct {
	// Webhook is where alerts are posted, as JSON (Alert), when they begin and when they end.
	Webhook string
	// After is how long a state must last before it is told. Default 10s.
	After time.Duration
	// Lag is how old the oldest change that is not in the target may be. Default 5s.
	Lag time.Duration
	// Queue is how full the queue may be, in bytes. Default 4/5 of Config.QueueBytes.
	Queue int
}

// Alert is what the webhook is told.
type Alert struct {
	Status  string    `json:"status"` // firing, resolved
	Name    string    `json:"alert"`
	Link    string    `json:"link"`
	Engine  string    `json:"engine"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
	Time    time.Time `json:"time"`
}

// rule is one state that somebody should know of.
type rule struct {
	name string
	// at once: it is told without waiting, for it has happened and cannot pass by itself.
	atOnce bool
	// broken returns what is wrong, or "".
	broken func(Status) string
}

func rules(cfg AlertConfig) []rule {
	return []rule{
		{"not-live", false, func(s Status) string {
			if s.Phase == PhaseLive || s.Phase == PhaseStandby || s.Phase == PhaseStopped {
				return ""
			}
			return "the target is not fed: the engine is " + string(s.Phase)
		}},
		{"stopped", true, func(s Status) string {
			if s.Phase != PhaseStopped || s.Error == "" {
				return ""
			}
			return "the engine has stopped and needs a person: " + s.Error
		}},
		{"source-unreachable", false, func(s Status) string {
			if s.SourceQuorum || s.Phase == PhaseStopped {
				return ""
			}
			return "the source has no quorum or cannot be reached: " + cmp.Or(s.SourceError, "not connected")
		}},
		{"target-unreachable", false, func(s Status) string {
			if s.TargetQuorum || s.Phase == PhaseStopped {
				return ""
			}
			return "the target has no quorum or cannot be reached"
		}},
		{"lag", false, func(s Status) string {
			if s.BehindMS <= float64(cfg.Lag.Milliseconds()) {
				return ""
			}
			return fmt.Sprintf("the oldest change that is not in the target is %.1f s old, the limit is %v", s.BehindMS/1000, cfg.Lag)
		}},
		{"queue", false, func(s Status) string {
			if s.QueueBytes <= cfg.Queue {
				return ""
			}
			return fmt.Sprintf("%d bytes wait for the target, the limit is %d", s.QueueBytes, cfg.Queue)
		}},
		{"digest", true, func(s Status) string {
			if s.DigestsBad == 0 {
				return ""
			}
			return fmt.Sprintf("the shadow differed from the source's digest after %d transactions: run zk verify", s.DigestsBad)
		}},
		{"conflicts", true, func(s Status) string {
			if s.Conflicts == 0 {
				return ""
			}
			return fmt.Sprintf("%d writes to the copy by others: see /api/v1/sync/conflicts", s.Conflicts)
		}},
	}
}

// firing is what is known of one rule.
type firing struct {
	since   time.Time
	told    bool
	message string
}

// evaluate compares a status with the rules: what begins and what ends. It is pure; state is changed.
func evaluate(rs []rule, state map[string]*firing, s Status, link string, now time.Time, after time.Duration) []Alert {
	var out []Alert
	for _, r := range rs {
		f := state[r.name]
		message := r.broken(s)
		switch {
		case message == "" && f != nil:
			if f.told {
				out = append(out, Alert{"resolved", r.name, link, s.Engine, f.message, f.since, now})
			}
			delete(state, r.name)
		case message != "" && f == nil:
			f = &firing{since: now}
			state[r.name] = f
			fallthrough
		case message != "" && !f.told:
			f.message = message
			if r.atOnce || now.Sub(f.since) >= after {
				f.told = true
				out = append(out, Alert{"firing", r.name, link, s.Engine, message, f.since, now})
			}
		case message != "":
			f.message = message
		}
	}
	return out
}

// Alerter tells a webhook of what goes wrong with engines. What cannot be delivered is tried again with growing pauses; at most
// maxAlerts wait, the oldest goes first.
type Alerter struct {
	cfg     AlertConfig
	engines []*Engine
	client  *http.Client
	log     *slog.Logger
	// Dropped counts the alerts that were never delivered.
	Dropped atomic.Int64
}

const maxAlerts = 100

// NewAlerter watches engines; Run does it.
func NewAlerter(cfg AlertConfig, log *slog.Logger, engines ...*Engine) *Alerter {
	cfg.After = cmp.Or(cfg.After, 10*time.Second)
	cfg.Lag = cmp.Or(cfg.Lag, 5*time.Second)
	if cfg.Queue == 0 && len(engines) > 0 {
		cfg.Queue = engines[0].cfg.QueueBytes / 5 * 4
	}
	return &Alerter{cfg: cfg, engines: engines, client: &http.Client{Timeout: 5 * time.Second}, log: log}
}

// Run evaluates the rules every 200 ms until ctx ends. The last look, at engines that have ended by then, is delivered too, within five seconds.
func (a *Alerter) Run(ctx context.Context) {
	states := make([]map[string]*firing, len(a.engines))
	for i := range states {
		states[i] = map[string]*firing{}
	}
	rs := rules(a.cfg)
	var queue []Alert
	look := func() {
		for i, e := range a.engines {
			for _, al := range evaluate(rs, states[i], e.Status(), e.cfg.Name, time.Now(), a.cfg.After) {
				a.log.Warn("alert", "status", al.Status, "alert", al.Name, "message", al.Message, "link", al.Link)
				e.audit("alert "+al.Status, "alert", al.Name, "message", al.Message)
				if queue = append(queue, al); len(queue) > maxAlerts {
					queue = queue[1:]
					a.Dropped.Add(1)
				}
			}
		}
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	retry, pause := time.Time{}, time.Second
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		look()
		for len(queue) > 0 && time.Now().After(retry) && ctx.Err() == nil {
			if err := a.post(ctx, queue[0]); err != nil {
				a.log.Warn("alert not delivered, it will be tried again", "webhook", a.cfg.Webhook, "in", pause, "error", err)
				retry, pause = time.Now().Add(pause), min(pause*2, time.Minute)
				break
			}
			queue, pause = queue[1:], time.Second
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, al := range queue {
		if a.post(last, al) != nil {
			a.Dropped.Add(1)
		}
	}
}

func (a *Alerter) post(ctx context.Context, al Alert) error {
	b, err := json.Marshal(al)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.cfg.Webhook, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("the webhook answers %s", resp.Status)
	}
	return nil
}
