package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tidwall/btree"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

func jsonOf(t testing.TB, m proto.Message) string {
	t.Helper()
	b, err := mesosjson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// manyTasks is a cluster of one framework with that many running tasks, 10 on each agent.
func manyTasks(n int) *core.Snapshot {
	snap := testSnapshot()
	page, _ := snap.Frameworks.Get("m-0000")
	fw := *page
	fw.Tasks = &btree.Map[ids.Task, *core.TaskPage]{}
	fw.UnreachableTasks, fw.CompletedTasks = nil, nil
	agents := &btree.Map[ids.Agent, *core.AgentPage]{}
	first, _ := snap.Agents.Get("m-S0")
	perAgent := max(n/10, 1)
	if n <= 1000 {
		perAgent = 1
	}
	for i := range perAgent {
		a := *first
		a.ID = ids.Agent(fmt.Sprintf("m-S%d", i))
		a.Offers = nil
		agents.Set(a.ID, &a)
	}
	for i := range n {
		id := fmt.Sprintf("task-%06d", i)
		fw.Tasks.Set(ids.Task(id), testTask(id, fmt.Sprintf("m-S%d", i%perAgent), mesosv1.TaskState_TASK_RUNNING))
	}
	snap.Agents = agents
	snap.Frameworks = &btree.Map[ids.Framework, *core.FrameworkPage]{}
	snap.Frameworks.Set("m-0000", &fw)
	return snap
}

// BenchmarkState is GOALS row 13: /state with 100,000 tasks on 10,000 agents. "cold" is the first request after a start, "warm" follows
// changes of so many tasks, "same" asks again for the same state.
func BenchmarkState(b *testing.B) {
	snap := manyTasks(100_000)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			s := newTestServer(b, nil)
			s.owner.snap = snap
			b.SetBytes(int64(s.do("GET", "/state", "").Body.Len()))
		}
	})
	for _, changes := range []int{100, 2000} {
		b.Run(fmt.Sprintf("warm-%d", changes), func(b *testing.B) {
			s := newTestServer(b, nil)
			s.owner.snap = snap
			s.do("GET", "/state", "")
			for i := 0; b.Loop(); i++ {
				page, _ := s.owner.snap.Frameworks.Get("m-0000")
				next, changed := *s.owner.snap, *page
				changed.Tasks = page.Tasks.Copy()
				for j := range changes {
					id := fmt.Sprintf("task-%06d", (i*7919+j*997)%100_000)
					changed.Tasks.Set(ids.Task(id), testTask(id, fmt.Sprintf("m-S%d", j), mesosv1.TaskState_TASK_RUNNING))
				}
				next.Version++
				next.Frameworks = next.Frameworks.Copy()
				next.Frameworks.Set("m-0000", &changed)
				s.owner.snap = &next
				b.SetBytes(int64(s.do("GET", "/state", "").Body.Len()))
			}
		})
	}
	b.Run("same", func(b *testing.B) {
		s := newTestServer(b, nil)
		s.owner.snap = snap
		s.do("GET", "/state", "")
		for b.Loop() {
			b.SetBytes(int64(s.do("GET", "/state", "").Body.Len()))
		}
	})
}
