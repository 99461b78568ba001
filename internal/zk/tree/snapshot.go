package tree

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

// Limits on what a snapshot may claim.
const (
	maxSessions = 10 << 20
	maxACLs     = 10 << 20
	maxACLSize  = 10_000
)

// Read reads the body of a snapshot: sessions, ACLs, nodes. That is what a leader sends to a learner, and what stands
// between header and checksum in a file.
func Read(s *jute.Stream) (*Tree, error) {
	t := empty()
	for range s.Count(maxSessions) {
		id, timeout := s.Long(), s.Int()
		if s.Err() != nil {
			break
		}
		t.sessions[id] = timeout
	}
	acls := map[int64]int32{-1: 0}
	for range s.Count(maxACLs) {
		id := s.Long()
		var acl []zk.ACL
		for range s.Count(maxACLSize) {
			acl = append(acl, zk.ACL{Perms: zk.Perm(s.Int()), Scheme: s.String(), ID: s.String()})
			if s.Err() != nil {
				break
			}
		}
		if s.Err() != nil {
			break
		}
		acls[id] = t.acls.id(acl)
	}
	for s.Err() == nil {
		path := s.String()
		if s.Err() != nil || path == "/" {
			break
		}
		n := &Node{Path: path, Data: s.Buffer()}
		aclID := s.Long()
		n.Czxid, n.Mzxid, n.Ctime, n.Mtime = s.Long(), s.Long(), s.Long(), s.Long()
		n.Version, n.Creations, n.Aversion = s.Int(), s.Int(), s.Int()
		n.Owner, n.Pzxid = s.Long(), s.Long()
		if s.Err() != nil {
			break
		}
		var ok bool
		if n.acl, ok = acls[aclID]; !ok {
			return nil, fmt.Errorf("snapshot: node %q has ACL %d, which is not in the list", path, aclID)
		}
		if path == "" {
			n.Path = "/"
			if t.root != nil {
				return nil, fmt.Errorf("snapshot: the root is there twice")
			}
			t.root = n
			t.nodes["/"] = n
			t.track(n)
			continue
		}
		if err := zk.ValidatePath(path); err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
		parent := t.nodes[zk.Parent(path)]
		if parent == nil || t.nodes[path] != nil {
			return nil, fmt.Errorf("snapshot: node %q has no parent, or is there twice", path)
		}
		t.insert(parent, n)
	}
	if err := s.Err(); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("snapshot ends after %d bytes, %d nodes: %w", s.Offset(), len(t.nodes), err)
	}
	if t.root == nil {
		return nil, fmt.Errorf("snapshot has no root")
	}
	return t, nil
}

// Write writes the body of a snapshot, as Read and every server reads it.
func (t *Tree) Write(w io.Writer) error {
	b := make([]byte, 0, 64<<10)
	var err error
	flush := func(limit int) bool {
		if len(b) >= limit && err == nil {
			_, err = w.Write(b)
			b = b[:0]
		}
		return err == nil
	}
	b = jute.AppendInt(b, int32(len(t.sessions)))
	for id, timeout := range t.sessions {
		b = jute.AppendLong(b, id)
		b = jute.AppendInt(b, timeout)
		flush(48 << 10)
	}
	b = jute.AppendInt(b, int32(len(t.acls.lists)))
	for i, acl := range t.acls.lists {
		b = jute.AppendLong(b, int64(i+1))
		b = zk.AppendACL(b, acl)
		flush(48 << 10)
	}
	for n := range t.Walk("/") {
		path := n.Path
		if path == "/" {
			path = ""
		}
		b = jute.AppendString(b, path)
		b = jute.AppendBuffer(b, n.Data)
		b = jute.AppendLong(b, int64(n.acl+1))
		for _, v := range []int64{n.Czxid, n.Mzxid, n.Ctime, n.Mtime} {
			b = jute.AppendLong(b, v)
		}
		b = jute.AppendInt(b, n.Version)
		b = jute.AppendInt(b, n.Creations)
		b = jute.AppendInt(b, n.Aversion)
		b = jute.AppendLong(b, n.Owner)
		b = jute.AppendLong(b, n.Pzxid)
		if !flush(48 << 10) {
			return err
		}
	}
	b = jute.AppendString(b, "/")
	flush(1)
	return err
}

