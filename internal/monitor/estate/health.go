package estate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// rule is one verdict about a metric. Leaving needs a little distance, so that it does not flap.
type rule struct {
	code, metric string
	kinds        string // of the entities, separated by spaces
	warn, crit   float64
	text         string
}

var rules = []rule{
	{"mem_near_limit", topology.MetricMemUsed, "container", 90, 97, "memory %.0f %% of its limit"},
	{"mem_high", topology.MetricMemUsed, "host", 92, 98, "memory %.0f %% in use"},
	{"cpu_high", topology.MetricCPU, "host", 92, 99.5, "CPU %.0f %% in use"},
	{"throttled", topology.MetricThrottled, "container", 25, 75, "CPU limit holds it back in %.0f %% of the periods"},
	{"disk_full", topology.MetricDiskUsed, "host", 90, 97, "disk %.0f %% full"},
}

// slack is how far below a threshold a value must fall to leave it.
const slack = 0.95

// failWarn is how many failed connects per second are worth a warning.
const failWarn = 0.1

// judge works out an entity's health and reasons. It reports whether they changed.
func (s *Estate) judge(e *Entity) bool {
	if e.Pseudo || e.gone {
		return false
	}
	next := append([]Reason(nil), e.told...)
	for i := range rules {
		r := &rules[i]
		if !kindIn(r.kinds, e.Kind) {
			continue
		}
		v, ok := e.Number(r.metric)
		if !ok {
			continue
		}
		warn, crit := r.warn, r.crit
		if i := slices.IndexFunc(e.Reasons, func(x Reason) bool { return x.Code == r.code }); i >= 0 {
			warn *= slack
			if e.Reasons[i].Severity == int(HealthCrit) {
				crit *= slack
			}
		}
		switch {
		case v >= crit:
			next = append(next, Reason{Code: r.code, Severity: int(HealthCrit), Text: fmt.Sprintf(r.text, v)})
		case v >= warn:
			next = append(next, Reason{Code: r.code, Severity: int(HealthWarn), Text: fmt.Sprintf(r.text, v)})
		}
	}
	if e.failing > failWarn {
		next = append(next, Reason{Code: "connects_fail", Severity: int(HealthWarn), Text: fmt.Sprintf("%.1f connects a second fail", e.failing)})
	}
	health := HealthOK
	if e.Kind == topology.KindContainer && e.State != topology.StateRunning && e.State != "" {
		health = HealthUnknown // stopped is neither well nor ill, unless a reason says so
	}
	for i := range next {
		health = Worse(health, Health(next[i].Severity))
		next[i].SinceMs = s.now
		if j := slices.IndexFunc(e.Reasons, func(x Reason) bool { return x.Code == next[i].Code }); j >= 0 {
			next[i].SinceMs = e.Reasons[j].SinceMs
		}
	}
	if e.Stale {
		health = HealthStale
		next = slices.Insert(next, 0, Reason{Code: "stale", Severity: int(HealthStale), Text: "its probe is not heard", SinceMs: s.now})
		if e.Health == HealthStale && len(e.Reasons) > 0 {
			next[0].SinceMs = e.Reasons[0].SinceMs
		}
	}
	slices.SortStableFunc(next, func(a, b Reason) int { return -cmp.Compare(a.Severity, b.Severity) })
	if health == e.Health && slices.EqualFunc(next, e.Reasons, func(a, b Reason) bool { return a.Code == b.Code && a.Severity == b.Severity }) {
		e.Reasons = next
		return false
	}
	was := e.Health
	e.Health, e.Reasons = health, next
	// A probe that is not heard is news of its host. Told of each thing on it as well, one host would push everything else out of the timeline.
	unheard := e.Kind != topology.KindHost && (health == HealthStale || was == HealthStale && health == HealthOK)
	if was != HealthUnknown && was != health && health != HealthUnknown && !unheard {
		text := ""
		if len(next) > 0 {
			text = next[0].Text
		}
		s.tell(e, "health", was.String(), health.String(), text)
	}
	return true
}

func kindIn(list, kind string) bool {
	for len(list) > 0 {
		i := 0
		for i < len(list) && list[i] != ' ' {
			i++
		}
		if list[:i] == kind {
			return true
		}
		list = list[min(i+1, len(list)):]
	}
	return false
}
