package faults

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// volumeInfo is a framework that may have everything that volumes need.
const volumeInfo = `{"user":"root","name":"volumes","roles":["db"],"capabilities":[{"type":"MULTI_ROLE"},{"type":"RESERVATION_REFINEMENT"},{"type":"SHARED_RESOURCES"}]}`

func (s *session) json(m proto.Message) string {
	s.t.Helper()
	b, err := wire.JSON.Append(nil, m)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// accept accepts an offer with operations in JSON.
func (s *session) accept(o *mesosv1.Offer, ops ...string) {
	s.t.Helper()
	s.expect("ACCEPT", 202, fmt.Sprintf(`"type":"ACCEPT","accept":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0.0},"operations":[%s]}`, o.GetId().GetValue(), strings.Join(ops, ",")))
}

// task is the JSON of a task with a volume.
func (s *session) task(o *mesosv1.Offer, id, cmd string, volume *mesosv1.Resource) string {
	s.t.Helper()
	res := []string{s.json(volume)}
	for name, v := range map[string]float64{"cpus": 0.2, "mem": 32} {
		for _, r := range o.GetResources() {
			if r.GetName() == name {
				r = r.CloneVT()
				r.Scalar.Value = ptr(v)
				res = append(res, s.json(r))
				break
			}
		}
	}
	return fmt.Sprintf(`{"name":%q,"task_id":{"value":%q},"agent_id":{"value":%q},"command":{"value":%q},"resources":[%s]}`, id, id, o.GetAgentId().GetValue(), cmd, strings.Join(res, ","))
}

// diskOf waits for an offer with a disk that is as wanted.
func (s *session) diskOf(what string, fits func(*mesosv1.Resource) bool) (*mesosv1.Offer, *mesosv1.Resource) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		o := s.offer()
		for _, r := range o.GetResources() {
			if r.GetName() == "disk" && fits(r) && room(o) {
				return o, r
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no offer with %s; the last one: %v", what, o)
		}
		s.expect("DECLINE", 202, fmt.Sprintf(`"type":"DECLINE","decline":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0.0}}`, o.GetId().GetValue()))
	}
}

func size(id string, mb float64) func(*mesosv1.Resource) bool {
	return func(r *mesosv1.Resource) bool {
		return r.GetDisk().GetPersistence().GetId() == id && r.GetScalar().GetValue() == mb
	}
}

