package bulk

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Node is one node that was read.
type Node struct {
	Path string
	Data []byte
	Stat zk.Stat
	ACL  []zk.ACL
	// Children are sorted by name; they are there once the level below was read.
	Children []Node
	// Gone says that the node went while the tree was read. It is as if it had never been there.
	Gone bool
	// Denied says that the node's ACL does not let us read it (its data, children or ACL).
	Denied bool

	names []string
}

// Options say what Read reads. Names are always read.
type Options struct {
	Stat bool // every node's Stat
	Data bool // data, with the Stat
	ACL  bool
	// Depth is how many levels below the root are read; -1 reads all.
	Depth int
	// Skip, when set, leaves out nodes and what is below them by their paths; the root is never asked about.
	Skip func(path string) bool
	// Progress, when set, is told how many nodes were read.
	Progress func(nodes int)
	// Level, when set, gets every level as it was read, parents before their children. A Node that is not wanted any longer is let go.
	Level func(level []Node) error
}

// Tree is what Read has read.
type Tree struct {
	Root   Node
	Nodes  int // without those that went
	Denied int // nodes that could not be read whole
}

const (
	batchNodes = 128       // nodes in one multiRead, at most
	batchBytes = 256 << 10 // and the data that it will probably answer
	// With both, what a server holds in answers to us is bounded also when a few nodes are much larger than the others.
	batches = 16
	singles = 1000
	// Above this size a Stat is asked for alone, not with the data.
	smallNode = 2 << 10
	// How often requests that were not answered are repeated, when the connection breaks meanwhile.
	attempts = 8
)

type reader struct {
	c *zk.Client
	o Options

	mu    sync.Mutex
	old   bool // the server does not know multiRead
	bytes int64
	sized int64 // nodes whose size is in bytes
	done  int
	acl   []zk.ACL // the last that was read: most nodes have the same
}

// Read reads root and what is below it. A root that is not there is an error; elsewhere nodes that go meanwhile are left out.
func Read(ctx context.Context, c *zk.Client, root string, o Options) (*Tree, error) {
	r := &reader{c: c, o: o}
	if err := c.Sync(ctx); err != nil && !errors.Is(err, zk.ErrNotReadOnly) {
		return nil, err
	}
	t := &Tree{}
	top := []Node{{Path: root}}
	level := top
	for depth := 0; len(level) > 0; depth++ {
		if err := r.level(ctx, level, depth); err != nil {
			return nil, err
		}
		next := 0
		for i := range level {
			n := &level[i]
			if n.Gone {
				n.names = nil
				continue
			}
			t.Nodes++
			if n.Denied {
				t.Denied++
			}
			next += len(n.names)
		}
		if o.Level != nil {
			if err := o.Level(level); err != nil {
				return nil, err
			}
		}
		below := make([]Node, 0, next)
		for i := range level {
			n := &level[i]
			slices.Sort(n.names)
			first := len(below)
			for _, name := range n.names {
				if path := zk.Join(n.Path, name); o.Skip == nil || !o.Skip(path) {
					below = append(below, Node{Path: path})
				}
			}
			n.Children, n.names = below[first:len(below):len(below)], nil
		}
		level = below
	}
	t.Root = top[0]
	return t, nil
}

// level reads the nodes of one level, and the names of the next.
func (r *reader) level(ctx context.Context, level []Node, depth int) error {
	deeper, top := r.o.Depth < 0 || depth < r.o.Depth, depth == 0
	nodes := make([]*Node, 0, len(level))
	for i := range level {
		nodes = append(nodes, &level[i])
	}
	sized := r.o.Stat || r.o.Data
	passes := []func() request{}
	if sized {
		passes = append(passes, r.stats)
	}
	if r.o.ACL {
		passes = append(passes, r.acls)
	}
	if deeper || top && len(passes) == 0 { // that the root is there must be asked in some way
		passes = append(passes, r.children)
	}
	if len(passes) == 0 {
		r.count(len(level)) // nothing else is wanted of nodes that their parents have named
	}
	for i, pass := range passes {
		if err := r.all(ctx, nodes, pass, top, i == 0); err != nil {
			return err
		}
		nodes = slices.DeleteFunc(nodes, func(n *Node) bool {
			return n.Gone || n.Denied || sized && i+2 == len(passes) && deeper && n.Stat.NumChildren == 0 // none to be asked for
		})
	}
	if !deeper {
		for i := range level {
			level[i].names = nil
		}
	}
	return nil
}

func (r *reader) count(n int) {
	r.done += n
	if r.o.Progress != nil {
		r.o.Progress(r.done)
	}
}

// seen says whether multiRead is unknown to the server, and how large nodes were so far (-1: not known).
func (r *reader) seen() (old bool, average int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sized == 0 {
		return r.old, -1
	}
	return r.old, r.bytes / r.sized
}

