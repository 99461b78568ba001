package read

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Source is where pictures come from.
type Source interface {
	// Picture calls f with the picture of a spec and what it is of, while neither changes. at is 0 for now, or a time in
	// milliseconds.
	Picture(ctx context.Context, spec view.Spec, at int64, f func(*estate.Reader, *view.View)) error
	// Estate calls f with the estate of a time.
	Estate(ctx context.Context, at int64, f func(*estate.Reader)) error
}

// ErrNotFound says that there is no such topology or node.
var ErrNotFound = errors.New("no such topology or node")

const (
	// fresh is for how long a picture that was read is used again.
	fresh = 500 * time.Millisecond
	// kept is for how long it is kept after that, until Tidy is called.
	kept = 30 * time.Second
)

// API answers. It is safe for concurrent use.
type API struct {
	source Source
	now    func() time.Time

	mu   sync.Mutex
	held map[string]*held
}

// held is a topology's newest picture. Whoever needs a newer one reads it, and others wait for that.
type held struct {
	mu      sync.Mutex
	read    time.Time
	picture *picture
}

// New makes the API of a source.
func New(source Source, now func() time.Time) *API {
	return &API{source: source, now: now, held: map[string]*held{}}
}

// Tidy forgets pictures that nobody has asked for of late.
func (a *API) Tidy() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, h := range a.held {
		if h.mu.TryLock() {
			if a.now().Sub(h.read) > kept {
				delete(a.held, id)
			}
			h.mu.Unlock()
		}
	}
}

// picture gives a topology as it is now, or was at a time.
func (a *API) picture(ctx context.Context, t *desc, at int64) (*picture, error) {
	if t.view == "" {
		return &picture{desc: t}, nil
	}
	var p *picture
	read := func() error {
		if ok, err := a.has(ctx, t, at); !ok {
			p = &picture{desc: t}
			return err
		}
		return a.source.Picture(ctx, t.spec(), at, func(r *estate.Reader, v *view.View) { p = gather(t, r, v, at, a.now().UnixMilli()) })
	}
	if at != 0 {
		err := read()
		return p, err
	}
	a.mu.Lock()
	h := a.held[t.id]
	if h == nil {
		h = &held{}
		a.held[t.id] = h
	}
	a.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.picture != nil && a.now().Sub(h.read) < fresh {
		return h.picture, nil
	}
	if err := read(); err != nil {
		return nil, err
	}
	h.picture, h.read = p, a.now()
	return p, nil
}

// has reports whether there is anything that a topology shows. Where there is no pod, Scope shows neither pods nor what is outside of
// them, and no picture need be made.
func (a *API) has(ctx context.Context, t *desc, at int64) (found bool, err error) {
	if t.always {
		return true, nil
	}
	err = a.source.Estate(ctx, at, func(r *estate.Reader) {
		r.Entities(func(e *estate.Entity) bool {
			found = e.Kind == t.kind || e.Kind == topology.KindContainer && slices.ContainsFunc(e.Parents, func(p string) bool { return topology.KindOf(p) == t.kind })
			return !found
		})
	})
	return found, err
}

// shown is a picture after the filters.
type shown struct {
	nodes    []*node // by id
	kept     map[*node]bool
	filtered int
}

