package probe

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// bigCluster is 10,000 pods of 1,000 deployments with a service each, in 50 namespaces on 200 nodes.
func bigCluster(tb testing.TB) *kubeWatch {
	k := &kubeWatch{kinds: kubeKinds(), changed: make(chan struct{}, 1), poke: func() {}}
	k.reset()
	for i := range k.kinds {
		k.objects[k.kinds[i].name] = map[string]*kubeObject{}
	}
	put := func(kind, text string) {
		for i := range k.kinds {
			if k.kinds[i].name == kind {
				if err := k.put(&k.kinds[i], "ADDED", json.RawMessage(text)); err != nil {
					tb.Fatal(err)
				}
			}
		}
	}
	for n := range 200 {
		put("nodes", fmt.Sprintf(`{"metadata":{"uid":"n%d","name":"node-%d"}}`, n, n))
	}
	for d := range 1000 {
		ns := fmt.Sprintf("ns-%d", d%50)
		put("deployments", fmt.Sprintf(`{"metadata":{"uid":"d%d","name":"app-%d","namespace":%q},"spec":{"replicas":10},"status":{"readyReplicas":10}}`, d, d, ns))
		put("replicasets", fmt.Sprintf(`{"metadata":{"uid":"r%d","name":"app-%d-x","namespace":%q,"ownerReferences":[{"kind":"Deployment","name":"app-%d","uid":"d%d","controller":true}]}}`, d, d, ns, d, d))
		put("services", fmt.Sprintf(`{"metadata":{"uid":"s%d","name":"app-%d","namespace":%q},"spec":{"selector":{"app":"app-%d"}}}`, d, d, ns, d))
		for p := range 10 {
			put("pods", fmt.Sprintf(`{"metadata":{"uid":"p%d-%d","name":"app-%d-x-%d","namespace":%q,"labels":{"app":"app-%d","tier":"web"},"ownerReferences":[{"kind":"ReplicaSet","name":"app-%d-x","uid":"r%d","controller":true}]},
				"spec":{"nodeName":"node-%d"},"status":{"phase":"Running","podIP":"10.%d.%d.1","containerStatuses":[{"name":"c","ready":true}]}}`, d, p, d, p, ns, d, d, d, (d+p)%200, d%250, p))
		}
	}
	return k
}

func BenchmarkClusterPublish(b *testing.B) {
	k := bigCluster(b)
	seed, held := maphash.MakeSeed(), map[string]kubeHeld{}
	held = k.publish(seed, held)
	b.ReportAllocs()
	for b.Loop() {
		held = k.publish(seed, held)
	}
}

func BenchmarkClusterRound(b *testing.B) {
	k := bigCluster(b)
	k.publish(maphash.MakeSeed(), map[string]kubeHeld{})
	h := newHub(topology.NewCodec())
	round := func() {
		if err := h.apply(&round{at: 1, entities: append(make([]*probev1.Entity, 0, 13_000), *k.entities.Load()...)}); err != nil {
			b.Fatal(err)
		}
	}
	round()
	b.ReportAllocs()
	for b.Loop() {
		round()
	}
}
