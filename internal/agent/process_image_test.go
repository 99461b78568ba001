package agent

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func imageInfo(name string) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{
		Type: mesosv1.ContainerInfo_MESOS.Enum(),
		Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{
			Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: &name},
		}},
	}
}

func (s *site) runIn(image, id string, cmd *mesosv1.CommandInfo) {
	s.t.Helper()
	task := customTask(id, "")
	task.Executor = nil
	task.Resources = []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)}
	task.Command, task.Container = cmd, imageInfo(image)
	if !s.master.try(&linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: testFramework(), Task: task}}}) {
		s.t.Fatal("no link")
	}
}

// call posts an operator's call.
func (s *site) call(c *agentv1.Call) (int, string) {
	s.t.Helper()
	address, err := os.ReadFile(s.dir + "/address")
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := proto.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.Post("http://"+string(address)+"/api/v1", wire.MediaProtobuf, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// TestProcessRunsImages: the whole way of a task with an image through the real agent, and PRUNE_IMAGES.
func TestProcessRunsImages(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	s := newSite(t)
	r := imagetest.Serve(t)
	files := imagetest.BusyboxFiles(t)
	push := func(name string) string {
		fs := append(files, imagetest.File{Name: "which", Body: name + "\n"})
		return r.Push(t, name, imagetest.Build(t, v1.Config{Entrypoint: []string{"/bin/cat"}, Cmd: []string{"/which"}}, imagetest.Layer(t, imagetest.Tar(t, fs...), compression.GZip)))
	}
	one, two := push("one"), push("two")
	s.linked()
	s.runIn(one, "own", &mesosv1.CommandInfo{Shell: proto.Bool(false)})
	s.runIn(two, "long", &mesosv1.CommandInfo{Value: proto.String("cat /which; pwd; exec sleep 1000")})
	s.runIn(r.Host+"/none:1", "none", &mesosv1.CommandInfo{Value: proto.String("true")})
	s.await("own", finished)
	s.await("long", running)
	st := s.await("none", mesosv1.TaskState_TASK_FAILED)
	if st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED || !strings.Contains(st.GetMessage(), "no such image") {
		t.Errorf("a missing image: %v %q", st.GetReason(), st.GetMessage())
	}
	sandbox := s.dir + "/work/slaves/m-S0/frameworks/m-0000/executors/"
	for id, want := range map[string]string{"own": "one\n", "long": "two\n/mnt/mesos/sandbox\n"} {
		s.eventually("the output of "+id, func() error {
			out, err := os.ReadFile(sandbox + id + "/runs/latest/stdout")
			if err != nil || !strings.HasSuffix(string(out), want) {
				return fmt.Errorf("%q %w", out, err)
			}
			return nil
		})
	}

	layers := func() int {
		l, _ := filepath.Glob(s.dir + "/work/store/docker/layers/*")
		return len(l)
	}
	prune := func(excluded ...*mesosv1.Image) {
		t.Helper()
		if code, text := s.call(&agentv1.Call{Type: agentv1.Call_PRUNE_IMAGES.Enum(), PruneImages: &agentv1.Call_PruneImages{ExcludedImages: excluded}}); code != http.StatusOK {
			t.Errorf("prune: %d %s", code, text)
		}
	}
	if n := layers(); n != 2 {
		t.Errorf("%d layers", n)
	}
	prune(imageInfo(one).GetMesos().GetImage())
	if n := layers(); n != 2 {
		t.Errorf("%d layers after a prune that excludes what is not used", n)
	}
	s.eventually("what is not used is pruned, and no more", func() error {
		prune()
		if n := layers(); n != 1 {
			return fmt.Errorf("%d layers", n)
		}
		return nil
	})
	s.kill("long")
	s.await("long", mesosv1.TaskState_TASK_KILLED)
	s.eventually("the image is pruned once its container is gone", func() error {
		prune()
		if n := layers(); n != 0 {
			return fmt.Errorf("%d layers", n)
		}
		return nil
	})

	// A container of the operator's own.
	code, text := s.call(&agentv1.Call{Type: agentv1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: &agentv1.Call_LaunchContainer{
		ContainerId: &mesosv1.ContainerID{Value: proto.String("standalone")}, Container: imageInfo(one), Command: &mesosv1.CommandInfo{Shell: proto.Bool(false)},
		Resources: []*mesosv1.Resource{scalar("mem", 256)}, // with the race detector the helper is large
	}})
	if code != http.StatusOK {
		t.Fatalf("standalone: %d %s", code, text)
	}
	if code, text := s.call(&agentv1.Call{Type: agentv1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &agentv1.Call_WaitContainer{ContainerId: &mesosv1.ContainerID{Value: proto.String("standalone")}}}); code != http.StatusOK {
		t.Errorf("wait: %d %s", code, text)
	}
	if out, err := os.ReadFile(s.dir + "/work/containers/standalone/stdout"); err != nil || string(out) != "one\n" {
		t.Errorf("the standalone container said %q %v", out, err)
	}
}