// filter leaves out what the options say, then what stands for the outside and talks to nothing that is left.
func (p *picture) filter(asked url.Values) shown {
	s := shown{kept: make(map[*node]bool, len(p.nodes))}
	options := p.desc.options
	if p.desc.parent != "containers" { // Scope lists the namespaces there as well, and does not look at them
		options = p.desc.with(p.namespaces)
	}
	keeps := filters(options, asked)
	for _, n := range p.nodes {
		s.kept[n] = !slices.ContainsFunc(keeps, func(f func(*node) bool) bool { return !f(n) })
	}
	connected := map[*node]bool{}
	for _, n := range p.nodes {
		if !s.kept[n] {
			continue
		}
		for _, o := range n.out {
			if o != n && s.kept[o] && !(n.internet && o.internet) {
				connected[n], connected[o] = true, true
			}
		}
	}
	for _, n := range p.nodes {
		if s.kept[n] && n.pseudo && !connected[n] {
			s.kept[n] = false
		}
		if s.kept[n] {
			s.nodes = append(s.nodes, n)
		} else {
			s.filtered++
		}
	}
	slices.SortFunc(s.nodes, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	return s
}

// targets calls yield with each node that n talks to and that is shown.
func (s *shown) targets(n *node, yield func(*node) bool) {
	for _, o := range n.out {
		if s.kept[o] && !(n.internet && o.internet) && !yield(o) {
			return
		}
	}
}

// appendRow writes a node with its adjacency.
func (s *shown) appendRow(b *bytes.Buffer, n *node) {
	b.Write(n.row)
	first := true
	s.targets(n, func(o *node) bool {
		if first {
			b.WriteString(`,"adjacency":[`)
			first = false
		} else {
			b.WriteByte(',')
		}
		b.Write(o.quoted)
		return true
	})
	if !first {
		b.WriteByte(']')
	}
	b.WriteByte('}')
}

// Has reports whether there is a topology.
func Has(id string) bool {
	_, ok := find(id)
	return ok
}

// Topology answers GET /api/topology/{topology}.
func (a *API) Topology(ctx context.Context, id string, asked url.Values, at int64) ([]byte, error) {
	t, ok := find(id)
	if !ok {
		return nil, ErrNotFound
	}
	p, err := a.picture(ctx, t, at)
	if err != nil {
		return nil, err
	}
	p.encode()
	s := p.filter(asked)
	size := 64
	for _, n := range s.nodes {
		size += len(n.row) + len(n.quoted)*(1+len(n.out)) + 2*len(n.out) + 32
	}
	b := bytes.NewBuffer(make([]byte, 0, size))
	b.WriteString(`{"nodes":{`)
	for i, n := range s.nodes {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(n.quoted)
		b.WriteByte(':')
		s.appendRow(b, n)
	}
	b.WriteString("}}\n")
	return b.Bytes(), nil
}

// Node answers GET /api/topology/{topology}/{id}. Options say which connections are shown; the node itself is in any case.
func (a *API) Node(ctx context.Context, id, node string, asked url.Values, at int64) ([]byte, error) {
	t, ok := find(id)
	if !ok || t.view == "" {
		return nil, ErrNotFound
	}
	if ok, err := a.has(ctx, t, at); !ok {
		return nil, cmp.Or(err, ErrNotFound)
	}
	var c *closeLook
	var p *picture
	now := a.now().UnixMilli()
	err := a.source.Picture(ctx, t.spec(), at, func(r *estate.Reader, v *view.View) {
		if c = look(t, r, v, node, at, now); c != nil && at != 0 {
			p = gather(t, r, v, at, now) // the past is made anew for each request: once is enough
		}
	})
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, ErrNotFound
	}
	if at == 0 {
		if p, err = a.picture(ctx, t, 0); err != nil {
			return nil, err
		}
	}
	c.only(p.filter(asked))
	d := c.render(t, cmp.Or(at, now))
	body, err := json.Marshal(map[string]any{"node": d})
	return append(body, '\n'), err
}

// only leaves the connections with nodes that are shown, and takes these as they are in the picture.
func (c *closeLook) only(s shown) {
	known := make(map[string]*node, len(s.nodes))
	for _, n := range s.nodes {
		known[n.id] = n
	}
	leave := func(links []link) (out []link) {
		for _, l := range links {
			if n := known[l.peer.id]; n != nil || l.peer.id == c.node.id {
				l.peer = cmp.Or(n, c.node)
				out = append(out, l)
			}
		}
		return out
	}
	c.in, c.out = leave(c.in), leave(c.out)
	c.node.out = nil
	for _, l := range c.out {
		c.node.out = append(c.node.out, l.peer)
	}
}

type stats struct {
	Nodes     int `json:"node_count"`
	NonPseudo int `json:"nonpseudo_node_count"`
	Edges     int `json:"edge_count"`
	Filtered  int `json:"filtered_nodes"`
}

