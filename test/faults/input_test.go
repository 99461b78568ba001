package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
)

const (
	schedulerPath = "/api/v1/scheduler"
	executorPath  = "/api/v1/executor"
	operatorPath  = "/api/v1"
	asJSON        = "application/json"
	asProtobuf    = "application/x-protobuf"
)

// raw sends bytes to a daemon, closes its half of the connection, and gives the status of the answer; 0: closed without one.
func raw(t *testing.T, d *daemon, head string, body []byte) (int, string) {
	t.Helper()
	c, err := net.Dial("tcp", d.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() {
		_, _ = c.Write([]byte(head))
		_, _ = c.Write(body)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 10_000))
	return resp.StatusCode, string(text)
}

func head(path, media string, length int, more ...string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n", path, media, length, strings.Join(more, ""))
}

// maxBody is what the daemons of this test accept.
const maxBody = 12 << 20

// bodies are requests whose answer does not depend on any state. They are sent to every API that takes calls.
func bodies() map[string]struct {
	media string
	body  []byte
	want  []int
} {
	type row = struct {
		media string
		body  []byte
		want  []int
	}
	deep := func(open string, n int) []byte { return []byte(strings.Repeat(open, n)) }
	nested := []byte{}
	for range 20_000 { // ContainerID.parent of ContainerID.parent of …
		nested = append(append([]byte{0x12}, varint(len(nested))...), nested...)
		if len(nested) > 1<<20 {
			break
		}
	}
	return map[string]row{
		"empty":                  {asJSON, nil, []int{400}},
		"no JSON":                {asJSON, []byte("hello"), []int{400}},
		"null":                   {asJSON, []byte("null"), []int{400}},
		"an array":               {asJSON, []byte("[]"), []int{400}},
		"cut":                    {asJSON, []byte(`{"type":"SUB`), []int{400}},
		"something behind":       {asJSON, []byte(`{"type":"TEARDOWN"} x`), []int{400}},
		"no type":                {asJSON, []byte(`{}`), []int{400}},
		"type as a number":       {asJSON, []byte(`{"type":1}`), []int{400}},
		"unknown type":           {asJSON, []byte(`{"type":"FLY"}`), []int{400}},
		"not UTF-8":              {asJSON, []byte("{\"type\":\"\xff\xfe\"}"), []int{400}},
		"10 MB of [":             {asJSON, deep("[", 10<<20), []int{400}},
		"10 MB of objects":       {asJSON, deep(`{"a":`, 2<<20), []int{400}},
		"deep in a known field":  {asJSON, append([]byte(`{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":`), deep(`{"parent":`, 1<<20)...), []int{400}},
		"a string without end":   {asJSON, append([]byte(`{"type":"`), bytes.Repeat([]byte("a"), 10<<20)...), []int{400}},
		"a number without end":   {asJSON, append([]byte(`{"x":`), bytes.Repeat([]byte("9"), 10<<20)...), []int{400}},
		"too large":              {asJSON, make([]byte, maxBody+1), []int{413}},
		"protobuf: noise":        {asProtobuf, []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), []int{400}},
		"protobuf: length":       {asProtobuf, []byte{0x12, 0xff, 0xff, 0xff, 0xff, 0x7f}, []int{400}},
		"protobuf: nesting":      {asProtobuf, nested, []int{400}},
		"protobuf: many fields":  {asProtobuf, bytes.Repeat([]byte{0x12, 0}, 5<<20), []int{400}},
		"protobuf: unknown enum": {asProtobuf, []byte{0x08, 0x63}, []int{400, 501}},
		"another media type":     {"text/plain", []byte(`{"type":"TEARDOWN"}`), []int{415}},
		"a charset":              {"application/json; charset=utf-8", []byte(`{"type":"TEARDOWN"}`), []int{415}},
	}
}

func varint(n int) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func in(status int, want []int) bool {
	for _, w := range want {
		if w == status {
			return true
		}
	}
	return false
}

