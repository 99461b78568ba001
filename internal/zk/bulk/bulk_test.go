package bulk_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/bulk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func TestMain(m *testing.M) { os.Exit(zktest.Tests{M: m}.Run()) }

func super() []zk.Auth {
	return []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}
}

type snapshot struct{ t *tree.Tree }

var errDone = errors.New("done")

func (s *snapshot) Begin(t *tree.Tree) error { s.t = t; return nil }
func (s *snapshot) Txn(x *txn.Txn) error     { s.t.Apply(x); return nil }
func (s *snapshot) Live() error              { return errDone }
func (s *snapshot) Idle() error              { return nil }

// oracle reads the same through the quorum port.
func oracle(t *testing.T, e *zktest.Ensemble, root string, o bulk.Options) *bulk.Tree {
	t.Helper()
	s := &snapshot{}
	err := learner.Run(t.Context(), learner.Config{Addrs: []string{e.Nodes[0].Quorum}, Last: -2}, learner.Deps{}, s)
	if !errors.Is(err, errDone) {
		t.Fatal(err)
	}
	tr, err := bulk.FromTree(s.t, root, o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// lines prints a tree so that two can be compared. Clients are not told which nodes are containers or have a time to live.
func lines(n *bulk.Node, out []string) []string {
	st := n.Stat
	if k := st.Kind(); k == zk.KindContainer || k == zk.KindTTL {
		st.EphemeralOwner = 0
	}
	out = append(out, fmt.Sprint(n.Path, st, n.ACL, n.Gone, n.Denied, len(n.Data), crc32.ChecksumIEEE(n.Data)))
	for i := range n.Children {
		out = lines(&n.Children[i], out)
	}
	return out
}

// What Read reads equals what the quorum port sends: of every depth, by multiRead, node by node from an old server, and over a
// connection that breaks.
func TestReadIsWhatIsThere(t *testing.T) {
	t.Parallel()
	e := zktest.Start(t, zktest.Options{})
	base := e.Base(t)
	e.Churn(t, base, 3, 600)
	c := e.Client(t, zk.Config{Auth: super()})
	w := bulk.NewWriter(c, nil)
	for _, op := range []zk.Op{
		zk.Create(base+"/wide", nil, zk.OpenACL(), zk.Persistent),
		zk.Create(base+"/big", make([]byte, 900_000), zk.OpenACL(), zk.Persistent),
		zk.Create(base+"/big/below", make([]byte, 1), zk.ReadACL(), zk.Persistent),
	} {
		if err := w.Add(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1500 {
		if err := w.Add(t.Context(), zk.Create(fmt.Sprintf("%s/wide/n%d", base, i), fmt.Append(nil, i), zk.OpenACL(), zk.Persistent)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, refused := zktest.NewFakeOldServer(t, e.Nodes[0].Client)
	old := e.Client(t, zk.Config{Servers: []string{addr}, Auth: super()})
	proxy := zktest.NewProxy(t, e.Nodes[0].Client)
	broken := e.Client(t, zk.Config{Servers: []string{proxy.Addr()}, Auth: super()})
	for _, o := range []bulk.Options{
		{Depth: -1},
		{Depth: -1, Stat: true},
		{Depth: -1, Stat: true, Data: true, ACL: true},
		{Depth: 0},
		{Depth: 1, Stat: true},
		{Depth: 2, Data: true, Stat: true},
		{Depth: 1, ACL: true, Stat: true},
	} {
		want := oracle(t, e, base, o)
		if o.Depth < 0 && want.Nodes < 1500 {
			t.Fatalf("only %d nodes", want.Nodes)
		}
		if !o.Stat {
			strip(&want.Root)
		}
		for name, c := range map[string]*zk.Client{"new": c, "old": old, "broken": broken} {
			told := 0
			o.Progress = func(n int) {
				if name == "broken" && told == 0 {
					proxy.Break()
				}
				told = n
			}
			got, err := bulk.Read(t.Context(), c, base, o)
			if err != nil {
				t.Fatalf("%s %+v: %v", name, o, err)
			}
			if x, y := lines(&want.Root, nil), lines(&got.Root, nil); !slices.Equal(x, y) || want.Nodes != got.Nodes || got.Denied != 0 {
				t.Errorf("%s %+v: %.3000s", name, o, cmp.Diff(x, y))
			}
			if told < got.Nodes {
				t.Errorf("%s %+v: progress ended at %d of %d", name, o, told, got.Nodes)
			}
		}
	}
	if refused() == 0 {
		t.Error("the old server was never asked what it does not know")
	}
	if _, err := bulk.Read(t.Context(), c, base+"/none", bulk.Options{Depth: -1}); !errors.Is(err, zk.ErrNoNode) {
		t.Errorf("a root that is not there: %v", err)
	}
	skipped, err := bulk.Read(t.Context(), c, base, bulk.Options{Depth: -1, Skip: func(p string) bool { return zk.Within(p, base+"/wide") }})
	if all := oracle(t, e, base, bulk.Options{Depth: -1}); err != nil || skipped.Nodes != all.Nodes-1501 {
		t.Errorf("skipped: %v, %v of %v nodes", err, skipped.Nodes, all.Nodes)
	}
}

func strip(n *bulk.Node) {
	n.Stat = zk.Stat{}
	for i := range n.Children {
		strip(&n.Children[i])
	}
}

// What an ACL hides is marked and counted; its Stat, for which no right is needed, is there.
func TestReadDenied(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	c := e.Client(t, zk.Config{Auth: super()})
	secret := []zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: zk.DigestID("x", "y")}}
	if _, err := c.Multi(t.Context(), zk.Create(base+"/a", []byte("1"), zk.OpenACL(), zk.Persistent), zk.Create(base+"/b", []byte("22"), secret, zk.Persistent), zk.Create(base+"/b/c", nil, zk.OpenACL(), zk.Persistent)); err != nil {
		t.Fatal(err)
	}
	stranger := e.Client(t, zk.Config{})
	for _, o := range []bulk.Options{{Depth: -1}, {Depth: -1, Stat: true}, {Depth: -1, Stat: true, Data: true, ACL: true}} {
		got, err := bulk.Read(t.Context(), stranger, base, o)
		if err != nil || got.Nodes != 3 || got.Denied != 1 || got.Root.Children[0].Denied || !got.Root.Children[1].Denied {
			t.Fatalf("%+v: %+v, %v", o, got, err)
		}
		if b := got.Root.Children[1]; o.Stat && (b.Stat.DataLength != 2 || b.Stat.NumChildren != 1) || len(b.Data) != 0 || len(b.Children) != 0 {
			t.Errorf("%+v: %+v", o, b)
		}
	}
}

// Operations of a multi that is refused are done one by one: each is answered, in order, whatever its neighbours did.
func TestWriterAnswersEach(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	c := e.Client(t, zk.Config{})
	if _, err := c.Multi(t.Context(), zk.Create(base+"/n0700", []byte("mine"), zk.OpenACL(), zk.Persistent), zk.Create(base+"/n0701", []byte("mine"), zk.OpenACL(), zk.Persistent)); err != nil {
		t.Fatal(err)
	}
	var there []string
	w := bulk.NewWriter(c, func(op *zk.Op, err error) error {
		if errors.Is(err, zk.ErrNodeExists) {
			there = append(there, op.Path)
			return nil
		}
		return err
	})
	add := func(op zk.Op) {
		t.Helper()
		if err := w.Add(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 {
		add(zk.Create(fmt.Sprintf("%s/n%04d", base, i), nil, zk.OpenACL(), zk.Persistent))
		if i%100 == 0 { // what comes later needs what came before
			add(zk.Create(fmt.Sprintf("%s/n%04d/below", base, i), nil, zk.OpenACL(), zk.Persistent))
		}
		if i == 1500 {
			add(zk.Create(base+"/large", make([]byte, 1_000_000), zk.OpenACL(), zk.Persistent))
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{base + "/n0700", base + "/n0701"}, there); diff != "" {
		t.Error(diff)
	}
	got, err := bulk.Read(t.Context(), c, base, bulk.Options{Depth: -1, Data: true, Stat: true})
	if err != nil || got.Nodes != 1+2000+20+1 {
		t.Errorf("%d nodes, %v", got.Nodes, err)
	}
	if data, _, err := c.Get(t.Context(), base+"/n0700"); err != nil || string(data) != "mine" {
		t.Errorf("what was there became %q, %v", data, err)
	}
	w = bulk.NewWriter(c, nil)
	add(zk.Create(base+"/x", nil, zk.OpenACL(), zk.Persistent))
	add(zk.Create(base+"/none/x", nil, zk.OpenACL(), zk.Persistent))
	if err := w.Flush(t.Context()); !errors.Is(err, zk.ErrNoNode) {
		t.Errorf("without somebody to ask: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := bulk.Read(ctx, c, base, bulk.Options{Depth: -1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v", err)
	}
}
