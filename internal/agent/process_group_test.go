package agent

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// A task group in the default executor, its sandboxes, and a command run beside a task by way of the API.
func TestProcessRunsGroupsAndSessions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.linked()
	task := func(id, command string) *mesosv1.TaskInfo {
		m := customTask(id, "")
		m.Executor = nil
		m.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)}
		m.Command = &mesosv1.CommandInfo{Value: &command}
		return m
	}
	group := &linkv1.RunTaskGroup{
		Framework: testFramework(),
		Executor: &mesosv1.ExecutorInfo{
			Type: mesosv1.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String("pod")}, FrameworkId: testFramework().GetId(),
			Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64), scalar("disk", 10)},
		},
		TaskGroup: &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{task("a", "echo from a; sleep 0.1"), task("b", "echo from b; exec sleep 1000")}},
	}
	if !s.master.try(&linkv1.Message{Kind: &linkv1.Message_RunTaskGroup{RunTaskGroup: group}}) {
		t.Fatal("no link")
	}
	s.await("b", running)
	s.await("a", finished)
	for _, id := range []string{"a", "b"} {
		out, err := os.ReadFile(s.dir + "/work/slaves/m-S0/frameworks/m-0000/executors/pod/runs/latest/tasks/" + id + "/stdout")
		if err != nil || !strings.Contains(string(out), "from "+id) {
			t.Errorf("stdout of %s: %q, %v", id, out, err)
		}
	}

	s.run("long", "echo here > marker; exec sleep 1000")
	s.await("long", running)
	link, err := os.Readlink(s.dir + "/work/slaves/m-S0/frameworks/m-0000/executors/long/runs/latest")
	if err != nil {
		t.Fatal(err)
	}
	address, err := os.ReadFile(s.dir + "/address")
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(&agentv1.Call{
		Type: agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(),
		LaunchNestedContainerSession: &agentv1.Call_LaunchNestedContainerSession{
			ContainerId: id(filepath.Base(link), "look"), Command: &mesosv1.CommandInfo{Value: proto.String("cat marker; echo bad >&2; exit 3")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+string(address)+"/api/v1", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", wire.MediaProtobuf)
	req.Header.Set("Accept", wire.MediaRecordIO)
	req.Header.Set("Message-Accept", wire.MediaProtobuf)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("session: %d %s", resp.StatusCode, text)
	}
	output := map[agentv1.ProcessIO_Data_Type]string{}
	for records := wire.NewRecordReader(resp.Body, 0); ; {
		rec, err := records.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p := &agentv1.ProcessIO{}
		if err := proto.Unmarshal(rec, p); err != nil {
			t.Fatal(err)
		}
		output[p.GetData().GetType()] += string(p.GetData().GetData())
	}
	if out, bad := output[agentv1.ProcessIO_Data_STDOUT], output[agentv1.ProcessIO_Data_STDERR]; out != "here\n" || bad != "bad\n" {
		t.Errorf("stdout %q, stderr %q", out, bad)
	}
	for _, id := range []string{"b", "long"} {
		s.kill(id)
		s.await(id, mesosv1.TaskState_TASK_KILLED)
	}
}
