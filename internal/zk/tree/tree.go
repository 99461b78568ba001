package tree

import (
	"fmt"
	"iter"
	"maps"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// DigestVersion is the version of the digest that Digest computes; transactions carry theirs.
const DigestVersion = 2

// Tree is a data tree.
type Tree struct {
	nodes      map[string]*Node
	root       *Node
	acls       aclTable
	sessions   map[int64]int32 // timeout in ms
	ephemerals map[int64]map[*Node]struct{}
	zxid       int64
	sum        uint64
}

// New returns the tree of a server that has never had a transaction.
func New() *Tree {
	t := empty()
	t.root = &Node{Path: "/", Data: []byte{}}
	t.nodes["/"] = t.root
	t.track(t.root)
	for _, path := range []string{"/zookeeper", "/zookeeper/quota", "/zookeeper/config"} {
		n := &Node{Path: path, Data: []byte{}}
		if path == "/zookeeper/config" {
			n.acl, n.Aversion = t.acls.id(zk.ReadACL()), -1
		}
		t.nodes[path] = n
		t.nodes[zk.Parent(path)].link(n)
		t.track(n)
	}
	return t
}

func empty() *Tree {
	return &Tree{nodes: map[string]*Node{}, acls: newACLTable(), sessions: map[int64]int32{}, ephemerals: map[int64]map[*Node]struct{}{}}
}

// Zxid is the last transaction that was replayed.
func (t *Tree) Zxid() int64 { return t.zxid }

// SetZxid states the transaction up to which the tree holds everything.
func (t *Tree) SetZxid(zxid int64) { t.zxid = zxid }

// Len is the number of nodes.
func (t *Tree) Len() int { return len(t.nodes) }

// Digest is the sum over all nodes, as a server of 3.6+ computes it.
func (t *Tree) Digest() int64 { return int64(t.sum) }

// Get returns a node, or nil.
func (t *Tree) Get(path string) *Node { return t.nodes[path] }

// ACL is a node's access control list; it must not be changed.
func (t *Tree) ACL(n *Node) []zk.ACL { return t.acls.lists[n.acl] }

// Sessions are the open sessions with their timeouts in ms; the map must not be changed.
func (t *Tree) Sessions() map[int64]int32 { return t.sessions }

// Ephemerals are the ephemeral nodes of a session.
func (t *Tree) Ephemerals(session int64) iter.Seq[*Node] { return maps.Keys(t.ephemerals[session]) }

// Walk yields a node and everything below it, parents first, while yield returns true. It returns at once when there is no such
// node. The tree must not be changed meanwhile.
func (t *Tree) Walk(path string) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		top := t.nodes[path]
		if top == nil {
			return
		}
		// Without recursion: a tree may be deep.
		for n := top; n != nil; {
			if !yield(n) {
				return
			}
			if n.first != nil {
				n = n.first
				continue
			}
			for n != top && n.next == nil {
				n = n.parent
			}
			if n == top {
				return
			}
			n = n.next
		}
	}
}

// track puts a node's digest into the sum, and untrack takes it out.
func (t *Tree) track(n *Node) {
	n.digest = digestOf(n)
	t.sum += uint64(n.digest)
}

func (t *Tree) untrack(n *Node) { t.sum -= uint64(n.digest) }

// Apply replays a transaction. Operations that find the tree not as they expect are passed over as the server passes over
// them; how many is returned: 0 in a tree that is exact.
func (t *Tree) Apply(x *txn.Txn) (odd int) { return t.ApplyEach(x, nil) }

// ApplyEach is Apply with a call before each change, when the tree is as that change finds it. The end of a session is told as
// deletions of its nodes.
func (t *Tree) ApplyEach(x *txn.Txn, before func(*txn.Op)) (odd int) {
	if before == nil {
		before = func(*txn.Op) {}
	}
	switch x.Type {
	case zk.OpCreateSession:
		t.sessions[x.ClientID] = x.Timeout
	case zk.OpCloseSession:
		for _, p := range x.Paths {
			before(&txn.Op{Type: zk.OpDelete, Path: p})
			if !t.remove(p, x.Zxid) {
				odd++
			}
		}
		// What the list does not name, because the server is old or the snapshot fuzzy, goes too.
		for n := range t.ephemerals[x.ClientID] {
			before(&txn.Op{Type: zk.OpDelete, Path: n.Path})
			t.remove(n.Path, x.Zxid)
		}
		delete(t.sessions, x.ClientID)
		delete(t.ephemerals, x.ClientID)
	default:
		if x.Failed {
			break
		}
		for i := range x.Ops {
			before(&x.Ops[i])
			if !t.apply(&x.Ops[i], x) {
				odd++
			}
		}
	}
	if x.Zxid > t.zxid {
		t.zxid = x.Zxid
	}
	return odd
}