// operate makes a call of an operator.
func (c *cluster) operate(body string) (int, string) {
	c.t.Helper()
	resp, err := http.Post("http://"+c.master.address+"/api/v1", asJSON, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// stdout is what a task has said.
func (c *cluster) stdout(task string) string {
	c.t.Helper()
	files, _ := filepath.Glob(c.dir + "/agent/slaves/*/frameworks/*/executors/" + task + "/runs/latest/stdout")
	if len(files) != 1 {
		c.t.Fatalf("output of %s: %v", task, files)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// TestVolumesThroughMasterAndAgent: a persistent volume is made, used, refused to be resized while it is used, grown and shrunk when it is
// not, by framework and operator, and keeps what is in it, also over the death of the agent; a shared one is used by two tasks at once, of
// which one may only read.
func TestVolumesThroughMasterAndAgent(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := newCluster(t)
	for i, a := range c.agent.args {
		if strings.HasPrefix(a, "--resources=") {
			c.agent.args[i] = "--resources=cpus:8;mem:4096;disk(db):1000"
		}
	}
	c.master.start()
	c.agent.start()
	c.registered()
	s := subscribe(t, c, volumeInfo)
	free := func(r *mesosv1.Resource) bool { return r.GetDisk() == nil }
	volume := func(r *mesosv1.Resource, id string, mb float64) *mesosv1.Resource {
		v := r.CloneVT()
		v.AllocationInfo = nil
		v.Scalar.Value = &mb
		v.Disk = &mesosv1.Resource_DiskInfo{
			Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: &id}, Volume: &mesosv1.Volume{Mode: mesosv1.Volume_RW.Enum(), ContainerPath: ptr("data")},
		}
		return v
	}
	disk := func(r *mesosv1.Resource, mb float64) *mesosv1.Resource {
		v := r.CloneVT()
		v.AllocationInfo, v.Disk, v.Shared = nil, nil, nil
		v.Scalar.Value = &mb
		return v
	}
	create := func(v *mesosv1.Resource) string {
		return `{"type":"CREATE","create":{"volumes":[` + s.json(v) + `]}}`
	}
	launch := func(tasks ...string) string {
		return `{"type":"LAUNCH","launch":{"task_infos":[` + strings.Join(tasks, ",") + `]}}`
	}

	o, r := s.diskOf("free disk", free)
	v := volume(r, "p", 100)
	s.accept(o, create(v), launch(s.task(o, "first", "echo kept > data/f; sleep 1000", v)))
	s.await("first", mesosv1.TaskState_TASK_RUNNING)
	c.eventually("the task has written", func() error {
		_, err := os.Stat(c.dir + "/agent/volumes/roles/db/p/f")
		return err
	})
	agent := o.GetAgentId().GetValue()
	grow := func(v *mesosv1.Resource, mb float64) (int, string) {
		return c.operate(fmt.Sprintf(`{"type":"GROW_VOLUME","grow_volume":{"agent_id":{"value":%q},"volume":%s,"addition":%s}}`, agent, s.json(v), s.json(disk(v, mb))))
	}
	if code, text := grow(v, 50); code/100 == 2 {
		t.Errorf("growing a volume that is used: %d %s", code, text)
	}
	s.expect("KILL", 202, `"type":"KILL","kill":{"task_id":{"value":"first"}}`)
	s.await("first")

	// By the framework.
	o, r = s.diskOf("the volume", size("p", 100))
	s.accept(o, fmt.Sprintf(`{"type":"GROW_VOLUME","grow_volume":{"volume":%s,"addition":%s}}`, s.json(r), s.json(func() *mesosv1.Resource { a := disk(r, 50); a.AllocationInfo = r.AllocationInfo; return a }())))
	o, r = s.diskOf("the grown volume", size("p", 150))
	s.accept(o, fmt.Sprintf(`{"type":"SHRINK_VOLUME","shrink_volume":{"volume":%s,"subtract":{"value":120}}}`, s.json(r)))
	o, r = s.diskOf("the shrunk volume", size("p", 30))
	s.accept(o, launch(s.task(o, "second", "cat data/f", r)))
	if st := s.await("second"); st.GetState() != mesosv1.TaskState_TASK_FINISHED || !strings.HasSuffix(c.stdout("second"), "kept\n") {
		t.Errorf("%v; said %q", st, c.stdout("second"))
	}
	// By an operator, while it is offered, and over the agent's death.
	o, r = s.diskOf("the volume again", size("p", 30))
	s.expect("DECLINE", 202, fmt.Sprintf(`"type":"DECLINE","decline":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0.0}}`, o.GetId().GetValue()))
	plain := r.CloneVT()
	plain.AllocationInfo = nil
	if code, text := grow(plain, 70); code != 202 {
		t.Errorf("growing a volume that nobody uses: %d %s", code, text)
	}
	s.diskOf("the volume grown by an operator", size("p", 100))
	c.eventually("the agent has grown it", func() error { // the master tells of it before
		resp, err := http.Get("http://" + c.agent.address + "/state")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), `"scalar":{"value":100.0}`) {
			return fmt.Errorf("%s %w", b, err)
		}
		return nil
	})
	c.agent.kill()
	c.agent.start()
	o, r = s.diskOf("the volume after the agent's death", size("p", 100))
	// An agent that dies before it has written the new size: nobody was offered that, and the old one comes back.
	decline := func(o *mesosv1.Offer) {
		s.expect("DECLINE", 202, fmt.Sprintf(`"type":"DECLINE","decline":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0.0}}`, o.GetId().GetValue()))
	}
	decline(o)
	hundred := r.CloneVT()
	hundred.AllocationInfo = nil
	c.agent.signal(syscall.SIGSTOP)
	if code, text := grow(hundred, 50); code != 202 {
		t.Errorf("growing a volume of an agent that has stopped: %d %s", code, text)
	}
	// asItWas takes the volume as the agent has it on disk. With another size nobody is offered it.
	asItWas := func(r *mesosv1.Resource) bool {
		if mb := r.GetScalar().GetValue(); r.GetDisk().GetPersistence().GetId() == "p" && mb != 100 {
			t.Errorf("the volume is offered with %v MB while its agent has 100 on disk", mb)
		}
		return size("p", 100)(r)
	}
	for o = s.offer(); slices.ContainsFunc(o.GetResources(), asItWas); o = s.offer() { // made before the call
		decline(o)
	}
	decline(o)
	c.agent.kill()
	c.agent.start()
	o, r = s.diskOf("the volume as it was", asItWas)
	if code, text := c.operate(fmt.Sprintf(`{"type":"SHRINK_VOLUME","shrink_volume":{"agent_id":{"value":%q},"volume":%s,"subtract":{"value":100}}}`, agent, s.json(plain))); code/100 == 2 {
		t.Errorf("shrinking a volume to nothing: %d %s", code, text)
	}
	s.accept(o, launch(s.task(o, "third", "cat data/f", r)))
	if st := s.await("third"); st.GetState() != mesosv1.TaskState_TASK_FINISHED || !strings.HasSuffix(c.stdout("third"), "kept\n") {
		t.Errorf("%v; said %q", st, c.stdout("third"))
	}

	// Shared: two at once.
	o, r = s.diskOf("free disk", free)
	shared := volume(r, "s", 10)
	shared.Shared = &mesosv1.Resource_SharedInfo{}
	reads := shared.CloneVT()
	reads.Disk.Volume.Mode = mesosv1.Volume_RO.Enum()
	s.accept(o, create(shared), launch(
		s.task(o, "writes", "echo shared > data/f; sleep 1000", shared),
		s.task(o, "reads", "while ! test -s data/f; do sleep 0.05; done; cat data/f; touch data/x 2>/dev/null || echo may not", reads),
	))
	if st := s.await("reads"); st.GetState() != mesosv1.TaskState_TASK_FINISHED || !strings.HasSuffix(c.stdout("reads"), "shared\nmay not\n") {
		t.Errorf("%v; said %q", st, c.stdout("reads"))
	}
	// Offered to others while it is used, and not to be resized or destroyed then.
	o, r = s.diskOf("the shared volume", size("s", 10))
	s.accept(o, fmt.Sprintf(`{"type":"DESTROY","destroy":{"volumes":[%s]}}`, s.json(r)))
	o, r = s.diskOf("the shared volume, which is used", size("s", 10))
	s.accept(o, launch(s.task(o, "more", "cat data/f", r)))
	if st := s.await("more"); st.GetState() != mesosv1.TaskState_TASK_FINISHED || !strings.HasSuffix(c.stdout("more"), "shared\n") {
		t.Errorf("%v", st)
	}
	s.expect("KILL", 202, `"type":"KILL","kill":{"task_id":{"value":"writes"}}`)
	s.await("writes")
	o, r = s.diskOf("the shared volume after its end", size("s", 10))
	s.accept(o, fmt.Sprintf(`{"type":"DESTROY","destroy":{"volumes":[%s]}}`, s.json(r)))
	c.eventually("the volume's directory is gone", func() error {
		if _, err := os.Stat(c.dir + "/agent/volumes/roles/db/s"); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	s.expect("TEARDOWN", 202, `"type":"TEARDOWN"`)
}
