package report

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

// Window is how long Scope shows what was in a report.
const Window = 15 * time.Second

// settle is how much older than a full report a node has to be for not being in it to mean that it has gone: what a probe collects
// it sends up to this much later, and shortcuts overtake it.
const settle = 3 * time.Second

// maxHeld bounds the nodes of one sender, over all its reports.
const maxHeld = 2 * topology.MaxEntities

// Origin is what a sender calls one of our entities.
type Origin struct {
	Node     string            // its id
	Controls map[string]string // what it offers: our verb, and the sender's word for it
}

// Sender is what is held of one of Scope's probes.
type Sender struct {
	limit   int                         // of entities
	nodes   map[string]map[string]*held // by topology and id
	shown   map[string]*scope.Topology  // the templates and controls of each topology, as last told
	deleted map[string]time.Time        // containers that were said to be gone, and when
	count   int
	full    time.Time            // when the last full report came
	present map[string]time.Time // by topology: the last full report that had any node of it
	fresh   time.Time            // when the newest report came

	refs      map[string]uint32 // of entities, edges and listeners, by kind and key
	entities  map[string]*probev1.Entity
	edges     map[string]*probev1.Edge
	listeners map[string]*probev1.Listener
	templates []*probev1.Template
	origins   map[string]Origin
	left      Left
	nextRef   uint32
	seq       uint64
}

// Left counts what is not shown, so that it can be said.
type Left struct {
	Nodes int // beyond a bound
	Named int // whose ids, hosts or addresses can't be read
	Cut   int // values, figures and templates beyond a bound
}

// held is a node, put together out of reports.
type held struct {
	*scope.Node
	mentioned time.Time
}

// NewSender makes one of which nothing is known yet.
func NewSender() *Sender {
	return &Sender{
		limit: topology.MaxEntities, nodes: map[string]map[string]*held{}, shown: map[string]*scope.Topology{}, deleted: map[string]time.Time{}, present: map[string]time.Time{},
		refs: map[string]uint32{}, entities: map[string]*probev1.Entity{}, edges: map[string]*probev1.Edge{}, listeners: map[string]*probev1.Listener{}, origins: map[string]Origin{},
	}
}

// Origin tells what the sender calls an entity.
func (s *Sender) Origin(entity string) (Origin, bool) {
	o, ok := s.origins[entity]
	return o, ok
}

// Left tells what the last picture lacks.
func (s *Sender) Left() Left { return s.left }

// Take merges a report into what is held. The report is the sender's afterwards.
func (s *Sender) Take(r *scope.Report, now time.Time) {
	full := r.Full()
	s.fresh = now
	for name, t := range r.Topologies {
		if len(t.MetadataTemplates)+len(t.MetricTemplates)+len(t.TableTemplates)+len(t.Controls) > 0 {
			s.shows(name, t)
		}
		have := s.nodes[name]
		if have == nil {
			have = map[string]*held{}
			s.nodes[name] = have
		}
		for id, n := range t.Nodes {
			s.put(have, name, id, n, full, now)
		}
		if full && len(t.Nodes) > 0 {
			s.present[name] = now
		}
	}
	if full {
		s.full = now
	}
	s.expire(now)
}

// shows keeps how a topology is shown, for the reports that don't say.
func (s *Sender) shows(name string, t *scope.Topology) {
	x := s.shown[name]
	if x == nil {
		x = &scope.Topology{}
		s.shown[name] = x
	}
	if len(t.MetadataTemplates) > 0 {
		x.MetadataTemplates = t.MetadataTemplates
	}
	if len(t.MetricTemplates) > 0 {
		x.MetricTemplates = t.MetricTemplates
	}
	if len(t.TableTemplates) > 0 {
		x.TableTemplates = t.TableTemplates
	}
	if len(t.Controls) > 0 {
		x.Controls = t.Controls
	}
}

const (
	keyState     = "docker_container_state"
	stateDeleted = "deleted"
)

func (s *Sender) put(have map[string]*held, name, id string, n *scope.Node, full bool, now time.Time) {
	if name == scope.Container {
		at := n.Latest[keyState].Timestamp
		if n.Value(keyState) == stateDeleted {
			s.deleted[id] = at
			if have[id] != nil {
				delete(have, id)
				s.count--
			}
			return
		}
		if gone, ok := s.deleted[id]; ok && !at.After(gone) {
			return // seen before it went, told after
		}
	}
	was := have[id]
	if was == nil {
		if s.count >= maxHeld {
			return
		}
		s.count++
		have[id] = &held{n, now}
		return
	}
	if full {
		// A full report leaves nothing out; yet a shortcut may have told something newer before it came.
		for k, v := range n.Latest {
			if old, ok := was.Latest[k]; ok && old.Timestamp.After(v.Timestamp) {
				n.Latest[k] = old
			}
		}
		have[id] = &held{n, now}
		return
	}
	was.merge(n)
	was.mentioned = now
}

// merge takes what another report says of the same node. A section that has not changed is left out.
func (h *held) merge(n *scope.Node) {
	if h.Latest == nil {
		h.Latest = map[string]scope.Latest{}
	}
	for k, v := range n.Latest {
		if old, ok := h.Latest[k]; !ok || !old.Timestamp.After(v.Timestamp) {
			h.Latest[k] = v
		}
	}
	if len(n.Sets) > 0 {
		h.Sets = n.Sets
	}
	if len(n.Parents) > 0 {
		h.Parents = n.Parents
	}
	if len(n.Adjacency) > 0 {
		h.Adjacency = n.Adjacency
	}
	h.Metrics = n.Metrics // older ones have been told
}