// request is one kind of question about a node.
type request struct {
	op    func(path string) zk.Op
	multi bool  // it can be asked of many nodes at once
	size  int64 // of the answer about one node, probably
	take  func(n *Node, res *zk.Result)
}

func (r *reader) stats() request {
	_, size := r.seen()
	if size < 0 {
		size = batchBytes / 16
	}
	take := func(n *Node, res *zk.Result) {
		n.Stat = res.Stat
		if r.o.Data {
			n.Data = res.Data
		}
		r.bytes += int64(n.Stat.DataLength)
		r.sized++
	}
	if !r.o.Data && size > smallNode {
		return request{zk.Exists, false, 0, take}
	}
	return request{zk.Get, true, size, take}
}

func (r *reader) acls() request {
	return request{zk.GetACL, false, 0, func(n *Node, res *zk.Result) {
		if !slices.Equal(r.acl, res.ACL) {
			r.acl = res.ACL
		}
		n.ACL = r.acl
	}}
}

func (r *reader) children() request {
	return request{zk.Children, true, 1 << 10, func(n *Node, res *zk.Result) { n.names = res.Children }}
}

// all asks about every node. What is not answered because the connection broke is asked again.
func (r *reader) all(ctx context.Context, nodes []*Node, kind func() request, top, counts bool) error {
	for attempt := 1; len(nodes) > 0; attempt++ {
		again, err := r.once(ctx, nodes, kind, top, counts)
		if err != nil {
			return err
		}
		if len(again) > 0 && attempt == attempts {
			return &zk.OpError{Op: "read", Path: again[0].Path, Err: zk.ErrConnectionLoss}
		}
		nodes, counts = again, false
	}
	return nil
}

// unanswered reports errors after which a reading question may be asked again.
func unanswered(err error) bool {
	for _, e := range []zk.Error{zk.ErrConnectionLoss, zk.ErrSessionExpired, zk.ErrSessionMoved, zk.ErrThrottled, zk.ErrOverloaded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (r *reader) once(ctx context.Context, nodes []*Node, kind func() request, top, counts bool) ([]*Node, error) {
	many, one := r.c.NewWindow(batches), r.c.NewWindow(singles)
	var again, denied []*Node
	// answer takes what was said about one node; the lock is held.
	answer := func(req *request, n *Node, res *zk.Result, err error) error {
		switch {
		case err == nil:
			req.take(n, res)
		case errors.Is(err, zk.ErrNoNode) && !top:
			n.Gone = true
		case errors.Is(err, zk.ErrNoAuth):
			n.Denied = true
			denied = append(denied, n)
		case unanswered(err):
			again = append(again, n)
		default:
			return err
		}
		return nil
	}
	var err error
	for left := nodes; len(left) > 0 && err == nil; {
		req := kind()
		old, _ := r.seen()
		part := left[:min(len(left), batchNodes, int(max(1, batchBytes/max(req.size, 1))))]
		left = left[len(part):]
		if req.multi && !old {
			err = r.sendBatch(ctx, many, part, &req, answer, &again)
		} else {
			err = r.sendEach(ctx, one, part, &req, answer)
		}
		if counts {
			r.count(len(part))
		}
	}
	if err := errors.Join(many.Wait(ctx), one.Wait(ctx)); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	if r.o.Stat && len(denied) > 0 { // it can still be had
		w := r.c.NewWindow(singles)
		for _, n := range denied {
			_ = w.Send(ctx, zk.Exists(n.Path), func(res zk.Result, err error) error {
				if n.Gone = errors.Is(err, zk.ErrNoNode); err == nil {
					n.Stat = res.Stat
				}
				return nil
			})
		}
		err = w.Wait(ctx)
	}
	return again, err
}

type answerFunc func(req *request, n *Node, res *zk.Result, err error) error

func (r *reader) sendEach(ctx context.Context, w *zk.Window, part []*Node, req *request, answer answerFunc) error {
	for _, n := range part {
		err := w.Send(ctx, req.op(n.Path), func(res zk.Result, err error) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return answer(req, n, &res, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) sendBatch(ctx context.Context, w *zk.Window, part []*Node, req *request, answer answerFunc, again *[]*Node) error {
	ops := make([]zk.Op, len(part))
	for i, n := range part {
		ops[i] = req.op(n.Path)
	}
	return w.Send(ctx, zk.MultiRead(ops...), func(res zk.Result, err error) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if errors.Is(err, zk.ErrUnimplemented) || err != nil && unanswered(err) {
			r.old = r.old || errors.Is(err, zk.ErrUnimplemented)
			*again = append(*again, part...)
			return nil
		}
		if err != nil {
			return err
		}
		for i, n := range part {
			var each error
			if e := res.Results[i].Err; e != 0 {
				each = &zk.OpError{Op: ops[i].Code.String(), Path: n.Path, Err: e}
			}
			if err := answer(req, n, &res.Results[i], each); err != nil {
				return err
			}
		}
		return nil
	})
}
