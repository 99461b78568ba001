package faults

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// healthy is a framework that runs one short task after the other and minds its own business.
type healthy struct {
	c *cluster

	mu   sync.Mutex
	id   string
	done int
	bad  []string
}

func (h *healthy) info() *mesosv1.FrameworkInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	info := &mesosv1.FrameworkInfo{
		User: ptr("root"), Name: ptr("healthy"), Roles: []string{"healthy"}, FailoverTimeout: ptr(3600.0),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{
			{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}, {Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()},
		},
	}
	if h.id != "" {
		info.Id = &mesosv1.FrameworkID{Value: ptr(h.id)}
	}
	return info
}

func (h *healthy) run(ctx context.Context) {
	client, err := wire.NewClient(wire.ClientConfig{Masters: []string{h.c.master.address}, Path: schedulerPath})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	n, waiting := 0, false
	r, err := client.Open(ctx, &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: h.info()}})
	if err != nil {
		h.wrong("cannot subscribe: %v", err)
		return
	}
	defer r.Close()
	for {
		e := &schedulerv1.Event{}
		if err := r.Next(e); err != nil {
			if ctx.Err() == nil {
				h.wrong("its stream broke: %v", err)
			}
			return
		}
		call := func(c *schedulerv1.Call) {
			h.mu.Lock()
			c.FrameworkId = &mesosv1.FrameworkID{Value: ptr(h.id)}
			h.mu.Unlock()
			if err := client.Call(ctx, c); err != nil && ctx.Err() == nil {
				h.wrong("%v: %v", c.GetType(), err)
			}
		}
		switch e.GetType() {
		case schedulerv1.Event_SUBSCRIBED:
			h.mu.Lock()
			h.id = e.GetSubscribed().GetFrameworkId().GetValue()
			h.mu.Unlock()
		case schedulerv1.Event_OFFERS:
			for _, o := range e.GetOffers().GetOffers() {
				c := &schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
					OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: ptr(0.1)},
				}}
				if !waiting && room(o) {
					waiting = true
					n++
					c.Accept.Operations = []*mesosv1.Offer_Operation{{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{{
						Name: ptr("ok"), TaskId: &mesosv1.TaskID{Value: ptr(fmt.Sprintf("ok%d", n))}, AgentId: o.GetAgentId(), Resources: small(),
						Command: &mesosv1.CommandInfo{Value: ptr("true")},
					}}}}}
				}
				call(c)
			}
		case schedulerv1.Event_UPDATE:
			st := e.GetUpdate().GetStatus()
			if len(st.GetUuid()) > 0 {
				call(&schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), Acknowledge: &schedulerv1.Call_Acknowledge{AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid()}})
			}
			if !terminal(st.GetState()) || st.GetTaskId().GetValue() != fmt.Sprintf("ok%d", n) {
				continue
			}
			waiting = false
			if st.GetState() != finished {
				h.wrong("its task ends as %v: %s", st.GetState(), st.GetMessage())
			}
			h.mu.Lock()
			h.done++
			h.mu.Unlock()
			call(&schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum()}) // for the next one
		}
	}
}

func room(o *mesosv1.Offer) bool {
	for _, r := range o.GetResources() {
		if r.GetName() == "cpus" && r.GetScalar().GetValue() >= 1 {
			return true
		}
	}
	return false
}

func (h *healthy) wrong(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bad = append(h.bad, fmt.Sprintf(format, args...))
}

// goesOn waits until the framework has run another two tasks: the first may have been on its way already.
func (h *healthy) goesOn(t *testing.T) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("the healthy framework ran two tasks in %v", time.Since(began).Round(time.Millisecond)) }()
	h.mu.Lock()
	from := h.done
	h.mu.Unlock()
	h.c.eventually("the healthy framework goes on", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.bad) > 0 {
			return fmt.Errorf("%v", h.bad)
		}
		if h.done < from+2 {
			return fmt.Errorf("it ran %d tasks since %s", h.done-from, t.Name())
		}
		return nil
	})
}

func (h *healthy) teardown() error {
	h.mu.Lock()
	id := h.id
	h.mu.Unlock()
	body := fmt.Sprintf(`{"type":"TEARDOWN","teardown":{"framework_id":{"value":%q}}}`, id)
	resp, err := http.Post("http://"+h.c.master.address+operatorPath, asJSON, strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("TEARDOWN answers %s", resp.Status)
	}
	return nil
}

