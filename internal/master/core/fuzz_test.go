package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// fuzzWorld has an agent, and a framework that holds an offer, runs a task and may do what any framework may.
func fuzzWorld(t *testing.T) (*world, *scheduler, *node) {
	w := newWorld(t)
	n := w.agent("a", "cpus:8;mem:4096;disk:4096;ports:[31000-32000];cpus(r):1")
	sc := w.subscribe(partitionAware, failover(100), checkpoint)
	o := sc.oneOffer()
	sc.accept(o, 0, launch(commandTask("t", o, "cpus:1;mem:64")))
	n.update(sc.id, "t", mesosv1.TaskState_TASK_RUNNING, "u")
	return w, sc, n
}

// fuzzCheck looks for what must hold whatever was said: nothing is used twice, and time goes on.
func fuzzCheck(t *testing.T, w *world) {
	for range 3 {
		w.pass(20 * time.Second)
	}
	w.s.Publish()
	for _, a := range w.s.agents {
		used := a.total.Minus(a.total) // nothing
		for tk := range a.tasks {
			used = used.Add(tk.held().Unallocate())
		}
		for _, o := range a.offers {
			used = used.Add(o.res.Unallocate())
		}
		if !a.total.ContainsQuantities(used.NonShared().Quantities()) {
			t.Fatalf("of %v, %v is used", a.total, used)
		}
	}
}

// FuzzSchedulerCalls hands the state calls, one in JSON a line, that the edge's own validation has not seen.
func FuzzSchedulerCalls(f *testing.F) {
	const id = `"framework_id":{"value":"M-0000"},`
	const task = `{"name":"x","task_id":{"value":"x"},"agent_id":{"value":"M-S0"},"command":{"value":"true"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1},"allocation_info":{"role":"*"}}]}`
	for _, seed := range []string{
		`{"type":"ACCEPT",` + id + `"accept":{"offer_ids":[{"value":"M-O1"}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[` + task + `]}}],"filters":{"refuse_seconds":0.5}}}`,
		`{"type":"ACCEPT",` + id + `"accept":{"offer_ids":[{"value":"M-O1"}],"operations":[{"type":"LAUNCH_GROUP","launch_group":{"executor":{"type":"DEFAULT","executor_id":{"value":"e"},"framework_id":{"value":"M-0000"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}},{"name":"disk","type":"SCALAR","scalar":{"value":1}}]},"task_group":{"tasks":[` + task + `]}}}]}}`,
		`{"type":"ACCEPT",` + id + `"accept":{"offer_ids":[{"value":"M-O1"},{"value":"M-O1"}],"operations":[{"type":"RESERVE","reserve":{"resources":[{"name":"disk","type":"SCALAR","scalar":{"value":10},"reservations":[{"type":"DYNAMIC","role":"r"}]}]}},{"type":"CREATE","create":{"volumes":[{"name":"disk","type":"SCALAR","scalar":{"value":10},"reservations":[{"type":"DYNAMIC","role":"r"}],"disk":{"persistence":{"id":"p"},"volume":{"mode":"RW","container_path":"v"}}}]}},{"type":"GROW_VOLUME","grow_volume":{"volume":{"name":"disk","type":"SCALAR","scalar":{"value":10}},"addition":{"name":"disk","type":"SCALAR","scalar":{"value":1}}}}]}}`,
		`{"type":"DECLINE",` + id + `"decline":{"offer_ids":[{"value":"M-O1"}],"filters":{"refuse_seconds":"NaN"}}}`,
		`{"type":"KILL",` + id + `"kill":{"task_id":{"value":"t"},"kill_policy":{"grace_period":{"nanoseconds":-1}}}}` + "\n" + `{"type":"REVIVE",` + id + `"revive":{"roles":["*"]}}`,
		`{"type":"RECONCILE",` + id + `"reconcile":{"tasks":[{"task_id":{"value":"t"}},{"task_id":{"value":"u"},"agent_id":{"value":"M-S0"}}]}}` + "\n" + `{"type":"SUPPRESS",` + id + `"suppress":{}}`,
		`{"type":"ACKNOWLEDGE",` + id + `"acknowledge":{"agent_id":{"value":"M-S0"},"task_id":{"value":"t"},"uuid":"dXV1dXV1dXV1dXV1dXV1dQ=="}}` + "\n" + `{"type":"TEARDOWN",` + id + `"teardown":{}}`,
		`{"type":"UPDATE_FRAMEWORK",` + id + `"update_framework":{"framework_info":{"user":"root","name":"n","id":{"value":"M-0000"},"roles":["a"]},"suppressed_roles":["a"],"offer_constraints":{"role_constraints":{"a":{"groups":[{"attribute_constraints":[{"selector":{"attribute_name":"x"},"predicate":{"text_matches":{"regex":"(a+)+$"}}}]}]}}}}}`,
		`{"type":"SHUTDOWN",` + id + `"shutdown":{"executor_id":{"value":"e"},"agent_id":{"value":"M-S0"}}}` + "\n" + `{"type":"MESSAGE",` + id + `"message":{"agent_id":{"value":"M-S0"},"executor_id":{"value":"e"},"data":"eA=="}}`,
		`{"type":"SUBSCRIBE",` + id + `"subscribe":{"framework_info":{"user":"root","name":"n","id":{"value":"M-0000"},"failover_timeout":1e308,"role":"r"}}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, sc, _ := fuzzWorld(t)
		for i, line := range strings.SplitN(text, "\n", 8) {
			call := &schedulerv1.Call{}
			if mesosjson.Unmarshal([]byte(line), call) != nil {
				continue
			}
			if call.GetType() == schedulerv1.Call_SUBSCRIBE {
				w.step(&SchedulerSubscribe{Stream: StreamID(fmt.Sprint("fuzz", i)), Call: call})
				continue
			}
			w.step(&SchedulerCall{Stream: sc.stream, Call: call})
		}
		fuzzCheck(t, w)
	})
}

// FuzzOperatorCalls does the same with the operator's calls.
func FuzzOperatorCalls(f *testing.F) {
	for _, seed := range []string{
		`{"type":"UPDATE_QUOTA","update_quota":{"force":true,"quota_configs":[{"role":"r","guarantees":{"cpus":{"value":1}},"limits":{"cpus":{"value":"NaN"}}}]}}`,
		`{"type":"SET_QUOTA","set_quota":{"quota_request":{"role":"r","guarantee":[{"name":"cpus","type":"SCALAR","scalar":{"value":1}}]}}}` + "\n" + `{"type":"REMOVE_QUOTA","remove_quota":{"role":"r"}}`,
		`{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"r","weight":2.5}]}}`,
		`{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"M-S0"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"DYNAMIC","role":"r","principal":"p"}]}]}}` + "\n" + `{"type":"UNRESERVE_RESOURCES","unreserve_resources":{"agent_id":{"value":"M-S0"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"DYNAMIC","role":"r","principal":"p"}]}]}}`,
		`{"type":"CREATE_VOLUMES","create_volumes":{"agent_id":{"value":"M-S0"},"volumes":[{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"persistence":{"id":"../x"}}}]}}`,
		`{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[{"machine_ids":[{"hostname":"a"}],"unavailability":{"start":{"nanoseconds":1},"duration":{"nanoseconds":9223372036854775807}}}]}}}` + "\n" + `{"type":"START_MAINTENANCE","start_maintenance":{"machines":[{"hostname":"a"}]}}`,
		`{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"M-S0"},"max_grace_period":{"seconds":315576000000,"nanos":-1},"mark_gone":true}}` + "\n" + `{"type":"REACTIVATE_AGENT","reactivate_agent":{"agent_id":{"value":"M-S0"}}}`,
		`{"type":"DEACTIVATE_AGENT","deactivate_agent":{"agent_id":{"value":"M-S0"}}}` + "\n" + `{"type":"MARK_AGENT_GONE","mark_agent_gone":{"agent_id":{"value":"M-S0"}}}`,
		`{"type":"TEARDOWN","teardown":{"framework_id":{"value":"M-0000"}}}` + "\n" + `{"type":"GET_STATE"}`,
		`{"type":"GROW_VOLUME","grow_volume":{"agent_id":{"value":"M-S0"},"volume":{"name":"disk","type":"SCALAR","scalar":{"value":1}},"addition":{"name":"disk","type":"SCALAR","scalar":{"value":-1}}}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		w, _, _ := fuzzWorld(t)
		for _, line := range strings.SplitN(text, "\n", 8) {
			call := &masterv1.Call{}
			if mesosjson.Unmarshal([]byte(line), call) == nil {
				w.operate(call)
			}
		}
		fuzzCheck(t, w)
	})
}