type listed struct {
	Name        string   `json:"name"`
	Rank        int      `json:"rank"`
	HideIfEmpty bool     `json:"hide_if_empty"`
	Options     []group  `json:"options"`
	URL         string   `json:"url"`
	Sub         []listed `json:"sub_topologies,omitempty"`
	Stats       stats    `json:"stats"`
}

// List answers GET /api/topology.
func (a *API) List(ctx context.Context, asked url.Values, at int64) ([]byte, error) {
	all := descs()
	entry := func(t *desc) (listed, error) {
		out := listed{Name: t.name, Rank: t.rank, HideIfEmpty: t.hideIfEmpty, Options: t.options, URL: "/api/topology/" + t.id}
		p, err := a.picture(ctx, t, at)
		if err != nil {
			return out, err
		}
		out.Options = t.with(p.namespaces)
		s := p.filter(asked)
		out.Stats.Nodes, out.Stats.Filtered = len(s.nodes), s.filtered
		for _, n := range s.nodes {
			if !n.pseudo {
				out.Stats.NonPseudo++
			}
			s.targets(n, func(*node) bool { out.Stats.Edges++; return true })
		}
		return out, nil
	}
	list := []listed{}
	for i := range all {
		if all[i].parent != "" {
			continue
		}
		x, err := entry(&all[i])
		if err != nil {
			return nil, err
		}
		for j := range all {
			if all[j].parent != all[i].id {
				continue
			}
			sub, err := entry(&all[j])
			if err != nil {
				return nil, err
			}
			x.Sub = append(x.Sub, sub)
		}
		list = append(list, x)
	}
	slices.SortStableFunc(list, func(a, b listed) int { return cmp.Compare(a.Name, b.Name) })
	body, err := json.Marshal(list)
	return append(body, '\n'), err
}

// Follower is a reader of a topology's differences.
type Follower struct {
	api   *API
	desc  *desc
	asked url.Values
	sent  map[string]sums // nil before the first message
}

// sums tell whether a row is another one than was sent.
type sums struct{ row, adjacency uint64 }

// Follow makes a reader of differences.
func (a *API) Follow(id string, asked url.Values) (*Follower, error) {
	t, ok := find(id)
	if !ok {
		return nil, ErrNotFound
	}
	return &Follower{api: a, desc: t, asked: asked}, nil
}

// Next is the difference to what was sent last: everything, the first time. It is empty when nothing has changed, and is sent
// nevertheless: so readers of Scope's know that the connection lives.
func (f *Follower) Next(ctx context.Context, at int64) ([]byte, error) {
	p, err := f.api.picture(ctx, f.desc, at)
	if err != nil {
		return nil, err
	}
	p.encode()
	s := p.filter(f.asked)
	now := make(map[string]sums, len(s.nodes))
	var add, update bytes.Buffer
	for _, n := range s.nodes {
		x := sums{row: n.sum}
		s.targets(n, func(o *node) bool { x.adjacency = x.adjacency*31 + o.idSum(); return true })
		was, ok := f.sent[n.id]
		now[n.id] = x
		to := &update
		if !ok {
			to = &add
		} else if was == x {
			continue
		}
		to.WriteByte(',')
		s.appendRow(to, n)
	}
	var gone []string
	for id := range f.sent {
		if _, ok := now[id]; !ok {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	var b bytes.Buffer
	b.Grow(add.Len() + update.Len() + 128)
	list := func(name string, rows []byte) {
		b.WriteString(name)
		if len(rows) == 0 {
			b.WriteString("null")
			return
		}
		b.WriteByte('[')
		b.Write(rows[1:])
		b.WriteByte(']')
	}
	list(`{"add":`, add.Bytes())
	list(`,"update":`, update.Bytes())
	b.WriteString(`,"remove":`)
	ids, err := json.Marshal(gone)
	if err != nil {
		return nil, err
	}
	b.Write(ids)
	if f.sent == nil {
		b.WriteString(`,"reset":true`)
	}
	b.WriteByte('}')
	f.sent = now
	return b.Bytes(), nil
}