// launch starts tasks by hand: their JSON without agent and resources.
func (s *session) launch(id, rest string) *mesosv1.Offer {
	s.t.Helper()
	o := s.offer()
	for !room(o) {
		s.expect("DECLINE", 202, fmt.Sprintf(`"type":"DECLINE","decline":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0.0}}`, o.GetId().GetValue()))
		o = s.offer()
	}
	s.expect("LAUNCH", 202, fmt.Sprintf(`"type":"ACCEPT","accept":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0.0},"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":%q,"task_id":{"value":%q},"agent_id":{"value":%q},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.5}},{"name":"mem","type":"SCALAR","scalar":{"value":64}},{"name":"disk","type":"SCALAR","scalar":{"value":16}}],%s}]}}]}`,
		o.GetId().GetValue(), id, id, o.GetAgentId().GetValue(), rest))
	return o
}

// await acknowledges updates until one of the task has ended, or is in the given state.
func (s *session) await(id string, state ...mesosv1.TaskState) *mesosv1.TaskStatus {
	s.t.Helper()
	for {
		st := s.next("UPDATE").GetUpdate().GetStatus()
		if uuid := st.GetUuid(); len(uuid) > 0 {
			s.acknowledge(st)
		}
		if st.GetTaskId().GetValue() != id {
			continue
		}
		if terminal(st.GetState()) || len(state) > 0 && st.GetState() == state[0] {
			return st
		}
	}
}

