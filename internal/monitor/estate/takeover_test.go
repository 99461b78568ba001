package estate

import (
	"slices"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// What is told of by one probe of many (a cluster's pods) may be told of by another later. The first one's end must not grey or
// remove it then, in whatever order the two are heard.
func TestAnEntityBelongsToWhoToldOfItLast(t *testing.T) {
	t.Parallel()
	s := New(NewEvents())
	hear := func(probe string, seq uint64, d *probev1.Delta) {
		t.Helper()
		d.Seq, d.Snapshot = seq, seq == 1
		if !s.Apply(probe, d, 1000) {
			t.Fatal("refused")
		}
	}
	stale := func() bool {
		gone, grey := true, false
		s.Read(func(r *Reader) {
			if e := r.Entity("pod;1"); e != nil {
				gone, grey = false, e.Stale
			}
		})
		if gone {
			t.Fatal("the pod is gone")
		}
		return grey
	}
	for _, p := range []string{"a", "b"} {
		s.Hello(p, "i", p, 0, 0)
	}
	hear("b", 1, &probev1.Delta{})
	hear("a", 1, &probev1.Delta{Entities: []*probev1.Entity{entity(7, "pod;1", nil)}})
	s.Stale("a", true, 1000)
	if !stale() {
		t.Error("a is lost, and its pod is not grey")
	}
	hear("b", 2, &probev1.Delta{Entities: []*probev1.Entity{entity(3, "pod;1", nil)}})
	if stale() {
		t.Error("b tells of the pod, and it is still grey")
	}
	s.Stale("a", false, 1000)
	s.Stale("a", true, 1000)
	if stale() {
		t.Error("a greys what is b's")
	}
	hear("a", 2, &probev1.Delta{GoneEntities: []uint32{7}})
	_ = stale()
	s.Forget("a", 1000)
	_ = stale()
}

// A container belongs to the services of its pod: views must hear of it when those change.
func TestChildrenFollowWhenTheirParentMoves(t *testing.T) {
	t.Parallel()
	s := New(NewEvents())
	s.Hello("a", "i", "a", 0, 0)
	pod := func(services ...string) *probev1.Entity { return entity(2, "pod;1", services) }
	if !s.Apply("a", &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{entity(1, "container;a;c", []string{"pod;1"}), pod("service;n;x")}}, 1000) {
		t.Fatal("refused")
	}
	s.Flush(1000, func(Changes) {})
	if !s.Apply("a", &probev1.Delta{Seq: 2, Entities: []*probev1.Entity{pod("service;n;y")}}, 1000) {
		t.Fatal("refused")
	}
	s.Flush(1000, func(c Changes) {
		i := slices.IndexFunc(c.Entities, func(e *Entity) bool { return e.ID == "container;a;c" })
		if i < 0 || c.What[i]&ChangedPlace == 0 {
			t.Errorf("the container's place is not said to have changed: %v", c.What)
		} else if got := c.Entities[i].ParentID("service"); got != "service;n;y" {
			t.Error(got)
		}
	})
}
