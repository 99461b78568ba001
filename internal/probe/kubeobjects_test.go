package probe

import (
	"encoding/json"
	"testing"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// Whatever an API server answers, what is made of it is taken by monitors.
func FuzzKubeObject(f *testing.F) {
	f.Add([]byte(`{"metadata":{"uid":"u","name":"n","namespace":"s","labels":{"a":"b"},"ownerReferences":[{"kind":"ReplicaSet","name":"r","uid":"u","controller":true}]},
		"spec":{"nodeName":"x","replicas":2,"selector":{"a":"b"},"ports":[{"port":1,"targetPort":"http"}],"schedule":"* * * * *"},
		"status":{"phase":"Failed","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"conditions":[{"type":"Ready","status":"False"},{"type":"PodScheduled","status":"False"}],
		"containerStatuses":[{"name":"c","state":{"waiting":{"reason":"ErrImagePull"}},"lastState":{"terminated":{"reason":"OOMKilled"}}}],"addresses":[{"type":"InternalIP","address":"1.2.3.4"}]}}`))
	f.Add([]byte(`{"metadata":{"uid":"u;","name":"n"}}`))
	f.Add([]byte(`{"metadata":{"uid":"u","name":"n","ownerReferences":[{"kind":";","name":"x","controller":true}]},"spec":{"selector":{"matchLabels":{}},"nodeName":";"}}`))
	codec := topology.NewCodec()
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeKube(json.RawMessage(b))
		if err != nil || o == nil {
			return
		}
		c := kubeCluster{}
		for _, kind := range kubeKinds() {
			c[kind.name] = map[string]*kubeObject{o.Metadata.UID: o}
		}
		h := newHub(codec)
		if err := h.apply(&round{at: 1, entities: c.entities()}); err != nil {
			t.Fatal(err)
		}
		_, data, err := h.snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := codec.Decode(data); err != nil {
			t.Fatal(err)
		}
	})
}