// Difference is one way in which two trees are not the same.
type Difference struct {
	Path string `json:"path"`
	What string `json:"what"` // missing, extra, data, acl, version, aversion, kind, counter
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
}

// Aspects selects what Compare looks at beside presence and data.
type Aspects struct {
	Versions bool // version and aversion
	Counters bool // how many children were ever created: the next sequence number
	ACL      bool
	Kind     bool // persistent, container, TTL with its time
}

// AllAspects compares everything that two ensembles can have in common.
var AllAspects = Aspects{true, true, true, true}

// Compare reports how b below rootB differs from a below rootA, at most limit differences (0: all); skip leaves out nodes, by their
// paths in a, and has to say so for each of a subtree. Transaction numbers and times are never compared: two ensembles cannot have the same.
func Compare(a *Tree, rootA string, b *Tree, rootB string, what Aspects, skip func(*Node) bool, limit int) []Difference {
	var out []Difference
	add := func(d Difference) bool {
		out = append(out, d)
		return limit == 0 || len(out) < limit
	}
	mapPath := func(path, from, to string) string {
		if from == to {
			return path
		}
		rel := path[len(from):]
		if from == "/" {
			rel = path
		}
		if path == from {
			return to
		}
		if to == "/" {
			return rel
		}
		return to + rel
	}
	if skip == nil {
		skip = func(*Node) bool { return false }
	}
	for n := range a.Walk(rootA) {
		if skip(n) {
			continue
		}
		m := b.Get(mapPath(n.Path, rootA, rootB))
		if m == nil {
			if !add(Difference{Path: n.Path, What: "missing", A: n.summary()}) {
				return out
			}
			continue
		}
		for _, d := range compareNodes(a, n, b, m, what) {
			if !add(d) {
				return out
			}
		}
	}
	for m := range b.Walk(rootB) {
		path := mapPath(m.Path, rootB, rootA)
		if a.Get(path) == nil && !skip(&Node{Path: path, Data: m.Data, Stat: m.Stat}) {
			if !add(Difference{Path: path, What: "extra", B: m.summary()}) {
				return out
			}
		}
	}
	return out
}

func (n *Node) summary() string {
	return fmt.Sprintf("%s, version %d, %d bytes", n.Kind(), n.Version, len(n.Data))
}

func compareNodes(a *Tree, n *Node, b *Tree, m *Node, what Aspects) []Difference {
	var out []Difference
	diff := func(kind string, x, y any) {
		if x != y {
			out = append(out, Difference{n.Path, kind, fmt.Sprint(x), fmt.Sprint(y)})
		}
	}
	if string(n.Data) != string(m.Data) {
		out = append(out, Difference{n.Path, "data", excerpt(n.Data), excerpt(m.Data)})
	}
	if what.ACL && !slices.Equal(a.ACL(n), b.ACL(m)) {
		out = append(out, Difference{n.Path, "acl", fmt.Sprint(a.ACL(n)), fmt.Sprint(b.ACL(m))})
	}
	if what.Versions {
		diff("version", n.Version, m.Version)
		diff("aversion", n.Aversion, m.Aversion)
	}
	if what.Counters {
		diff("counter", n.Creations, m.Creations)
	}
	if what.Kind {
		diff("kind", n.Kind(), m.Kind())
		diff("ttl", n.TTL(), m.TTL())
	}
	return out
}

func excerpt(b []byte) string {
	if len(b) > 60 {
		return fmt.Sprintf("%q… (%d bytes)", b[:60], len(b))
	}
	return fmt.Sprintf("%q", b)
}
