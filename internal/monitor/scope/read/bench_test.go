package read

import (
	"context"
	"fmt"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// still is a source whose pictures are made once and do not move.
type still struct {
	estate *estate.Estate
	views  map[string]*view.View
	locked time.Duration // how long the estate was held, the last time
}

func newStill(es *estate.Estate) *still { return &still{estate: es, views: map[string]*view.View{}} }

func (s *still) Picture(_ context.Context, spec view.Spec, _ int64, f func(*estate.Reader, *view.View)) error {
	v := s.views[spec.View]
	if v == nil {
		var err error
		if v, err = view.New(spec, 0); err != nil {
			return err
		}
		s.estate.Flush(1, func(estate.Changes) { v.Build(s.estate.Reader()); v.Settle() })
		v.Emit(1)
		s.views[spec.View] = v
	}
	began := time.Now()
	s.estate.Read(func(r *estate.Reader) { f(r, v) })
	s.locked = time.Since(began)
	return nil
}

func (s *still) Estate(_ context.Context, _ int64, f func(*estate.Reader)) error {
	s.estate.Read(f)
	return nil
}

// large makes an estate of many hosts with ten containers each, every one of which talks to six others.
func large(tb testing.TB, hosts int) *estate.Estate {
	tb.Helper()
	es := estate.New(nil)
	for i := range hosts {
		name := fmt.Sprintf("sim-%04d", i)
		addr := func(i int) []byte { return []byte{10, byte(i >> 8), byte(i), 1} }
		es.Hello(name, "i", name, 0, 0)
		d := &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{{
			Ref: 1, Id: topology.HostID(name), Kind: topology.KindHost, Label: name, State: "running",
			Attrs: []*probev1.Attr{{Key: "addrs", Value: fmt.Sprintf("10.%d.%d.1", i>>8, i&255)}, {Key: "memory", Value: "16000000000"}},
		}}}
		m := &probev1.Metrics{AtMs: 1_000_000, Names: []string{"cpu", "mem"}}
		for j := range 10 {
			ref := uint32(j + 2)
			d.Entities = append(d.Entities, &probev1.Entity{
				Ref: ref, Id: topology.ContainerID(name, fmt.Sprintf("%012x", (i+1)*1000+j)), Kind: topology.KindContainer, Label: fmt.Sprintf("web.%d-%d", i, j), State: "running", StartedMs: 1000,
				Parents: []string{topology.HostID(name), "image;registry.example/shop/web:1.2", "app;/shop"},
				Attrs: []*probev1.Attr{
					{Key: "container_id", Value: fmt.Sprintf("%064x", (i+1)*1000+j)},
					{Key: "image", Value: "registry.example/shop/web:1.2"},
					{Key: "command", Value: "/bin/web --port 8080"},
					{Key: "created", Value: "1795390000000"},
					{Key: "addrs", Value: "172.17.0.2"},
					{Key: "label.app", Value: "web"},
					{Key: "label.tier", Value: "front"},
				},
			})
			d.Listeners = append(d.Listeners, &probev1.Listener{Ref: uint32(100 + j), Entity: ref, Port: uint32(8000 + j)})
			for k := range 6 {
				d.Edges = append(d.Edges, &probev1.Edge{Ref: uint32(1000 + j*10 + k), Src: ref, RemoteAddr: addr((i*7 + j*13 + k*29 + 1) % hosts), Port: uint32(8000 + (j+k)%10), Conns: 1, Seen: 1})
			}
			m.Refs, m.NameIndex, m.Values = append(m.Refs, ref, ref), append(m.NameIndex, 0, 1), append(m.Values, float32(i%100)+0.25, float32(1e6*(j+1)))
		}
		if !es.Apply(name, d, 1) {
			tb.Fatal("refused")
		}
		es.Metrics(name, m, 1_000_000)
	}
	return es
}

// BenchmarkContainers reads all containers of 1,000 hosts anew, and tells for how long the estate was held.
func BenchmarkContainers(b *testing.B) {
	source := newStill(large(b, 1000))
	now := time.UnixMilli(1795400000000)
	api := New(source, func() time.Time { now = now.Add(time.Minute); return now })
	if _, err := api.Topology(b.Context(), "containers", nil, 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var held time.Duration
	for b.Loop() {
		body, err := api.Topology(b.Context(), "containers", nil, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(body)))
		held += source.locked
	}
	b.ReportMetric(float64(held.Milliseconds())/float64(b.N), "ms-held/op")
}
