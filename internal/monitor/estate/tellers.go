package estate

import (
	"slices"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Of most things one probe tells. Of a cluster's (pods, services, …) several may: two that watch one Kubernetes cluster, by intent or by
// mistake, or for the moment in which one takes over from another. What was told last counts; what the others said is kept, so that a
// thing stays, with the words of whoever still tells of it, until the last of them says that it is gone or is forgotten.

// words are what a probe says of an entity.
type words struct {
	label, state string
	startedMs    int64
	exitCode     int
	parents      []string
	attrs        []Attr
	controls     []string
	told         []Reason
}

// teller is a probe that tells of an entity, besides the one whose words count.
type teller struct {
	probe *Probe
	ref   uint32
	words *words // nil for all but those that told last: the entity keeps the words it has
}

// maxWords is of how many tellers of one entity the words are kept, besides those that count.
const maxWords = 3

// hear makes a message into words. What is as it was shares the entity's memory.
func (s *Estate) hear(e *Entity, in *probev1.Entity) words {
	w := words{label: s.intern(in.Label), state: s.intern(in.State), startedMs: in.StartedMs, exitCode: int(in.ExitCode), parents: in.Parents, attrs: e.Attrs, controls: e.Controls}
	if slices.Equal(e.Parents, in.Parents) {
		w.parents = e.Parents
	}
	if !slices.Equal(e.Controls, in.Controls) {
		w.controls = make([]string, len(in.Controls))
		for i, c := range in.Controls {
			w.controls[i] = s.intern(c)
		}
	}
	if len(in.Reasons) > 0 {
		w.told = make([]Reason, len(in.Reasons))
		for i, r := range in.Reasons {
			w.told[i] = Reason{Code: s.intern(r.Code), Severity: int(r.Severity), Text: s.intern(r.Text)}
		}
	}
	if !slices.EqualFunc(e.Attrs, in.Attrs, func(a Attr, b *probev1.Attr) bool { return a.Key == b.Key && a.Value == b.Value }) {
		w.attrs = make([]Attr, len(in.Attrs))
		for i, a := range in.Attrs {
			w.attrs[i] = Attr{s.intern(a.Key), s.intern(a.Value)}
		}
	}
	return w
}

// say makes an entity what words say.
func (s *Estate) say(e *Entity, w words, fresh bool) {
	was := e.State
	e.Label, e.State, e.StartedMs, e.ExitCode = w.label, w.state, w.startedMs, w.exitCode
	if was != e.State {
		e.SinceMs = s.now
	}
	addrs := e.Attr(topology.AttrAddrs)
	e.Controls, e.told, e.Attrs = w.controls, w.told, w.attrs
	if now := e.Attr(topology.AttrAddrs); now != addrs {
		s.own(e, addrs, false)
		s.own(e, now, true)
	}
	if fresh || !slices.Equal(e.Parents, w.parents) {
		s.setParents(e, w.parents)
		s.touch(e, ChangedPlace)
		if !fresh { // of what is new nothing can have been resolved
			s.moved[e] = struct{}{}
		}
		for c := range e.children {
			s.touch(c, ChangedPlace) // they belong to what their parents belong to
		}
	}
	s.touch(e, ChangedBody)
	if fresh {
		// Children that were here first find their parent now.
		for c := range s.waiting[e.ID] {
			s.link(c, e)
			s.touch(c, ChangedPlace)
			s.moved[c] = struct{}{}
		}
		delete(s.waiting, e.ID)
		s.tell(e, "appeared", "", e.State, "")
	} else if was != e.State {
		s.tell(e, "state", was, e.State, "")
	}
}

// yield keeps what the entity's probe has said, because another one's words count from now on.
func (s *Estate) yield(e *Entity, to *Probe) {
	list := slices.DeleteFunc(s.others[e], func(t teller) bool { return t.probe == to })
	if e.probe != nil {
		list = append(list, teller{e.probe, e.ref, &words{e.Label, e.State, e.StartedMs, e.ExitCode, e.Parents, e.Attrs, e.Controls, e.told}})
		if i := len(list) - 1 - maxWords; i >= 0 {
			list[i].words = nil
		}
	}
	s.keep(e, list)
}

func (s *Estate) keep(e *Entity, list []teller) {
	if len(list) == 0 {
		delete(s.others, e)
	} else {
		s.others[e] = list
	}
}

// next finds whose words count when those of the entity's probe do not any more: of those that are heard whoever told last, else of the
// others. It gives a place in the list, -1 when there is nobody.
func next(list []teller) int {
	for i := len(list) - 1; i >= 0; i-- {
		if !list[i].probe.stale {
			return i
		}
	}
	return len(list) - 1
}

// untell takes back what a probe has told of an entity under a number. With its last teller the entity goes.
func (s *Estate) untell(p *Probe, ref uint32, e *Entity) {
	if e.gone {
		return
	}
	list := s.others[e]
	if e.probe != p {
		s.keep(e, slices.DeleteFunc(list, func(t teller) bool { return t.probe == p && t.ref == ref }))
		return
	}
	if e.ref != ref {
		return // it goes on under another number
	}
	i := next(list)
	if i < 0 {
		s.removeEntity(e)
		return
	}
	t := list[i]
	s.keep(e, slices.Delete(list, i, i+1))
	s.follow(e, t)
}

// follow makes a teller's words count.
func (s *Estate) follow(e *Entity, t teller) {
	e.probe, e.ref, e.Stale = t.probe, t.ref, t.probe.stale
	if t.words != nil {
		s.say(e, *t.words, false)
	} else {
		s.touch(e, ChangedBody)
	}
}

// setStale greys a probe's entities, or not any more. Of what another one tells that is heard, that one's words count meanwhile.
func (s *Estate) setStale(p *Probe, stale bool) {
	p.stale = stale
	for _, e := range p.entities {
		if e.gone {
			continue
		}
		if list := s.others[e]; len(list) > 0 && (e.probe == p) == stale {
			if i := next(list); i >= 0 && !list[i].probe.stale && e.probe.stale {
				t := list[i]
				s.yield(e, t.probe)
				s.follow(e, t)
				continue
			}
		}
		if e.probe == p && e.Stale != stale {
			e.Stale = stale
			s.touch(e, ChangedBody)
		}
	}
}
