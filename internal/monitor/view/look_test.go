package view

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
)

// seen is what a reader of a raw picture finds: nodes with their members, and who talks to whom, from either end.
func seen(v *View) map[string]int {
	out := map[string]int{}
	for n := range v.Each {
		key := fmt.Sprint(n.ID, n.Kind, n.Group, n.Pseudo, n.Size())
		for e := range n.Members() {
			out[n.ID+" has "+e.ID]++
		}
		out[key]++
		for to, by := range n.Out {
			out[fmt.Sprint(n.ID, " > ", to.ID, " ", len(by))]++
		}
		for from, by := range n.In {
			out[fmt.Sprint(from.ID, " > ", n.ID, " ", len(by))]++
		}
	}
	return out
}

// TestARawPictureThatFollowsIsTheOneMadeAnew drives random histories through pictures that are read instead of followed.
func TestARawPictureThatFollowsIsTheOneMadeAnew(t *testing.T) {
	t.Parallel()
	all := map[string]string{"state": "all", "system": "show", "unconnected": "show"}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"containers", "containers-by-image", "containers-by-hostname", "processes", "processes-by-name", "hosts", "tasks"}).Draw(t, "view")
		spec := Spec{View: name, Group: "none", Raw: true, Opts: all}
		es := estate.New(nil)
		m := &model{}
		for p := range 3 {
			m.refs[p], m.edges[p] = map[string]uint32{}, map[uint32]bool{}
			es.Hello(fmt.Sprint(p), "i", fmt.Sprintf("h%d", p), 0, 0)
		}
		v, err := New(spec, 0)
		if err != nil {
			t.Fatal(err)
		}
		flush := func(at int64, first bool) {
			es.Flush(at, func(c estate.Changes) {
				if first {
					v.Build(es.Reader())
				} else {
					v.Update(c)
				}
				v.Settle()
			})
			if body := v.Emit(at); body != nil {
				t.Fatalf("a raw picture is encoded: %s", body)
			}
		}
		for step := range rapid.IntRange(1, 15).Draw(t, "steps") {
			p := rapid.IntRange(0, 2).Draw(t, "probe")
			d := m.delta(t, p)
			d.Snapshot = m.seq[p] == 1
			if !es.Apply(fmt.Sprint(p), d, int64(step+1)) {
				t.Fatal("delta refused")
			}
			flush(int64(step+1), step == 0)
		}
		anew, _ := New(spec, 0)
		es.Read(func(r *estate.Reader) { anew.Build(r); anew.Settle() })
		anew.Emit(99)
		if d := cmp.Diff(seen(anew), seen(v)); d != "" {
			t.Fatalf("%s: anew (-) and followed (+) differ:\n%s", name, d)
		}
	})
}