// expire drops what has gone.
func (s *Sender) expire(now time.Time) {
	for name, have := range s.nodes {
		for id, h := range have {
			old := now.Sub(h.mentioned) > Window
			switch {
			case s.full.IsZero(): // a sender that never says what is all there is
			case name == scope.Endpoint:
				old = old && h.mentioned.Before(s.full)
			default:
				// A topology of which a full report has nothing is more likely one whose source has failed, for a while.
				old = s.present[name].Sub(h.mentioned) > settle || old && h.mentioned.Before(s.full)
			}
			if old {
				delete(have, id)
				s.count--
			}
		}
	}
	for id, at := range s.deleted {
		if now.Sub(at) > time.Minute || at.After(now.Add(time.Minute)) {
			delete(s.deleted, id)
		}
	}
}

// Host tells how the sender's host is called, or "" when it reports of none. The first report may be a shortcut, which has no
// host, but things that say on which they are.
func (s *Sender) Host() string {
	for _, id := range slices.Sorted(maps.Keys(s.nodes[scope.Host])) {
		if name := hostName(scope.Tagged(id, "host")); name != "" {
			return name
		}
	}
	for _, topology := range []string{scope.Container, scope.Process} {
		for _, h := range s.nodes[topology] {
			if name := hostName(scope.Tagged(h.Value("host_node_id"), "host")); name != "" {
				return name
			}
		}
	}
	return ""
}

// hostName gives a host's name when it can stand in our ids.
func hostName(s string) string {
	if s == "" || len(s) > 200 || strings.Contains(s, ";") || topology.Printable(s, 200) != s {
		return ""
	}
	return s
}

// ref numbers something; the number stays for as long as it is there.
func (s *Sender) ref(key string) uint32 {
	n := s.refs[key]
	if n == 0 {
		s.nextRef++
		n = s.nextRef
		s.refs[key] = n
	}
	return n
}

// Frame gives what has changed since the last one, or with snapshot everything, and the figures that the last report brought.
func (s *Sender) Frame(now time.Time, snapshot bool) *probev1.Frame {
	p := s.picture(now)
	s.seq++
	d := &probev1.Delta{Seq: s.seq, Snapshot: snapshot, AtMs: now.UnixMilli()}
	for _, id := range slices.Sorted(maps.Keys(p.entities)) {
		e := p.entities[id]
		e.Ref = s.ref("e" + id)
		if was := s.entities[id]; snapshot || was == nil || !was.EqualVT(e) {
			d.Entities = append(d.Entities, e)
		}
	}
	d.GoneEntities = s.gone("e", s.entities, func(id string) bool { return p.entities[id] != nil })
	for _, key := range slices.Sorted(maps.Keys(p.edges)) {
		e := p.edges[key].edge
		e.Ref, e.Src, e.Dst = s.ref("c"+key), s.refOf(p.edges[key].src), s.refOf(p.edges[key].dst)
		if was := s.edges[key]; snapshot || was == nil || !was.EqualVT(e) {
			d.Edges = append(d.Edges, e)
		}
		p.edgeList[key] = e
	}
	d.GoneEdges = s.gone("c", s.edges, func(key string) bool { return p.edges[key] != nil })
	for _, key := range slices.Sorted(maps.Keys(p.listeners)) {
		l := p.listeners[key].listener
		l.Ref, l.Entity = s.ref("l"+key), s.refOf(p.listeners[key].entity)
		if was := s.listeners[key]; snapshot || was == nil || !was.EqualVT(l) {
			d.Listeners = append(d.Listeners, l)
		}
		p.listenerList[key] = l
	}
	d.GoneListeners = s.gone("l", s.listeners, func(key string) bool { return p.listeners[key] != nil })
	templates := s.lasting(p.brought.List())
	if snapshot || !slices.EqualFunc(templates, s.templates, func(a, b *probev1.Template) bool { return a.EqualVT(b) }) {
		d.Templates = templates[:min(len(templates), maxTemplates)]
	}
	if snapshot {
		d.GoneEntities, d.GoneEdges, d.GoneListeners = nil, nil, nil
	}
	s.entities, s.edges, s.listeners, s.templates, s.origins, s.left = p.entities, p.edgeList, p.listenerList, templates, p.origins, p.left
	s.left.Cut += p.brought.Cut
	return &probev1.Frame{Delta: d, Metrics: p.figures(now, s)}
}

// lasting adds how the figures are shown that this report has none of, as most between two full ones.
func (s *Sender) lasting(templates []*probev1.Template) []*probev1.Template {
	there := map[string]bool{}
	for _, x := range templates {
		there[scope.TemplateKey(x)] = true
	}
	for _, x := range s.templates {
		if x.Metric && !there[scope.TemplateKey(x)] && len(templates) < maxTemplates {
			templates = append(templates, x)
		}
	}
	slices.SortFunc(templates, func(a, b *probev1.Template) int { return cmp.Compare(scope.TemplateKey(a), scope.TemplateKey(b)) })
	return templates
}

func (s *Sender) refOf(entity string) uint32 {
	if entity == "" {
		return 0
	}
	return s.ref("e" + entity)
}

// gone lists the numbers of what is not there any more, and forgets them.
func (s *Sender) gone(kind string, was any, there func(string) bool) []uint32 {
	var keys []string
	switch was := was.(type) {
	case map[string]*probev1.Entity:
		keys = slices.Collect(maps.Keys(was))
	case map[string]*probev1.Edge:
		keys = slices.Collect(maps.Keys(was))
	case map[string]*probev1.Listener:
		keys = slices.Collect(maps.Keys(was))
	}
	var out []uint32
	for _, key := range keys {
		if !there(key) {
			out = append(out, s.refs[kind+key])
			delete(s.refs, kind+key)
		}
	}
	slices.SortFunc(out, func(a, b uint32) int { return cmp.Compare(a, b) })
	return out
}