// memory is the resident size of a daemon, in bytes.
func memory(t *testing.T, d *daemon) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.pid()))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// TestBadInput: see the package's comment.
func TestBadInput(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := newCluster(t)
	c.master.args = append(c.master.args, fmt.Sprintf("--max_request_body=%dB", maxBody), "--stream_queue_limit=2MB", "--heartbeat_interval=1secs")
	c.agent.args = append(c.agent.args, fmt.Sprintf("--max_request_body=%dB", maxBody), "--cgroups_pids_limit=64", "--enforce_container_disk_quota",
		"--container_disk_watch_interval=200ms")
	c.master.start()
	c.agent.start()
	c.registered()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := &healthy{c: c}
	go h.run(ctx)
	h.goesOn(t)
	slow := slowConnections(t, c)
	before := map[*daemon]int{c.master: memory(t, c.master), c.agent: memory(t, c.agent)}

	group := func(name string, f func(*testing.T)) {
		t.Run(name, f)
		h.goesOn(t)
	}
	group("bodies", func(t *testing.T) {
		for name, row := range bodies() {
			for _, at := range []struct {
				d    *daemon
				path string
			}{{c.master, schedulerPath}, {c.master, operatorPath}, {c.agent, executorPath}, {c.agent, operatorPath}} {
				t.Run(name+" at "+at.d.args[1]+at.path, func(t *testing.T) {
					if got, text := raw(t, at.d, head(at.path, row.media, len(row.body)), row.body); !in(got, row.want) {
						t.Errorf("answer %d %.200q, want %v", got, text, row.want)
					}
				})
			}
		}
	})
	group("HTTP", func(t *testing.T) { badHTTP(t, c) })
	group("scheduler", func(t *testing.T) { badScheduler(t, c) })
	group("tasks", func(t *testing.T) { badTasks(t, c) })
	group("operator", func(t *testing.T) { badOperator(t, c) })
	group("executor", func(t *testing.T) { lyingExecutor(t, c) })
	group("limits of tasks", func(t *testing.T) { greedyTasks(t, c) })
	group("a framework that never reads", func(t *testing.T) { deaf(t, c) })
	group("slow connections", func(t *testing.T) { slow(t) })

	for d, was := range before {
		// What 10 MB bodies leave in pools and to the collector is not growth; one body kept for each request would be 1 GB. What the collector has
		// freed is given back by and by.
		c.eventually("it has its memory back", func() error {
			if now := memory(t, d); now > was+300<<20 {
				return fmt.Errorf("the %s has grown from %d to %d MB", d.args[1], was>>20, now>>20)
			}
			return nil
		})
		if !d.alive() {
			t.Errorf("the %s has died", d.args[1])
		}
	}
	cancel()
	c.eventually("the framework ends", h.teardown)
	c.agent.signal(10) // SIGUSR1
	if err := c.agent.ends(); err != nil {
		t.Error(err)
	}
	c.eventually("nothing is left", c.left)
	if t.Failed() {
		for _, d := range []*daemon{c.master, c.agent} {
			b, _ := os.ReadFile(d.log.Name())
			t.Logf("the %s's log ends:\n%s", d.args[1], b[max(0, len(b)-8000):])
		}
	}
}

// slowConnections sends requests a byte at a time, many at once; the result waits until the daemons have cut them.
func slowConnections(t *testing.T, c *cluster) func(*testing.T) {
	t.Helper()
	ended := make(chan string, 1000)
	n := 0
	for _, d := range []*daemon{c.master, c.agent} {
		path := map[*daemon]string{c.master: schedulerPath, c.agent: executorPath}[d]
		for kind, text := range map[string]string{
			"header": "POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Slow: ",
			"body":   head(path, asJSON, 1000) + "{",
			"chunk":  "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		} {
			for range 30 {
				conn, err := net.Dial("tcp", d.address)
				if err != nil {
					t.Fatal(err)
				}
				n++
				go func() {
					defer conn.Close()
					if _, err := conn.Write([]byte(text)); err != nil {
						ended <- ""
						return
					}
					_ = conn.SetReadDeadline(time.Now().Add(patience))
					if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
						ended <- fmt.Sprintf("the %s lets a slow %s wait for ever", d.args[1], kind)
						return
					}
					ended <- ""
				}()
			}
		}
	}
	return func(t *testing.T) {
		seen := map[string]bool{}
		for range n {
			if problem := <-ended; problem != "" && !seen[problem] {
				seen[problem] = true
				t.Error(problem)
			}
		}
	}
}