func (s *session) acknowledge(st *mesosv1.TaskStatus) {
	s.t.Helper()
	b, err := wire.JSON.Append(nil, &schedulerv1.Call_Acknowledge{AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.expect("ACKNOWLEDGE", 202, `"type":"ACKNOWLEDGE","acknowledge":`+string(b))
}

func unmarshal(record []byte, e *schedulerv1.Event) error { return wire.JSON.Unmarshal(record, e) }

// lyingExecutor speaks for an executor that it is not, and of tasks that are not its own.
func lyingExecutor(t *testing.T, c *cluster) {
	s := subscribe(t, c, plainInfo)
	custom := func(id string) string {
		return fmt.Sprintf(`"executor":{"type":"CUSTOM","executor_id":{"value":%q},"command":{"value":"sleep 1000"}}`, id)
	}
	s.launch("mine", custom("liar"))
	s.launch("theirs", custom("honest"))
	call := func(framework, executor, rest string) (int, string) {
		body := fmt.Sprintf(`{"framework_id":{"value":%q},"executor_id":{"value":%q},%s}`, framework, executor, rest)
		return raw(t, c.agent, head(executorPath, asJSON, len(body)), []byte(body))
	}
	status := func(task, state, uuid, more string) string {
		return fmt.Sprintf(`"type":"UPDATE","update":{"status":{"task_id":{"value":%q},"state":%q,"source":"SOURCE_EXECUTOR","uuid":%q%s}}`, task, state, uuid, more)
	}
	const good = "AAECAwQFBgcICQoLDA0ODw=="
	c.eventually("the executors are launched", func() error {
		for executor, task := range map[string]string{"liar": "mine", "honest": "theirs"} {
			if got, text := call(s.id, executor, status(task, "TASK_RUNNING", good, "")); got != 403 {
				return fmt.Errorf("an update of %s before SUBSCRIBE answers %d %s", executor, got, text)
			}
		}
		return nil
	})
	for name, row := range map[string]struct {
		framework, executor, rest string
		want                      []int
	}{
		"another framework": {"nobody", "liar", status("mine", "TASK_RUNNING", good, ""), []int{400}},
		"another executor":  {s.id, "nobody", status("mine", "TASK_RUNNING", good, ""), []int{400}},
		"no type":           {s.id, "liar", `"update":{}`, []int{400}},
		"no status":         {s.id, "liar", `"type":"UPDATE"`, []int{400}},
	} {
		if got, text := call(row.framework, row.executor, row.rest); !in(got, row.want) {
			t.Errorf("%s: answer %d %.200q, want %v", name, got, text, row.want)
		}
	}
	subscribeAs := func(id string) io.Closer {
		t.Helper()
		body := fmt.Sprintf(`{"type":"SUBSCRIBE","framework_id":{"value":%q},"executor_id":{"value":%q},"subscribe":{}}`, s.id, id)
		resp, err := http.Post("http://"+c.agent.address+executorPath, asJSON, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			t.Fatalf("SUBSCRIBE of an executor: %s", resp.Status)
		}
		go func() { _, _ = io.Copy(io.Discard, resp.Body) }()
		return resp.Body
	}
	defer subscribeAs("liar").Close()
	defer subscribeAs("honest").Close()
	for name, row := range map[string]struct {
		rest string
		want []int
	}{
		"a uuid of 3 bytes":    {status("mine", "TASK_RUNNING", "AAEC", ""), []int{400}},
		"no uuid":              {`"type":"UPDATE","update":{"status":{"task_id":{"value":"mine"},"state":"TASK_RUNNING","source":"SOURCE_EXECUTOR"}}`, []int{400}},
		"the master's word":    {strings.Replace(status("mine", "TASK_RUNNING", good, ""), "SOURCE_EXECUTOR", "SOURCE_MASTER", 1), []int{400}},
		"another's executor":   {status("mine", "TASK_RUNNING", good, `,"executor_id":{"value":"honest"}`), []int{400}},
		"a state that is none": {status("mine", "TASK_FLYING", good, ""), []int{400}},
	} {
		if got, text := call(s.id, "liar", row.rest); !in(got, row.want) {
			t.Errorf("%s: answer %d %.200q, want %v", name, got, text, row.want)
		}
	}
	// Of another's task: the call is taken, and nothing comes of it (as in Mesos, which drops it).
	for _, task := range []string{"theirs", "nobody's"} {
		if got, text := call(s.id, "liar", status(task, "TASK_FINISHED", "AQECAwQFBgcICQoLDA0ODw==", "")); !in(got, []int{202, 400}) {
			t.Errorf("an update of %s: answer %d %.200q", task, got, text)
		}
	}
	if got, text := call(s.id, "honest", status("theirs", "TASK_RUNNING", "AgECAwQFBgcICQoLDA0ODw==", "")); got != 202 {
		t.Errorf("an honest update: answer %d %.200q", got, text)
	}
	if st := s.await("theirs", mesosv1.TaskState_TASK_RUNNING); st.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Errorf("a liar has ended another's task: %v", st)
	}
	for i, state := range []string{"TASK_RUNNING", "TASK_FINISHED", "TASK_RUNNING", "TASK_FAILED"} { // the last two after its end
		_, _ = call(s.id, "liar", status("mine", state, fmt.Sprintf("Aw%cCAwQFBgcICQoLDA0ODw==", 'E'+rune(i)), ""))
	}
	if st := s.await("mine"); st.GetState() != finished {
		t.Errorf("the liar's task: %v", st)
	}
	// TASK_STAGING gets the executor killed, and its tasks fail with it (facts 2.1).
	_, _ = call(s.id, "honest", status("theirs", "TASK_STAGING", "BAECAwQFBgcICQoLDA0ODw==", ""))
	if st := s.await("theirs"); st.GetState() != failed {
		t.Errorf("after TASK_STAGING: %v", st)
	}
	s.expect("the end", 202, `"type":"TEARDOWN"`)
}

// greedyTasks take more than they have, and bring archives that mean no good.
func greedyTasks(t *testing.T, c *cluster) {
	s := subscribe(t, c, plainInfo)
	s.launch("fills", `"command":{"value":"dd if=/dev/zero of=big bs=1M count=64 2>/dev/null; sleep 1000"}`)
	if st := s.await("fills"); st.GetState() != failed || st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK {
		t.Errorf("a task that fills its disk: %v", st)
	}
	s.launch("eats", `"command":{"value":"x=; while true; do x=$x$(head -c 4000000 /dev/zero | tr '\\0' x); done"}`)
	if st := s.await("eats"); st.GetState() != failed || st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY {
		t.Errorf("a task that eats memory: %v", st)
	}
	s.launch("forks", `"command":{"value":"f() { f | f & }; f; while true; do sleep 1000 & sleep 0.01; done"}`)
	forks := s.await("forks", mesosv1.TaskState_TASK_RUNNING)
	if forks.GetState() != mesosv1.TaskState_TASK_RUNNING && forks.GetState() != failed {
		t.Errorf("a task that forks: %v", forks)
	}
	c.eventually("the limit of processes holds", func() error {
		if groups, _ := filepath.Glob("/sys/fs/cgroup/pids/" + c.group + "/*/pids.max"); len(groups) > 0 {
			for _, g := range groups {
				if b, _ := os.ReadFile(g); strings.TrimSpace(string(b)) != "64" {
					return fmt.Errorf("%s is %s", g, b)
				}
			}
		}
		return nil
	})
	if forks.GetState() != failed { // it may end by itself, for want of processes
		s.expect("KILL", 202, `"type":"KILL","kill":{"task_id":{"value":"forks"}}`)
		if st := s.await("forks"); st.GetState() != killed && st.GetState() != failed {
			t.Errorf("a fork bomb that was killed: %v", st)
		}
	}
	for name, archive := range map[string][]byte{
		"upwards.tar": archiveOf(&tar.Header{Name: "../../escaped", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}),
		"link.tar": archiveOf(&tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: c.dir, Mode: 0o777},
			&tar.Header{Name: "d/escaped", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}),
		"hardlink.tar": archiveOf(&tar.Header{Name: "passwd", Typeflag: tar.TypeLink, Linkname: "/etc/passwd", Mode: 0o644}),
		"device.tar":   archiveOf(&tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}),
		"noise.tar":    bytes.Repeat([]byte("\xff\x00noise"), 1000),
	} {
		path := filepath.Join(c.dir, name)
		if err := os.WriteFile(path, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		s.launch(name, fmt.Sprintf(`"command":{"value":"true","uris":[{"value":%q,"extract":true}]}`, path))
		if st := s.await(name); st.GetState() != failed || st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED {
			t.Errorf("%s: %v", name, st)
		}
	}
	// An absolute name loses its slash, as with tar.
	path := filepath.Join(c.dir, "absolute.tar")
	if err := os.WriteFile(path, archiveOf(&tar.Header{Name: c.dir + "/escaped", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}), 0o644); err != nil {
		t.Fatal(err)
	}
	s.launch("absolute", fmt.Sprintf(`"command":{"value":%q,"uris":[{"value":%q,"extract":true}]}`, "test -e ."+c.dir+"/escaped", path))
	if st := s.await("absolute"); st.GetState() != finished {
		t.Errorf("an absolute name: %v", st)
	}
	for _, path := range []string{c.dir + "/escaped", c.dir + "/agent/escaped"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("an archive wrote %s", path)
		}
	}
	s.expect("the end", 202, `"type":"TEARDOWN"`)
}

