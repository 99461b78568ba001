package view

import (
	"fmt"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// describe makes a node's row and values. It is called inside the estate's lock.
func (v *View) describe(n *node) (r row, m, z float32) {
	r = row{label: n.label, kind: n.kind, shape: topology.Shape(n.kind), pseudo: n.pseudo, n: max(1, len(n.members))}
	m, z = nan, nan
	if n.pseudo {
		if n.kind == topology.KindUncontain || n.kind == topology.KindUnmanaged && strings.HasPrefix(n.id, topology.KindUnmanaged+";") {
			r.minor = standInText(n.kind)
		}
		return r, m, z
	}
	var sumM, sumZ float64
	var haveM, haveZ, own bool
	var worst *estate.Entity
	states := map[string]int{}
	for e := range n.members {
		if e.ID == n.id {
			r.label, own = e.Label, true
		}
		if worst == nil || estate.Worse(worst.Health, e.Health) != worst.Health || e.Health == worst.Health && e.ID < worst.ID {
			worst = e
		}
		states[e.State]++
		if x, ok := v.number(e, v.p.Metric); ok {
			sumM, haveM = sumM+x, true
		}
		if x, ok := v.number(e, v.p.Size); ok {
			sumZ, haveZ = sumZ+x, true
		}
		if !r.hit && v.hits && v.p.find.Match(Doc{e, v.at}) {
			r.hit = true
		}
	}
	if own && r.n > 1 {
		r.n-- // a pod is not one of its containers
	}
	if worst != nil {
		r.health = worst.Health
		if len(worst.Reasons) > 0 && worst.Health != estate.HealthOK {
			r.reason = worst.Reasons[0].Text
			if len(n.members) > 1 {
				r.reason = worst.Label + ": " + r.reason
			}
		}
	}
	if len(states) == 1 && worst != nil {
		r.state = worst.State
	}
	if average(v.p.Metric) && len(n.members) > 1 {
		sumM /= float64(len(n.members))
	}
	if average(v.p.Size) && len(n.members) > 1 {
		sumZ /= float64(len(n.members))
	}
	if haveM {
		m = float32(sumM)
	}
	if haveZ {
		z = float32(sumZ)
	}
	r.minor = minor(n, worst)
	return r, m, z
}

// average reports whether a metric of a group is the mean of its members: percentages of different wholes don't add up.
func average(metric string) bool {
	switch metric {
	case topology.MetricMemUsed, topology.MetricThrottled, topology.MetricDiskUsed, topology.MetricLoad1:
		return true
	}
	return false
}

func (v *View) number(e *estate.Entity, name string) (float64, bool) {
	if name == "" {
		return 0, false
	}
	if v.at != 0 {
		return e.NumberAt(name, v.at)
	}
	return e.Number(name)
}

func standInText(kind string) string {
	if kind == topology.KindUncontain {
		return "not in a container"
	}
	return "unmanaged"
}

func minor(n *node, e *estate.Entity) string {
	if e == nil {
		return ""
	}
	if n.group {
		kind := e.Kind
		if len(n.members) != 1 {
			kind += "s"
			if e.Kind == topology.KindProcess {
				kind = "processes"
			}
		}
		return fmt.Sprintf("%d %s", len(n.members), kind)
	}
	switch e.Kind {
	case topology.KindProcess:
		return e.Hostname() + " (" + e.Attr(topology.AttrPID) + ")"
	case topology.KindHost:
		if n := e.Attr(topology.AttrCPUs); n != "" {
			return n + " cores"
		}
		return ""
	case topology.KindPod:
		_, ns, _ := strings.Cut(e.ParentID(topology.KindNamespace), ";")
		return ns
	}
	return e.Hostname()
}