func badHTTP(t *testing.T, c *cluster) {
	for _, d := range []*daemon{c.master, c.agent} {
		path := map[*daemon]string{c.master: schedulerPath, c.agent: executorPath}[d]
		for name, row := range map[string]struct {
			head string
			body string
			want []int
		}{
			"noise":                      {"\x00\x01\x02\xff\r\n\r\n", "", []int{0, 400}},
			"TLS hello":                  {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "", []int{0, 400}},
			"no method":                  {" / HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{400}},
			"no host":                    {"POST " + path + " HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "", []int{400}},
			"HTTP/9.9":                   {"POST " + path + " HTTP/9.9\r\nHost: x\r\n\r\n", "", []int{400, 505}},
			"a header of a megabyte":     {"POST " + path + " HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", "", []int{0, 431}},
			"100,000 headers":            {"POST " + path + " HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: a\r\n", 100_000) + "\r\n", "", []int{0, 431}},
			"a path of a megabyte":       {"GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{0, 414, 431}},
			"two lengths":                {"POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", "{}}", []int{400}},
			"a negative length":          {"POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "", []int{400}},
			"a length of 1 TB":           {head(path, asJSON, 1<<40), "{", []int{413}},
			"less than announced":        {head(path, asJSON, 100), "{", []int{0, 400}},
			"a broken chunk":             {"POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", "zz\r\n{}", []int{400}},
			"a chunked body without end": {"POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("10000\r\n"+strings.Repeat(" ", 0x10000)+"\r\n", 300), []int{413}},
			"an unknown encoding":        {head(path, asJSON, 2, "Content-Encoding: br\r\n"), "{}", []int{415}},
			"gzip that is none":          {head(path, asJSON, 2, "Content-Encoding: gzip\r\n"), "{}", []int{400}},
			"another method":             {"DELETE " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{405}},
			"half closed":                {head(path, asJSON, 2), "{}", []int{400}},
			"no type at all":             {"POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", "{}", []int{400}},
			"NUL in the path":            {"GET /state%00 HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{404}},
			"a path upwards":             {"GET /files/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{301, 307, 400, 404}},
			"a file upwards":             {"GET /files/read?path=/../../../etc/passwd&offset=0 HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{400, 404}},
			"a file with NUL":            {"GET /files/read?path=/slave/log%00x&offset=0 HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{400, 404}},
			"no file":                    {"GET /files/read HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{400}},
			"an offset that is none":     {"GET /files/read?path=/master/log&offset=99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{400, 404}},
			"a callback with markup":     {"GET /state?jsonp=%3Cscript%3Ealert(1)%3C/script%3E HTTP/1.1\r\nHost: x\r\n\r\n", "", []int{200, 400}},
		} {
			t.Run(name+" at the "+d.args[1], func(t *testing.T) {
				got, text := raw(t, d, row.head, []byte(row.body))
				if !in(got, row.want) {
					t.Errorf("answer %d %.200q, want %v", got, text, row.want)
				}
				if strings.Contains(text, "root:") || strings.Contains(text, "<script>") && got == 200 {
					t.Errorf("answer %.200q", text)
				}
			})
		}
	}
}

// session is a scheduler that speaks JSON by hand.
type session struct {
	t      *testing.T
	c      *cluster
	id     string
	stream string
	body   io.ReadCloser
	events *bufio.Reader
	offers []*mesosv1.Offer // that came while something else was waited for
}

func subscribe(t *testing.T, c *cluster, info string) *session {
	t.Helper()
	call := `{"type":"SUBSCRIBE","subscribe":{"framework_info":` + info + `}}`
	var known struct{ ID struct{ Value string } }
	_ = json.Unmarshal([]byte(info), &known)
	if known.ID.Value != "" {
		call = `{"type":"SUBSCRIBE","framework_id":{"value":"` + known.ID.Value + `"},"subscribe":{"framework_info":` + info + `}}`
	}
	resp, err := http.Post("http://"+c.master.address+schedulerPath, asJSON, strings.NewReader(call))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("SUBSCRIBE answers %d %s", resp.StatusCode, text)
	}
	s := &session{t: t, c: c, stream: resp.Header.Get("Mesos-Stream-Id"), body: resp.Body, events: bufio.NewReader(resp.Body)}
	t.Cleanup(func() { resp.Body.Close() })
	if e := s.next("SUBSCRIBED", "ERROR"); e.GetType() == schedulerv1.Event_SUBSCRIBED {
		s.id = e.GetSubscribed().GetFrameworkId().GetValue()
	}
	return s
}

// next reads events until one of the types.
func (s *session) next(types ...string) *schedulerv1.Event {
	s.t.Helper()
	timer := time.AfterFunc(patience, func() { s.body.Close() })
	defer timer.Stop()
	for {
		var n int
		if _, err := fmt.Fscanf(s.events, "%d\n", &n); err != nil {
			s.t.Fatalf("waiting for %v: %v", types, err)
		}
		record := make([]byte, n)
		if _, err := io.ReadFull(s.events, record); err != nil {
			s.t.Fatal(err)
		}
		e := &schedulerv1.Event{}
		if err := unmarshal(record, e); err != nil {
			s.t.Fatal(err)
		}
		switch e.GetType() {
		case schedulerv1.Event_OFFERS:
			s.offers = append(s.offers, e.GetOffers().GetOffers()...)
		case schedulerv1.Event_RESCIND:
			s.offers = slices.DeleteFunc(s.offers, func(o *mesosv1.Offer) bool { return o.GetId().GetValue() == e.GetRescind().GetOfferId().GetValue() })
		}
		for _, want := range types {
			if e.GetType().String() == want {
				return e
			}
		}
	}
}

// call sends a call with the session's ids and gives the status of the answer.
func (s *session) call(rest string, header ...string) (int, string) {
	s.t.Helper()
	stream := s.stream
	if len(header) > 0 {
		stream = header[0]
	}
	id := s.id
	if len(header) > 1 {
		id = header[1]
	}
	body := fmt.Sprintf(`{"framework_id":{"value":%q},%s}`, id, rest)
	req, err := http.NewRequest(http.MethodPost, "http://"+s.c.master.address+schedulerPath, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", asJSON)
	if stream != "" {
		req.Header.Set("Mesos-Stream-Id", stream)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func (s *session) expect(name string, want int, rest string, header ...string) {
	s.t.Helper()
	if got, text := s.call(rest, header...); got != want {
		s.t.Errorf("%s: answer %d %.200q, want %d", name, got, text, want)
	}
}

func (s *session) offer() *mesosv1.Offer {
	s.t.Helper()
	for len(s.offers) == 0 {
		s.next("OFFERS")
	}
	o := s.offers[0]
	s.offers = s.offers[1:]
	return o
}

const plainInfo = `{"user":"root","name":"bad","roles":["bad"],"failover_timeout":0.5,"capabilities":[{"type":"MULTI_ROLE"},{"type":"PARTITION_AWARE"}]}`

// badIDs are ids that Mesos refuses (facts 1.2).
var badIDs = []string{".", "..", "a/b", `a\b`, "a\x00b", "a\nb", "../../etc", strings.Repeat("a", 300)}

func badScheduler(t *testing.T, c *cluster) {
	post := func(body string) (int, string) {
		return raw(t, c.master, head(schedulerPath, asJSON, len(body)), []byte(body))
	}
	for _, id := range badIDs {
		text, _ := json.Marshal(id)
		body := fmt.Sprintf(`{"type":"SUBSCRIBE","framework_id":{"value":%s},"subscribe":{"framework_info":{"user":"x","name":"x","id":{"value":%s}}}}`, text, text)
		if got, answer := post(body); got != 400 || !strings.HasPrefix(answer, "Failed to validate scheduler::Call") {
			t.Errorf("framework id %.20q: answer %d %.200q", id, got, answer)
		}
	}
	for name, row := range map[string]struct {
		body string
		want int
	}{
		"before SUBSCRIBE":             {`{"type":"REVIVE","framework_id":{"value":"nobody"}}`, 400},
		"no framework id":              {`{"type":"REVIVE"}`, 400},
		"bad base64":                   {`{"type":"ACKNOWLEDGE","framework_id":{"value":"x"},"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"%%%"}}`, 400},
		"no framework info":            {`{"type":"SUBSCRIBE","subscribe":{}}`, 400},
		"SUBSCRIBE without its part":   {`{"type":"SUBSCRIBE"}`, 400},
		"ids that differ":              {`{"type":"SUBSCRIBE","framework_id":{"value":"a"},"subscribe":{"framework_info":{"user":"x","name":"x","id":{"value":"b"}}}}`, 400},
		"a wrong kind of value":        {`{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":1.5,"name":[],"roles":{}}}}`, 400},
		"an enum's number in the info": {`{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"x","name":"x","capabilities":[{"type":1}]}}}`, 400},
	} {
		if got, text := post(row.body); got != row.want {
			t.Errorf("%s: answer %d %.200q, want %d", name, got, text, row.want)
		}
	}
	// What is wrong with a subscription is told on the stream (facts 1.1).
	for name, info := range map[string]string{
		"a role upwards":       `{"user":"root","name":"x","roles":["../x"],"capabilities":[{"type":"MULTI_ROLE"}]}`,
		"roles twice":          `{"user":"root","name":"x","roles":["a","a"],"capabilities":[{"type":"MULTI_ROLE"}]}`,
		"roles without":        `{"user":"root","name":"x","roles":["a","b"]}`,
		"a negative time-out":  `{"user":"root","name":"x","failover_timeout":-1}`,
		"an infinite time-out": `{"user":"root","name":"x","failover_timeout":"Infinity"}`,
	} {
		if s := subscribe(t, c, info); s.id != "" {
			t.Errorf("%s: subscribed", name)
		}
	}

	s := subscribe(t, c, plainInfo)
	s.expect("no stream id", 400, `"type":"REVIVE"`, "")
	s.expect("another stream id", 400, `"type":"REVIVE"`, "not-mine")
	s.expect("another framework's id", 400, `"type":"REVIVE"`, s.stream, "nobody")
	s.expect("SUBSCRIBE with a stream id", 400, `"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"x","name":"x","id":{"value":"`+s.id+`"}}}`)
	s.expect("a uuid of 3 bytes", 400, `"type":"ACKNOWLEDGE","acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"AAAA"}`)
	s.expect("a uuid that nobody sent", 202, `"type":"ACKNOWLEDGE","acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"AAAAAAAAAAAAAAAAAAAAAA=="}`)
	s.expect("an offer that nobody made", 202, `"type":"DECLINE","decline":{"offer_ids":[{"value":"nope"}]}`)
	s.expect("no offer at all", 202, `"type":"ACCEPT","accept":{"offer_ids":[],"operations":[]}`)
	s.expect("an unknown task", 202, `"type":"KILL","kill":{"task_id":{"value":"nope"}}`)
	if st := s.next("UPDATE").GetUpdate().GetStatus(); st.GetState() != mesosv1.TaskState_TASK_UNKNOWN || st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION {
		t.Errorf("KILL of an unknown task: %v", st)
	}
	s.expect("refuse for NaN seconds", 202, `"type":"DECLINE","decline":{"offer_ids":[{"value":"nope"}],"filters":{"refuse_seconds":"NaN"}}`)
	s.expect("suppress another's role", 202, `"type":"SUPPRESS","suppress":{"roles":["other"]}`)
	o := s.offer()
	use := fmt.Sprintf(`"type":"ACCEPT","accept":{"offer_ids":[{"value":%q}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"x","task_id":{"value":"late"},"agent_id":{"value":%q},"command":{"value":"true"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}}]}]}}]}`, o.GetId().GetValue(), o.GetAgentId().GetValue())
	s.expect("an offer", 202, fmt.Sprintf(`"type":"DECLINE","decline":{"offer_ids":[{"value":%q}]}`, o.GetId().GetValue()))
	s.expect("an offer that was used", 202, use)
	if st := s.next("UPDATE").GetUpdate().GetStatus(); st.GetState() != mesosv1.TaskState_TASK_DROPPED || st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS {
		t.Errorf("ACCEPT of a used offer: %v", st)
	}
	// A second subscription takes over; the first stream is told so.
	again := subscribe(t, c, strings.Replace(plainInfo, `{`, `{"id":{"value":"`+s.id+`"},`, 1))
	if e := s.next("ERROR"); !strings.Contains(e.GetError().GetMessage(), "failed over") {
		t.Errorf("the old stream hears %v", e)
	}
	s.expect("a call of the old stream", 400, `"type":"REVIVE"`)
	again.expect("the end", 202, `"type":"TEARDOWN"`)
	c.eventually("the framework is gone", func() error {
		if got, text := again.call(`"type":"REVIVE"`); got != 400 {
			return fmt.Errorf("a call after TEARDOWN answers %d %s", got, text)
		}
		return nil
	})
	if back := subscribe(t, c, strings.Replace(plainInfo, `{`, `{"id":{"value":"`+s.id+`"},`, 1)); back.id != "" {
		t.Error("a removed framework has subscribed")
	}
}

func badTasks(t *testing.T, c *cluster) {
	s := subscribe(t, c, plainInfo)
	cpus := func(v string) string { return `{"name":"cpus","type":"SCALAR","scalar":{"value":` + v + `}}` }
	mem := `{"name":"mem","type":"SCALAR","scalar":{"value":32}}`
	ports := func(r string) string { return `{"name":"ports","type":"RANGES","ranges":{"range":[` + r + `]}}` }
	for name, row := range map[string]string{ // what differs from a good task
		"id with a slash":         `"task_id":{"value":"a/b"}`,
		"id upwards":              `"task_id":{"value":".."}`,
		"id with NUL":             `"task_id":{"value":"a\u0000b"}`,
		"id of 300":               `"task_id":{"value":"` + strings.Repeat("a", 300) + `"}`,
		"empty id":                `"task_id":{"value":""}`,
		"another agent":           `"agent_id":{"value":"elsewhere"}`,
		"no resources":            `"resources":[]`,
		"negative":                `"resources":[` + cpus("-1") + `,` + mem + `]`,
		"zero":                    `"resources":[` + cpus("0") + `]`,
		"NaN":                     `"resources":[` + cpus(`"NaN"`) + `,` + mem + `]`,
		"infinite":                `"resources":[` + cpus(`"Infinity"`) + `,` + mem + `]`,
		"huge":                    `"resources":[` + cpus("1e308") + `,` + mem + `]`,
		"huge twice":              `"resources":[` + cpus("1e308") + `,` + cpus("1e308") + `,` + mem + `]`,
		"more than offered":       `"resources":[` + cpus("65") + `,` + mem + `]`,
		"ports not offered":       `"resources":[` + cpus("0.1") + `,` + mem + `,` + ports(`{"begin":1,"end":5}`) + `]`,
		"a range backwards":       `"resources":[` + cpus("0.1") + `,` + mem + `,` + ports(`{"begin":31005,"end":31001}`) + `]`,
		"ranges that overlap":     `"resources":[` + cpus("0.1") + `,` + mem + `,` + ports(`{"begin":31000,"end":31005},{"begin":31003,"end":40000}`) + `]`,
		"a range without end":     `"resources":[` + cpus("0.1") + `,` + mem + `,` + ports(`{"begin":0,"end":18446744073709551615}`) + `]`,
		"a resource without name": `"resources":[` + strings.Replace(cpus("0.1"), "cpus", "", 1) + `,` + mem + `]`,
		"a type that differs":     `"resources":[{"name":"cpus","type":"RANGES","scalar":{"value":1}},` + mem + `]`,
		"of another role":         `"resources":[` + strings.Replace(cpus("0.1"), `{"name"`, `{"role":"other","name"`, 1) + `,` + mem + `]`,
		"command and executor":    `"executor":{"executor_id":{"value":"e"},"command":{"value":"x"}}`,
		"a limit below":           `"limits":{"cpus":{"value":0.01}}`,
		"a limit of NaN":          `"limits":{"cpus":{"value":"NaN"}}`,
		"a negative grace":        `"kill_policy":{"grace_period":{"nanoseconds":-1}}`,
		"a check without a kind":  `"check":{}`,
		"a check with bad times":  `"health_check":{"type":"COMMAND","command":{"value":"true"},"interval_seconds":-1}`,
	} {
		t.Run(name, func(t *testing.T) {
			outer := s.t
			s.t = t
			defer func() { s.t = outer }()
			o := s.offer()
			fields := map[string]json.RawMessage{}
			good := fmt.Sprintf(`{"name":"bad","task_id":{"value":"bad"},"agent_id":{"value":%q},"command":{"value":"true"},"resources":[%s,%s]}`, o.GetAgentId().GetValue(), cpus("0.1"), mem)
			for _, text := range []string{good, "{" + row + "}"} {
				if err := json.Unmarshal([]byte(text), &fields); err != nil {
					t.Fatal(err)
				}
			}
			task, _ := json.Marshal(fields)
			s.expect("ACCEPT", 202, fmt.Sprintf(`"type":"ACCEPT","accept":{"offer_ids":[{"value":%q}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[%s]}}],"filters":{"refuse_seconds":0.0}}`,
				o.GetId().GetValue(), task))
			st := s.next("UPDATE").GetUpdate().GetStatus()
			if st.GetState() != mesosv1.TaskState_TASK_ERROR || st.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || st.GetMessage() == "" || len(st.GetUuid()) > 0 {
				t.Errorf("answer %v", st)
			}
		})
	}
	s.expect("the end", 202, `"type":"TEARDOWN"`)
}

func badOperator(t *testing.T, c *cluster) {
	// Markup in names must not reach a page as markup.
	s := subscribe(t, c, strings.Replace(plainInfo, `"name":"bad"`, `"name":"<script>alert(1)</script>","hostname":"\"><img src=x onerror=alert(2)>","webui_url":"javascript:alert(3)"`, 1))
	o := s.offer()
	s.expect("LAUNCH", 202, fmt.Sprintf(`"type":"ACCEPT","accept":{"offer_ids":[{"value":%q}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"<script>alert(4)</script>","task_id":{"value":"<script>alert(5)<script>"},"agent_id":{"value":%q},"command":{"value":"sleep 1000"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}}]}]}}]}`,
		o.GetId().GetValue(), o.GetAgentId().GetValue()))
	for s.next("UPDATE").GetUpdate().GetStatus().GetState() != mesosv1.TaskState_TASK_STARTING {
	}
	for _, d := range []*daemon{c.master, c.agent} {
		resp, err := http.Get("http://" + d.address + "/")
		if err != nil {
			t.Fatal(err)
		}
		page, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !bytes.Contains(page, []byte("alert(")) {
			t.Errorf("the page of the %s: %d; it does not show what it should", d.args[1], resp.StatusCode)
		}
		for _, bad := range []string{"<script>alert", "<img src=x", `href="javascript:`} {
			if bytes.Contains(page, []byte(bad)) {
				t.Errorf("the page of the %s has %s in it", d.args[1], bad)
			}
		}
	}
	s.expect("the end", 202, `"type":"TEARDOWN"`)

	for name, row := range map[string]struct {
		body string
		want []int
	}{
		"TEARDOWN of nobody":        {`{"type":"TEARDOWN","teardown":{"framework_id":{"value":"nobody"}}}`, []int{400}},
		"MARK_AGENT_GONE of nobody": {`{"type":"MARK_AGENT_GONE","mark_agent_gone":{"agent_id":{"value":"nobody"}}}`, []int{404}},
		"DRAIN_AGENT of nobody":     {`{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"nobody"}}}`, []int{400}},
		"REACTIVATE of nobody":      {`{"type":"REACTIVATE_AGENT","reactivate_agent":{"agent_id":{"value":"nobody"}}}`, []int{400}},
		"RESERVE at nobody":         {`{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"nobody"},"resources":[]}}`, []int{400}},
		"a quota of NaN":            {`{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"q","limits":{"cpus":{"value":"NaN"}}}]}}`, []int{400}},
		"a negative quota":          {`{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"q","guarantees":{"cpus":{"value":-1}}}]}}`, []int{400}},
		"a quota for a bad role":    {`{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"../q","limits":{"cpus":{"value":1}}}]}}`, []int{400}},
		"more than there is":        {`{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"q","guarantees":{"cpus":{"value":1e9}},"limits":{"cpus":{"value":1e9}}}]}}`, []int{400, 409}},
		"a weight of zero":          {`{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"w","weight":0}]}}`, []int{400}},
		"a weight of NaN":           {`{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"w","weight":"NaN"}]}}`, []int{400}},
		"a machine twice":           {`{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[{"machine_ids":[{"hostname":"a"},{"hostname":"a"}],"unavailability":{"start":{"nanoseconds":1}}}]}}}`, []int{400}},
		"a negative window":         {`{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[{"machine_ids":[{"hostname":"a"}],"unavailability":{"start":{"nanoseconds":1},"duration":{"nanoseconds":-1}}}]}}}`, []int{400}},
		"a file upwards":            {`{"type":"READ_FILE","read_file":{"path":"/../../etc/passwd","offset":0}}`, []int{400, 404}},
		"a log level of 99":         {`{"type":"SET_LOGGING_LEVEL","set_logging_level":{"level":99,"duration":{"nanoseconds":1}}}`, []int{400}},
		"no submessage":             {`{"type":"DRAIN_AGENT"}`, []int{400}},
	} {
		if got, text := raw(t, c.master, head(operatorPath, asJSON, len(row.body)), []byte(row.body)); !in(got, row.want) {
			t.Errorf("%s: answer %d %.200q, want %v", name, got, text, row.want)
		}
	}
	for name, row := range map[string]struct {
		body string
		want []int
	}{
		"WAIT for nobody":             {`{"type":"WAIT_CONTAINER","wait_container":{"container_id":{"value":"nobody"}}}`, []int{404}},
		"KILL of nobody":              {`{"type":"KILL_CONTAINER","kill_container":{"container_id":{"value":"nobody"}}}`, []int{404}},
		"REMOVE of nobody":            {`{"type":"REMOVE_CONTAINER","remove_container":{"container_id":{"value":"nobody"}}}`, []int{200, 404}},
		"a container id upwards":      {`{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":{"value":"../../x"},"command":{"value":"true"}}}`, []int{400}},
		"a container of nobody":       {`{"type":"LAUNCH_CONTAINER","launch_container":{"container_id":{"value":"x","parent":{"value":"nobody"}},"command":{"value":"true"}}}`, []int{400, 404}},
		"a file upwards":              {`{"type":"READ_FILE","read_file":{"path":"/../../etc/passwd","offset":0}}`, []int{400, 404}},
		"ATTACH_OUTPUT of nobody":     {`{"type":"ATTACH_CONTAINER_OUTPUT","attach_container_output":{"container_id":{"value":"nobody"}}}`, []int{400, 404}},
		"a call without a submessage": {`{"type":"WAIT_CONTAINER"}`, []int{400}},
	} {
		if got, text := raw(t, c.agent, head(operatorPath, asJSON, len(row.body)), []byte(row.body)); !in(got, row.want) {
			t.Errorf("agent, %s: answer %d %.200q, want %v", name, got, text, row.want)
		}
	}
	for path, want := range map[string][]int{
		"/tasks?limit=99999999999999999999":            {200, 400},
		"/tasks?limit=-5&offset=-7&order=sideways":     {200, 400},
		"/slaves?slave_id=" + url.QueryEscape("../x"):  {200},
		"/metrics/snapshot?timeout=" + "-5secs":        {200, 400},
		"/logging/toggle?level=x&duration=y":           {400},
		"/quota/" + url.PathEscape("../../x"):          {400, 404, 405},
		"/files/browse?path=" + url.QueryEscape("..."): {404},
		"/files/debug?jsonp=" + url.QueryEscape("a;b"): {200, 400},
	} {
		if got, text := raw(t, c.master, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", nil); !in(got, want) {
			t.Errorf("GET %s: answer %d %.100q, want %v", path, got, text, want)
		}
	}
}
