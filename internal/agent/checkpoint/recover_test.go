package checkpoint

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
)

func mustRecord(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := Record(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var testRun = Run{Agent: "m-S0", Framework: "m-0000", Executor: "e", Container: "c1"}

// writeAgent commits one agent with one framework, one executor and one task with two updates.
func writeAgent(t testing.TB, fsys FS) {
	t.Helper()
	s, err := Open(fsys, metaDir, true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	task := &mesosv1.TaskInfo{Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t1")}, AgentId: &mesosv1.AgentID{Value: proto.String("m-S0")}}
	status := func(state mesosv1.TaskState) []byte {
		return mustRecord(t, &checkpointv1.Update{Status: &mesosv1.TaskStatus{TaskId: task.TaskId, State: state.Enum(), Uuid: []byte("0123456789abcdef")}})
	}
	ops := []Op{
		Put(BootIDPath(), []byte("boot-1\n")),
		Put(AgentPath("m-S0"), mustRecord(t, &mesosv1.AgentInfo{Hostname: proto.String("h"), Id: &mesosv1.AgentID{Value: proto.String("m-S0")}})),
		Link(LatestPath(), "m-S0"),
		Put(FrameworkPath("m-S0", "m-0000"), mustRecord(t, &mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("n")})),
		Put(ExecutorPath(testRun), mustRecord(t, &checkpointv1.Executor{
			Info: &mesosv1.ExecutorInfo{ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}},
			Kind: proto.Int32(0), ContainerId: proto.String("c1"), Directory: proto.String("/s"),
		})),
		Put(RegisteredPath(testRun), nil),
		Put(TaskPath(testRun, "t1"), mustRecord(t, &checkpointv1.Task{Info: task})),
		Append(UpdatesPath(testRun, "t1"), status(mesosv1.TaskState_TASK_STARTING)),
		Append(UpdatesPath(testRun, "t1"), status(mesosv1.TaskState_TASK_RUNNING)),
	}
	if err := s.Commit(ops); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestRecoverFindsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	fsys := newCrashFS(1)
	writeAgent(t, fsys)
	got, err := Recover(fsys, metaDir, true)
	if err != nil {
		t.Fatal(err)
	}
	if got.BootID != "boot-1" || got.Agent.GetId().GetValue() != "m-S0" || len(got.Frameworks) != 1 {
		t.Fatalf("recovered %+v", got)
	}
	runs := got.Frameworks[0].Runs
	if len(runs) != 1 || runs[0].Run != testRun || !runs[0].Registered || runs[0].Completed || len(runs[0].Tasks) != 1 {
		t.Fatalf("runs %+v", runs)
	}
	if n := len(runs[0].Tasks[0].Updates); n != 2 {
		t.Errorf("%d updates, want 2", n)
	}
}

func TestRecoverOfACorruptRecordSaysWhichAndGoesOnWhenNotStrict(t *testing.T) {
	t.Parallel()
	for _, path := range []string{TaskPath(testRun, ids.Task("t1")), ExecutorPath(testRun), FrameworkPath("m-S0", "m-0000"), UpdatesPath(testRun, "t1")} {
		fsys := newCrashFS(1)
		writeAgent(t, fsys)
		n := fsys.now[metaDir+"/"+path]
		n.data = append([]byte{3, 0, 0, 0, 0xff, 0xff, 0xff}, n.data...)
		fsys.now[metaDir+"/"+path] = n
		if _, err := Recover(fsys, metaDir, true); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--no-strict") {
			t.Errorf("%s: strict recovery: %v", path, err)
		}
		got, err := Recover(fsys, metaDir, false)
		if err != nil || len(got.Problems) != 1 || got.Agent == nil {
			t.Errorf("%s: lenient recovery: %+v, %v", path, got, err)
		}
	}
}

func TestRecoverIgnoresATornTailOfUpdates(t *testing.T) {
	t.Parallel()
	fsys := newCrashFS(1)
	writeAgent(t, fsys)
	path := metaDir + "/" + UpdatesPath(testRun, "t1")
	n := fsys.now[path]
	n.data = n.data[:len(n.data)-3]
	fsys.now[path] = n
	got, err := Recover(fsys, metaDir, true)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Frameworks[0].Runs[0].Tasks[0].Updates); n != 1 {
		t.Errorf("%d updates, want the whole one", n)
	}
}

func FuzzReadRecord(f *testing.F) {
	f.Add(mustRecord(f, &checkpointv1.Update{Acknowledged: []byte("x")}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(data) > 0 {
			u := &checkpointv1.Update{}
			rest, err := readRecord(data, u)
			if err != nil {
				return
			}
			if len(rest) >= len(data) {
				t.Fatal("no progress")
			}
			data = rest
		}
	})
}
