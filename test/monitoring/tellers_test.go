package monitoring

import (
	"slices"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// clusterPod is a pod as a probe that watches the cluster tells of it.
func clusterPod(ref uint32, uid, label string, services ...string) *probev1.Entity {
	e := &probev1.Entity{Ref: ref, Id: "pod;" + uid, Kind: topology.KindPod, Label: label, State: topology.StateRunning}
	for _, s := range services {
		e.Parents = append(e.Parents, topology.ID(topology.KindService, "shop", s))
	}
	return e
}

// TestTwoProbesTellOfOneCluster has two probes that both watch one cluster, by mistake or because one takes over from the other. Each of them may end,
// be killed, fall silent and come back, and so may the monitor: the cluster is shown as long as one tells of it, as that one tells it.
func TestTwoProbesTellOfOneCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, restarted := range []bool{false, true} {
		r := newRig(t, func(c *monitor.Config) { c.DataDir = dir })
		a, b := r.impostor(hello("a")), r.impostor(hello("b"))
		pod := func() kubeDoc { return r.kubeDoc("pod;1") }
		told := func(label, service string) bool {
			a.send(&probev1.Frame{Status: &probev1.Status{}}) // it is there, whatever the other one is
			d := pod()
			return d.Label == label && d.Health == 1 && slices.Equal(d.parents(), []string{"service;shop;" + service})
		}
		ofA := func() bool { return told("as a says", "old") }
		ofB := func() bool { return told("as b says", "new") }
		first, second := func() {
			a.delta(&probev1.Delta{Entities: []*probev1.Entity{hostEntity(1, "a"), clusterPod(2, "1", "as a says", "old"), clusterPod(3, "2", "of a")}})
			r.eventually("the words of a", ofA)
		}, func() {
			b.delta(&probev1.Delta{Entities: []*probev1.Entity{hostEntity(1, "b"), clusterPod(7, "1", "as b says", "new"), clusterPod(8, "3", "of b")}})
		}
		if restarted { // they come back in the other order
			second()
			r.eventually("the words of b", ofB)
			first()
			b.delta(&probev1.Delta{Entities: []*probev1.Entity{clusterPod(7, "1", "as b says", "new")}})
		} else {
			first()
			second()
		}
		r.eventually("the words of b, who told last", ofB)

		// Killed, without a word: what the other one tells as well is as it tells it, at once; the rest is grey.
		b.conn.CloseNow()
		r.eventually("the words of a, and grey what only b told", func() bool { return ofA() && r.kubeDoc("pod;3").Health == 4 })
		if got, want := r.labels("pods"), []string{"as a says", "of a", "of b"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}

		// Back, having missed nothing: it need not tell everything again. Its next word counts.
		back := hello("b")
		back.FirstSeq, back.LastSeq = 1, b.seq
		seq := b.seq
		b = r.impostor(back)
		b.seq = seq
		r.eventually("the lost one's own", func() bool { return ofA() && r.kubeDoc("pod;3").Health == 1 })
		b.delta(&probev1.Delta{Entities: []*probev1.Entity{clusterPod(7, "1", "as b says", "new")}})
		r.eventually("the words of b", ofB)

		// Silent over an open connection.
		r.eventually("the words of a while b is silent", ofA)
		b.delta(&probev1.Delta{Entities: []*probev1.Entity{clusterPod(7, "1", "as b says", "new")}})
		r.eventually("the words of b again", ofB)

		// It watches no longer: what it told is gone, but for what the other one tells.
		b.delta(&probev1.Delta{GoneEntities: []uint32{7, 8}})
		r.eventually("the words of a, and nothing of b", func() bool { return ofA() && r.kubeDoc("pod;3").Label == "" })
		a.delta(&probev1.Delta{GoneEntities: []uint32{2}})
		r.eventually("the end of the pod", func() bool { return pod().Label == "" && r.kubeDoc("pod;2").Label == "of a" })
	}
}