// FuzzAgentMessages lets an agent say anything.
func FuzzAgentMessages(f *testing.F) {
	add := func(m *linkv1.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	id := &mesosv1.FrameworkID{Value: proto.String("M-0000")}
	task := &mesosv1.TaskID{Value: proto.String("t")}
	add(&linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{FrameworkId: id, LatestState: mesosv1.TaskState_TASK_FAILED.Enum(), Status: &mesosv1.TaskStatus{
		TaskId: task, State: mesosv1.TaskState_TASK_FINISHED.Enum(), Uuid: []byte("0123456789abcdef"),
	}}}})
	add(&linkv1.Message{Kind: &linkv1.Message_Reregister{Reregister: &linkv1.Reregister{
		Agent: &linkv1.Register{Info: &mesosv1.AgentInfo{Hostname: proto.String("a"), Id: agentID("M-S0")}},
		Tasks: []*mesosv1.Task{{Name: proto.String("t"), TaskId: task, FrameworkId: id, AgentId: agentID("M-S0"), State: mesosv1.TaskState_TASK_LOST.Enum()}},
	}}})
	add(&linkv1.Message{Kind: &linkv1.Message_Register{Register: &linkv1.Register{Info: &mesosv1.AgentInfo{Hostname: proto.String("b")}}}})
	add(&linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &linkv1.Message{}
		if m.UnmarshalVT(data) != nil || proto.CheckInitialized(m) != nil {
			return
		}
		w, _, n := fuzzWorld(t)
		n.say(m)
		w.conns++
		w.step(&AgentMessage{Conn: w.conns, Message: m})
		w.pass(2 * time.Minute) // what it has is its own word: nothing to check but that the master lives
		w.s.Publish()
	})
}

// FuzzRegistry reads records that something else has written.
func FuzzRegistry(f *testing.F) {
	w := newWorld(&testing.T{})
	w.agent("a", big)
	w.subscribe(checkpoint, failover(100))
	for k, v := range w.registry {
		f.Add(k, v)
	}
	for _, k := range []string{"agents/M-S7", "unreachable/x", "gone/x", "frameworks/../x", "maintenance", "quota/r", "weights/r", "x"} {
		f.Add(k, []byte("\x0a\x01x"))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		s, err := New(testConfig(), Registry{{Key: key, Value: value}}, time.Unix(1e6, 0))
		if err != nil {
			return // said, and not crashed
		}
		s.Flush(time.Unix(1e6, 0))
		s.Flush(time.Unix(2e6, 0))
		s.Publish()
	})
}