func (t *Tree) apply(op *txn.Op, x *txn.Txn) bool {
	switch op.Type {
	case zk.OpCreate, zk.OpCreate2, zk.OpCreateContainer, zk.OpCreateTTL:
		return t.create(op, x)
	case zk.OpDelete, zk.OpDeleteContainer:
		return t.remove(op.Path, x.Zxid)
	case zk.OpSet, zk.OpReconfig:
		n := t.nodes[op.Path]
		if n == nil {
			return false
		}
		t.untrack(n)
		n.Data, n.Mtime, n.Mzxid, n.Version = op.Data, x.Time, x.Zxid, op.Version
		t.track(n)
	case zk.OpSetACL:
		n := t.nodes[op.Path]
		if n == nil {
			return false
		}
		t.untrack(n)
		n.Aversion = op.Version
		n.acl = t.acls.id(op.ACL)
		t.track(n)
	}
	return true // checks and errors change nothing
}

func (t *Tree) create(op *txn.Op, x *txn.Txn) bool {
	parent := t.nodes[zk.Parent(op.Path)]
	if parent == nil || op.Path == "/" {
		return false
	}
	creations := op.ParentCVersion
	if creations == -1 {
		creations = parent.Creations + 1
	}
	if n := t.nodes[op.Path]; n != nil {
		n.acl = t.acls.id(op.ACL)
		if op.Type == zk.OpCreate && x.Type == zk.OpCreate && creations > parent.Creations {
			t.untrack(parent)
			parent.Creations, parent.Pzxid = creations, x.Zxid
			t.track(parent)
		}
		return false
	}
	t.untrack(parent)
	if creations > parent.Creations {
		parent.Creations, parent.Pzxid = creations, x.Zxid
	}
	t.track(parent)
	n := &Node{Path: op.Path, Data: op.Data, acl: t.acls.id(op.ACL), Stat: Stat{
		Czxid: x.Zxid, Mzxid: x.Zxid, Pzxid: x.Zxid, Ctime: x.Time, Mtime: x.Time, Owner: op.Owner(x.ClientID),
	}}
	t.insert(parent, n)
	return true
}

func (t *Tree) insert(parent, n *Node) {
	t.nodes[n.Path] = n
	parent.link(n)
	t.track(n)
	t.own(n)
}

// own lists an ephemeral node with its session.
func (t *Tree) own(n *Node) {
	if n.Kind() == zk.KindEphemeral {
		set := t.ephemerals[n.Owner]
		if set == nil {
			set = map[*Node]struct{}{}
			t.ephemerals[n.Owner] = set
		}
		set[n] = struct{}{}
	}
}

// Put inserts a node as it was read from somewhere, or makes one that is there what was read; its parent must be there.
func (t *Tree) Put(path string, data []byte, acl []zk.ACL, st Stat) error {
	parent := t.nodes[zk.Parent(path)]
	if path == "/" {
		t.untrack(t.root)
		t.root.Data, t.root.Stat, t.root.acl = data, st, t.acls.id(acl)
		t.track(t.root)
		return nil
	}
	if parent == nil {
		return fmt.Errorf("node %s has no parent", path)
	}
	if n := t.nodes[path]; n != nil {
		t.untrack(n)
		delete(t.ephemerals[n.Owner], n)
		n.Data, n.Stat, n.acl = data, st, t.acls.id(acl)
		t.track(n)
		t.own(n)
		return nil
	}
	t.insert(parent, &Node{Path: path, Data: data, Stat: st, acl: t.acls.id(acl)})
	return nil
}

// Remove takes a node and all below it out of the tree; counters stay as they are.
func (t *Tree) Remove(path string) bool { return t.remove(path, 0) }

func (t *Tree) remove(path string, zxid int64) bool {
	if path == "/" {
		return false
	}
	parent := t.nodes[zk.Parent(path)]
	if parent == nil {
		return false
	}
	if zxid > parent.Pzxid {
		t.untrack(parent)
		parent.Pzxid = zxid
		t.track(parent)
	}
	n := t.nodes[path]
	if n == nil {
		return false
	}
	if n.first != nil {
		// A server deletes only leaves. In a fuzzy snapshot children may be there that a transaction to come deletes; they
		// would be lost to the server as well, so they go.
		for c := n.first; c != nil; c = n.first {
			t.remove(c.Path, zxid)
		}
	}
	delete(t.nodes, path)
	parent.unlink(n)
	t.untrack(n)
	if set := t.ephemerals[n.Owner]; set != nil {
		delete(set, n)
	}
	return true
}

// Verify replays a transaction and compares the tree's digest with the transaction's. known is false when the transaction
// carries none.
func (t *Tree) Verify(x *txn.Txn) (equal, known bool) {
	if x.Digest == nil || x.Digest.Version != DigestVersion {
		return true, false
	}
	return x.Digest.Tree == t.Digest(), true
}

// aclTable gives every distinct list a small number. There are few of them, so none is ever forgotten, up to a limit.
type aclTable struct {
	lists [][]zk.ACL
	ids   map[string]int32
}

func newACLTable() aclTable {
	a := aclTable{ids: map[string]int32{}}
	a.id(zk.OpenACL()) // number 0: what -1 means in snapshots
	return a
}

func (a *aclTable) id(acl []zk.ACL) int32 {
	key := string(zk.AppendACL(nil, acl))
	id, ok := a.ids[key]
	if !ok {
		id = int32(len(a.lists))
		a.lists = append(a.lists, acl)
		a.ids[key] = id
	}
	return id
}

// String sums the tree up.
func (t *Tree) String() string {
	return fmt.Sprintf("%d nodes at 0x%x, digest %x", len(t.nodes), t.zxid, t.sum)
}
