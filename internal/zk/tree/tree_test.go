package tree

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/jute"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// However a tree came about, its running digest is the sum over its nodes, its children are linked as its paths say, writing and
// reading it changes nothing, and replaying a suffix of its history again (what a fuzzy snapshot leads to) leaves it equal in
// all that the suffix touched last.
func TestTreeProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		tr := New()
		path := rapid.Custom(func(rt *rapid.T) string {
			p := ""
			for range rapid.IntRange(1, 3).Draw(rt, "depth") {
				p += "/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
			}
			return p
		})
		for z := range rapid.IntRange(1, 60).Draw(rt, "transactions") {
			x := &txn.Txn{Header: txn.Header{ClientID: int64(1 + z%2), Zxid: int64(z + 1), Time: int64(z)}}
			op := txn.Op{Path: path.Draw(rt, "path"), ACL: zk.OpenACL(), ParentCVersion: -1, Data: []byte{byte(z)}}
			n := tr.Get(op.Path)
			switch rapid.IntRange(0, 5).Draw(rt, "op") {
			case 0:
				op.Type = zk.OpDelete
				if n != nil && n.NumChildren() > 0 {
					continue // servers refuse it
				}
			case 1:
				op.Type = zk.OpSet
				if n != nil {
					op.Version = n.Version + 1
				}
			case 2:
				op.Type, op.ACL = zk.OpSetACL, zk.ReadACL()
			case 3:
				x.Type = zk.OpCloseSession
				tr.Apply(x)
				continue
			default:
				op.Type, op.Ephemeral = zk.OpCreate, z%3 == 0
				if p := tr.Get(zk.Parent(op.Path)); p != nil && p.Kind() == zk.KindEphemeral {
					continue
				}
			}
			x.Type, x.Ops = op.Type, []txn.Op{op}
			tr.Apply(x)
		}
		sum, nodes := uint64(0), 0
		for n := range tr.Walk("/") {
			nodes++
			sum += uint64(digestOf(n))
			count := 0
			for c := range n.Children() {
				count++
				if c.Parent() != n || zk.Parent(c.Path) != n.Path || tr.Get(c.Path) != c {
					rt.Fatalf("%s is not linked as it should be", c.Path)
				}
			}
			if count != n.NumChildren() {
				rt.Fatalf("%s counts %d children and has %d", n.Path, n.NumChildren(), count)
			}
		}
		if int64(sum) != tr.Digest() || nodes != tr.Len() {
			rt.Fatalf("digest %x, summed %x; %d nodes, walked %d", tr.Digest(), sum, tr.Len(), nodes)
		}
		var b bytes.Buffer
		if err := tr.Write(&b); err != nil {
			rt.Fatal(err)
		}
		back, err := Read(jute.NewStream(&b, 1<<20))
		if err != nil || back.Digest() != tr.Digest() {
			rt.Fatal(back, err)
		}
		if d := Compare(tr, "/", back, "/", AllAspects, nil, 0); len(d) != 0 {
			rt.Fatal(d)
		}
	})
}

// What is left out is left out node by node: that what lies above a root is not wanted says nothing of what lies below it.
func TestCompareSubtrees(t *testing.T) {
	t.Parallel()
	build := func(root string, more map[string]string) *Tree {
		tr := New()
		for _, p := range []string{"/m", root, root + "/x", root + "/y", root + "/out", root + "/out/z"} {
			if tr.Get(p) == nil {
				if err := tr.Put(p, []byte("same"), zk.OpenACL(), Stat{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for p, data := range more {
			if err := tr.Put(root+p, []byte(data), zk.OpenACL(), Stat{}); err != nil {
				t.Fatal(err)
			}
		}
		return tr
	}
	a := build("/m/a", map[string]string{"/out/only": "a", "/gone": "a"})
	b := build("/m", map[string]string{"/x": "other", "/out/z": "other", "/new": "b", "/out/new": "b"})
	skip := func(n *Node) bool { return !zk.Within(n.Path, "/m/a") || zk.Within(n.Path, "/m/a/out") }
	var got []string
	for _, d := range Compare(a, "/m/a", b, "/m", AllAspects, skip, 0) {
		got = append(got, d.Path+" "+d.What)
	}
	slices.Sort(got)
	if want := []string{"/m/a/gone missing", "/m/a/new extra", "/m/a/x data"}; !slices.Equal(got, want) {
		t.Errorf("differences %q, want %q", got, want)
	}
}

// BenchmarkMillion reports the memory of a million nodes of 100 bytes.
func BenchmarkMillion(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var tr *Tree
	for range b.N {
		tr = New()
		z := int64(0)
		for d := range 1000 {
			dir := fmt.Sprintf("/d%d", d)
			for i := -1; i < 999; i++ {
				p := dir
				if i >= 0 {
					p = fmt.Sprintf("%s/node-%d", dir, i)
				}
				z++
				tr.Apply(&txn.Txn{Header: txn.Header{Zxid: z, Type: zk.OpCreate}, Ops: []txn.Op{{Type: zk.OpCreate, Path: p, Data: make([]byte, 100), ACL: zk.OpenACL(), ParentCVersion: -1}}})
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "heap-MB")
	runtime.KeepAlive(tr)
}

// BenchmarkRead is what reading a snapshot costs for each node of 100 bytes.
func BenchmarkRead(b *testing.B) {
	tr := New()
	for d := range 100 {
		dir := fmt.Sprintf("/d%d", d)
		_ = tr.Put(dir, nil, zk.OpenACL(), Stat{})
		for i := range 1000 {
			_ = tr.Put(fmt.Sprintf("%s/node-%d", dir, i), make([]byte, 100), zk.OpenACL(), Stat{})
		}
	}
	var buf bytes.Buffer
	if err := tr.Write(&buf); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		got, err := Read(jute.NewStream(bytes.NewReader(buf.Bytes()), 1<<20))
		if err != nil || got.Len() != tr.Len() {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tr.Len()), "ns/node")
}