func archiveOf(headers ...*tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		_ = w.WriteHeader(h)
		if h.Size > 0 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), int(h.Size)))
		}
	}
	_ = w.Close()
	return b.Bytes()
}

// deaf subscribes and never reads, and makes the master talk: it is cut off, and nobody waits for it.
func deaf(t *testing.T, c *cluster) {
	conn, err := net.Dial("tcp", c.master.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	body := `{"type":"SUBSCRIBE","subscribe":{"framework_info":` + strings.Replace(plainInfo, "0.5", "3600", 1) + `}}`
	if _, err := conn.Write([]byte(head(schedulerPath, asJSON, len(body)) + body)); err != nil {
		t.Fatal(err)
	}
	// Its stream id and framework id, and not a byte more.
	var text []byte
	one := make([]byte, 1)
	for !bytes.Contains(text, []byte(`"heartbeat_interval_seconds"`)) {
		if _, err := conn.Read(one); err != nil {
			t.Fatal(err)
		}
		text = append(text, one[0])
	}
	cut := func(from, to string) string {
		_, rest, _ := strings.Cut(string(text), from)
		v, _, _ := strings.Cut(rest, to)
		return v
	}
	s := &session{t: t, c: c, stream: cut("Mesos-Stream-Id: ", "\r"), id: cut(`"framework_id":{"value":"`, `"`)}
	var tasks []string
	for i := range 5000 {
		tasks = append(tasks, fmt.Sprintf(`{"task_id":{"value":"%d%s"}}`, i, strings.Repeat("x", 200)))
	}
	ask := `"type":"RECONCILE","reconcile":{"tasks":[` + strings.Join(tasks, ",") + `]}`
	c.eventually("it is cut off", func() error {
		if got, text := s.call(ask); got != 403 {
			return fmt.Errorf("a call answers %d %s", got, text)
		}
		return nil
	})
	h := &healthy{c: c, id: s.id}
	if err := h.teardown(); err != nil {
		t.Error(err)
	}
}
