package core

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// hold makes a machine that holds apps with instances that all run. Agents are as large as they need to be.
func hold(b *testing.B, apps, instances int) *Machine {
	b.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	opt := Options{Spec: spec.Settings{Role: "*", PortMin: 10000, PortMax: 20000}, MaxVersions: 50, LaunchConfirmTimeout: time.Hour, LaunchTimeout: time.Hour, KillRetry: time.Hour, DeclineDuration: time.Minute}
	m := New(opt, [32]byte{1}, now)
	m.Step(now, Registered{FrameworkID: "f", Master: "m"})
	for n := 0; n < apps; n++ {
		a := &spec.App{
			ID: fmt.Sprintf("/team%d/app%d", n%100, n), Cmd: "sleep 1000", CPUs: 0.1, Mem: 32, Instances: instances, Labels: map[string]string{}, KillSelection: spec.YoungestFirst,
			BackoffSeconds: 1, BackoffFactor: 1.15, MaxLaunchDelaySeconds: 300, UpgradeStrategy: spec.UpgradeStrategy{MinimumHealthCapacity: 1, MaximumOverCapacity: 1}, PortDefinitions: []spec.PortDefinition{}, Networks: []spec.Network{{Mode: "host"}},
		}
		drive(b, m, now, Update{Mutate: func(r *spec.Root, v spec.Version, _ spec.History) error { return r.Put(spec.OfApp(a), v, false) }})
	}
	return m
}

// drive does one change and everything that the cluster answers, until nothing more happens. It gives the number of steps.
func drive(b *testing.B, m *Machine, now time.Time, first Event) int {
	b.Helper()
	out := m.Step(now, first)
	steps := 1
	offers := 0
	for {
		var events []Event
		for _, e := range out {
			switch e := e.(type) {
			case Reply:
				if e.Err != nil {
					b.Fatal(e.Err)
				}
			case Call:
				switch e.Call.GetType() {
				case scheduler.Call_ACCEPT:
					for _, op := range e.Call.Accept.Operations {
						for _, ti := range op.GetLaunch().GetTaskInfos() {
							events = append(events, Status{&mesosv1.TaskStatus{TaskId: ti.TaskId, AgentId: ti.AgentId, State: mesosv1.TaskState_TASK_RUNNING.Enum(), Uuid: []byte("0123456789abcdef")}})
						}
					}
				case scheduler.Call_KILL:
					events = append(events, Status{&mesosv1.TaskStatus{TaskId: e.Call.Kill.TaskId, AgentId: e.Call.Kill.AgentId, State: mesosv1.TaskState_TASK_KILLED.Enum(), Uuid: []byte("0123456789abcdef")}})
				}
			}
		}
		if len(m.waiting) > 0 && len(events) == 0 {
			offers++
			if offers > 10 {
				b.Fatal("nothing fits")
			}
			events = append(events, Offers{[]*mesosv1.Offer{wideOffer(offers)}})
		}
		if len(events) == 0 {
			return steps
		}
		steps++
		out = m.Step(now, events...)
	}
}

func wideOffer(n int) *mesosv1.Offer {
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
	}
	return &mesosv1.Offer{
		Id: &mesosv1.OfferID{Value: new(fmt.Sprintf("o%d", n))}, AgentId: &mesosv1.AgentID{Value: new("agent-1")}, Hostname: new("host1"),
		Resources: []*mesosv1.Resource{scalar("cpus", 1e9), scalar("mem", 1e9), scalar("disk", 1e9)},
	}
}

// BenchmarkHold reports what a machine with many apps and instances takes of memory, and what one step and one snapshot
// cost then.
func BenchmarkHold(b *testing.B) {
	for _, size := range []struct{ apps, instances int }{{2000, 12}, {20000, 12}} {
		b.Run(fmt.Sprintf("%dx%d", size.apps, size.instances), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			m := hold(b, size.apps, size.instances)
			runtime.GC()
			runtime.ReadMemStats(&after)
			n := m.instances.Len()
			if n != size.apps*size.instances {
				b.Fatalf("%d instances", n)
			}
			now := m.now
			i := 0
			b.ResetTimer()
			for b.Loop() {
				now = now.Add(time.Millisecond)
				id := fmt.Sprintf("/team%d/app%d", i%100%size.apps, i%size.apps)
				i++
				if m.root.Get(id) == nil {
					b.Fatal(id)
				}
				drive(b, m, now, Update{Mutate: func(r *spec.Root, v spec.Version, _ spec.History) error {
					s := r.Get(id)
					return r.Put(s.WithInstances(size.instances+1-s.Instances()%2), v, false)
				}})
				_ = m.Snapshot()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/instance")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(size.apps), "B/app")
		})
	}
}

// BenchmarkReplace rolls an app to a new version, the core's part alone.
func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := hold(b, 1, n)
			now := m.now
			v := 0
			b.ResetTimer()
			for b.Loop() {
				v++
				now = now.Add(time.Millisecond)
				drive(b, m, now, Update{Mutate: func(r *spec.Root, at spec.Version, _ spec.History) error {
					s := r.Get("/team0/app0")
					a := *s.App
					a.Cmd = fmt.Sprintf("sleep %d", 1000+v)
					return r.Put(spec.OfApp(&a), at, false)
				}})
				if len(m.deployments) != 0 {
					b.Fatal("not done")
				}
			}
		})
	}
}
