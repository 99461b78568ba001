package api

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/wire"
)

const (
	isJSON    = "Content-Type: application/json"
	fwID      = `"framework_id":{"value":"m-0000"}`
	subscribe = `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n"}}}`
)

// TestSchedulerStatuses is the table of facts 1.1, in its order.
func TestSchedulerStatuses(t *testing.T) {
	t.Parallel()
	uuid16 := base64.StdEncoding.EncodeToString(make([]byte, 16))
	session := func(s *testServer) {
		s.Apply(&core.Session{Framework: "m-0000", Stream: "S", Principal: "ops"})
	}
	dropped := func(s *testServer) { s.Apply(&core.Session{Framework: "m-0000", Principal: "ops"}) }
	const stream = "Mesos-Stream-Id: S"
	for name, c := range map[string]struct {
		method, body string
		headers      []string
		before       func(*testServer)
		code         int
		text         string
	}{
		"not post":            {method: "GET", code: 405},
		"no content type":     {body: subscribe, code: 400, text: "Expecting 'Content-Type' to be present"},
		"other content type":  {body: subscribe, headers: []string{"Content-Type: text/plain"}, code: 415},
		"charset":             {body: subscribe, headers: []string{"Content-Type: application/json; charset=utf-8"}, code: 415},
		"no JSON":             {body: "{", headers: []string{isJSON}, code: 400, text: "Failed to convert JSON into Call protobuf"},
		"no protobuf":         {body: "\xff\xff", headers: []string{"Content-Type: application/x-protobuf"}, code: 400},
		"missing required":    {body: `{"type":"KILL",` + fwID + `,"kill":{}}`, headers: []string{isJSON}, code: 400},
		"no type":             {body: `{}`, headers: []string{isJSON}, code: 400, text: "Failed to validate scheduler::Call: Expecting 'type' to be present"},
		"unknown":             {body: `{"type":"UNKNOWN",` + fwID + `}`, headers: []string{isJSON}, code: 501},
		"no message":          {body: `{"type":"KILL",` + fwID + `}`, headers: []string{isJSON}, code: 400, text: "Failed to validate scheduler::Call: Expecting 'kill' to be present"},
		"no framework":        {body: `{"type":"REVIVE"}`, headers: []string{isJSON}, code: 400, text: "Failed to validate scheduler::Call: Expecting 'framework_id' to be present"},
		"short uuid":          {body: `{"type":"ACKNOWLEDGE",` + fwID + `,"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"AAAA"}}`, headers: []string{isJSON}, code: 400, text: "Failed to validate"},
		"ids differ":          {body: `{"type":"SUBSCRIBE",` + fwID + `,"subscribe":{"framework_info":{"user":"u","name":"n"}}}`, headers: []string{isJSON}, code: 400, text: "Failed to validate"},
		"id with a slash":     {body: `{"type":"SUBSCRIBE","framework_id":{"value":"a/b"},"subscribe":{"framework_info":{"user":"u","name":"n","id":{"value":"a/b"}}}}`, headers: []string{isJSON}, code: 400, text: "Failed to validate"},
		"not acceptable":      {body: subscribe, headers: []string{isJSON, "Accept: text/html"}, code: 406},
		"stream in subscribe": {body: subscribe, headers: []string{isJSON, stream}, code: 400},
		"unknown framework":   {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, stream}, code: 400, text: "Framework cannot be found"},
		"not subscribed":      {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, stream}, before: dropped, code: 403, text: "Framework is not subscribed"},
		"no stream":           {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON}, before: session, code: 400, text: "All non-subscribe calls should include the 'Mesos-Stream-Id' header"},
		"other stream":        {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, "Mesos-Stream-Id: T"}, before: session, code: 400, text: "The stream ID 'T'"},
		"other principal":     {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, stream, "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("eve:x"))}, before: session, code: 400, text: "Authenticated principal 'eve'"},
		"accepted":            {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, stream}, before: session, code: 202},
		"accept ignored":      {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, stream, "Accept: text/html"}, before: session, code: 202},
		"reconcile ops":       {body: `{"type":"RECONCILE_OPERATIONS",` + fwID + `,"reconcile_operations":{}}`, headers: []string{isJSON, stream, "Accept: text/html"}, before: session, code: 406},
		"acknowledge":         {body: `{"type":"ACKNOWLEDGE",` + fwID + `,"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"` + uuid16 + `"}}`, headers: []string{isJSON, stream}, before: session, code: 202},
		"too large":           {body: `{"type":"REVIVE",` + strings.Repeat(" ", 5000) + fwID + `}`, headers: []string{isJSON}, code: 413},
		"overloaded":          {body: `{"type":"REVIVE",` + fwID + `}`, headers: []string{isJSON, stream}, before: func(s *testServer) { session(s); s.owner.full = true }, code: 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTestServer(t, func(o *Options) { o.MaxBody = 4096 })
			if c.before != nil {
				c.before(s)
			}
			if c.method == "" {
				c.method = "POST"
			}
			for _, path := range []string{"/api/v1/scheduler", "/master/api/v1/scheduler"} {
				rec := s.do(c.method, path, c.body, c.headers...)
				if rec.Code != c.code || !strings.HasPrefix(rec.Body.String(), c.text) {
					t.Errorf("%s: %d %q, want %d %q", path, rec.Code, rec.Body, c.code, c.text)
				}
				if c.code == 202 && (rec.Body.Len() != 0 || rec.Header().Get("Content-Type") != "") {
					t.Errorf("%s: an accepted call has a body or type: %v %q", path, rec.Header(), rec.Body)
				}
			}
			if posted := len(s.owner.events()); (posted > 0) != (c.code == 202) {
				t.Errorf("%d events were posted", posted)
			}
		})
	}
}

// TestAuthentication: each realm asks for its own credentials, before anything else is looked at.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	creds := wire.NewCredentials(map[string]string{"ops": "secret"})
	s := newTestServer(t, func(o *Options) { o.Auth = Authenticators{Readonly: creds, Readwrite: creds, Frameworks: creds} })
	ok := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("ops:secret"))
	wrong := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("ops:guess"))
	for path, realm := range map[string]string{
		"/state": "mesos-master-readonly", "/api/v1": "mesos-master-readwrite", "/api/v1/scheduler": "mesos-master-scheduler",
		"/metrics": "mesos-master-readonly", "/files/debug": "mesos-master-readonly", "/logging/toggle": "mesos-master-readwrite", "/": "mesos-master-readonly",
	} {
		method := "GET"
		if strings.HasPrefix(path, "/api") {
			method = "POST"
		}
		for _, header := range []string{"X-Nothing: x", wrong} {
			rec := s.do(method, path, "", header)
			if rec.Code != 401 || rec.Header().Get("WWW-Authenticate") != `Basic realm="`+realm+`"` {
				t.Errorf("%s with %s: %d %v", path, header, rec.Code, rec.Header())
			}
		}
		if rec := s.do(method, path, "", ok); rec.Code == 401 {
			t.Errorf("%s refuses the right credentials", path)
		}
	}
	for _, path := range []string{"/health", "/version", "/redirect"} {
		if rec := s.do("GET", path, ""); rec.Code == 401 {
			t.Errorf("%s asks for credentials", path)
		}
	}
	if rec := s.do("PUT", "/weights", "[]"); rec.Header().Get("WWW-Authenticate") != `Basic realm="mesos-master-readwrite"` {
		t.Errorf("changing weights: %v", rec.Header())
	}
}

// listen serves over a real connection, which streams need.
func listen(t *testing.T, s *testServer) string {
	t.Helper()
	server := httptest.NewServer(s.http)
	t.Cleanup(func() {
		s.Reset()
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// stream opens an event stream and returns its headers and a function that reads the next record.
func stream(t *testing.T, url, body string, headers ...string) (*http.Response, func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append([]string{isJSON}, headers...) {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	br := bufio.NewReader(resp.Body)
	return resp, func() string {
		t.Helper()
		line, err := br.ReadString('\n')
		if err != nil {
			return "end: " + err.Error()
		}
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		record := make([]byte, n)
		if _, err := io.ReadFull(br, record); err != nil {
			t.Fatal(err)
		}
		return string(record)
	}
}

// wait polls until the condition holds.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s in vain", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestSchedulerStream(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.owner.onPost = func(ev core.Event) {
		if sub, ok := ev.(*core.SchedulerSubscribe); ok {
			s.Apply(&core.Session{Framework: "m-0000", Stream: sub.Stream})
			s.Apply(&core.SendEvent{Stream: sub.Stream, Event: &schedulerv1.Event{
				Type:       schedulerv1.Event_SUBSCRIBED.Enum(),
				Subscribed: &schedulerv1.Event_Subscribed{FrameworkId: &mesosv1.FrameworkID{Value: proto.String("m-0000")}, HeartbeatIntervalSeconds: proto.Float64(15)},
			}})
		}
	}
	url := listen(t, s)
	resp, next := stream(t, url+"/api/v1/scheduler", subscribe, "Accept: application/json")
	id := resp.Header.Get("Mesos-Stream-Id")
	if resp.StatusCode != 200 || id == "" || resp.Header.Get("Content-Type") != "application/json" || len(resp.TransferEncoding) != 1 {
		t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, resp.TransferEncoding)
	}
	if got, want := next(), `{"type":"SUBSCRIBED","subscribed":{"framework_id":{"value":"m-0000"},"heartbeat_interval_seconds":15.0}}`; got != want {
		t.Errorf("first event is %s, want %s", got, want)
	}
	if got := next(); got != `{"type":"HEARTBEAT"}` {
		t.Errorf("second event is %s", got)
	}
	if rec := s.do("POST", "/api/v1/scheduler", `{"type":"REVIVE",`+fwID+`}`, isJSON, "Mesos-Stream-Id: "+id); rec.Code != 202 {
		t.Errorf("call on the stream: %d %s", rec.Code, rec.Body)
	}
	s.Apply(&core.SendEvent{Stream: core.StreamID(id), Event: schedulerError("Framework failed over")})
	s.Apply(&core.CloseStream{Stream: core.StreamID(id)})
	if got := next(); got != `{"type":"ERROR","error":{"message":"Framework failed over"}}` {
		t.Errorf("last event is %s", got)
	}
	if got := next(); got != "end: EOF" {
		t.Errorf("after the end: %s", got)
	}
	wait(t, "the owner to hear of the end", func() bool {
		events := s.owner.events()
		d, ok := events[len(events)-1].(*core.SchedulerDisconnected)
		return ok && string(d.Stream) == id
	})
}

func TestTooManySchedulers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(o *Options) { o.MaxSchedulers = 1 })
	url := listen(t, s)
	stream(t, url+"/api/v1/scheduler", subscribe)
	if rec := s.do("POST", "/api/v1/scheduler", subscribe, isJSON); rec.Code != 503 || !strings.Contains(rec.Body.String(), "max_scheduler_streams") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// TestResetEndsStreams: who loses leadership keeps no stream, and forgets the sessions.
func TestResetEndsStreams(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	url := listen(t, s)
	resp, next := stream(t, url+"/api/v1/scheduler", subscribe)
	id := core.StreamID(resp.Header.Get("Mesos-Stream-Id"))
	// The answer's head is on its way before the stream is entered; one that is entered later finds no owner.
	for end := time.Now().Add(2 * time.Minute); s.schedulerStream(id) == nil && time.Now().Before(end); {
		runtime.Gosched()
	}
	s.Apply(&core.Session{Framework: "m-0000", Stream: id})
	s.Reset()
	if got := next(); got != "end: EOF" {
		t.Errorf("the stream goes on: %s", got)
	}
	if rec := s.do("POST", "/api/v1/scheduler", `{"type":"REVIVE",`+fwID+`}`, isJSON, "Mesos-Stream-Id: x"); rec.Code != 400 {
		t.Errorf("the session is still known: %d", rec.Code)
	}
}

func TestOffersAreSplit(t *testing.T) {
	t.Parallel()
	offers := make([]*mesosv1.Offer, 3000)
	for i := range offers {
		offers[i] = &mesosv1.Offer{
			Id: &mesosv1.OfferID{Value: proto.String("o" + strconv.Itoa(i))}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
			AgentId: &mesosv1.AgentID{Value: proto.String("a")}, Hostname: proto.String(strings.Repeat("h", 1000)),
		}
	}
	parts := splitEvent(&schedulerv1.Event{Type: schedulerv1.Event_OFFERS.Enum(), Offers: &schedulerv1.Event_Offers{Offers: offers}})
	n := 0
	for _, p := range parts {
		if size := len(jsonOf(t, p)); size > 4<<20 {
			t.Errorf("an event of %d bytes", size)
		}
		for _, o := range p.GetOffers().GetOffers() {
			if o != offers[n] {
				t.Fatal("offers are missing or out of order")
			}
			n++
		}
	}
	if n != len(offers) || len(parts) < 2 {
		t.Errorf("%d offers in %d events", n, len(parts))
	}
}

func TestOperatorStream(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.owner.onPost = func(ev core.Event) {
		if sub, ok := ev.(*core.OperatorSubscribe); ok {
			s.Apply(&core.SendOperator{Event: &masterv1.Event{Type: masterv1.Event_AGENT_REMOVED.Enum(), AgentRemoved: &masterv1.Event_AgentRemoved{AgentId: &mesosv1.AgentID{Value: proto.String("early")}}}})
			s.Apply(&core.StartOperator{Stream: sub.Stream, Snapshot: testSnapshot()})
			s.Apply(&core.SendOperator{Event: &masterv1.Event{Type: masterv1.Event_AGENT_REMOVED.Enum(), AgentRemoved: &masterv1.Event_AgentRemoved{AgentId: &mesosv1.AgentID{Value: proto.String("late")}}}})
		}
	}
	url := listen(t, s)
	_, next := stream(t, url+"/api/v1", `{"type":"SUBSCRIBE"}`)
	first := next()
	if !strings.HasPrefix(first, `{"type":"SUBSCRIBED","subscribed":{"get_state":{"get_tasks":{`) || !strings.Contains(first, `"heartbeat_interval_seconds":15.0`) {
		t.Errorf("first event is %.300s", first)
	}
	if got, want := next(), `{"type":"AGENT_REMOVED","agent_removed":{"agent_id":{"value":"late"}}}`; got != want {
		t.Errorf("second event is %s, want %s", got, want)
	}
	// A third subscriber pushes the first out: two are allowed here.
	stream(t, url+"/api/v1", `{"type":"SUBSCRIBE"}`)
	stream(t, url+"/api/v1", `{"type":"SUBSCRIBE"}`)
	for {
		if got := next(); strings.HasPrefix(got, "end: ") {
			break
		}
	}
}

// TestOperatorQueries makes every call that reads, in both encodings.
func TestOperatorQueries(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(o *Options) { o.Files.Attach(t.TempDir(), "/master/log", nil) })
	for call := range queries {
		body := `{"type":"` + call.String() + `","get_metrics":{},"list_files":{"path":"/master/log"},"read_file":{"path":"/none","offset":0}}`
		want := 200
		if call == masterv1.Call_READ_FILE {
			want = 404
		}
		rec := s.do("POST", "/api/v1/", body, isJSON, "Accept: application/json")
		if rec.Code != want {
			t.Errorf("%s: %d %s", call, rec.Code, rec.Body)
			continue
		}
		if want == 200 && !strings.HasPrefix(rec.Body.String(), `{"type":"`+call.String()+`"`) {
			t.Errorf("%s answers %.100s", call, rec.Body)
		}
		rec = s.do("POST", "/api/v1", body, isJSON, "Accept: application/x-protobuf")
		if want == 200 {
			if err := proto.Unmarshal(rec.Body.Bytes(), &masterv1.Response{}); err != nil || rec.Header().Get("Content-Type") != "application/x-protobuf" {
				t.Errorf("%s in protobuf: %v, %v", call, err, rec.Header())
			}
		}
		if rec := s.do("POST", "/api/v1", body, isJSON, "Accept: text/html"); rec.Code != 406 {
			t.Errorf("%s: %d for a type that nobody has", call, rec.Code)
		}
	}
	golden(t, "get-state", s.do("POST", "/api/v1", `{"type":"GET_STATE"}`, isJSON).Body.String())
	golden(t, "get-roles", s.do("POST", "/api/v1", `{"type":"GET_ROLES"}`, isJSON).Body.String())
}

// TestOperatorCalls: every call of the schema is either a query, the subscription, the log level, or becomes an event; and demands its
// message.
func TestOperatorCalls(t *testing.T) {
	t.Parallel()
	for number, name := range masterv1.Call_Type_name {
		call := masterv1.Call_Type(number)
		s := newTestServer(t, nil)
		s.owner.onPost = func(ev core.Event) {
			if c, ok := ev.(*core.OperatorCall); ok {
				s.Apply(&core.Reply{Token: c.Token, Status: 200})
			}
		}
		if call == masterv1.Call_SUBSCRIBE || isQuery(call) {
			continue
		}
		rec := s.do("POST", "/api/v1", `{"type":"`+name+`"}`, isJSON)
		if call == masterv1.Call_UNKNOWN {
			if rec.Code != 501 {
				t.Errorf("%s: %d", name, rec.Code)
			}
			continue
		}
		if rec.Code != 400 || !strings.HasPrefix(rec.Body.String(), "Failed to validate master::Call: Expecting '"+strings.ToLower(name)+"' to be present") {
			t.Errorf("%s without its message: %d %s", name, rec.Code, rec.Body)
		}
	}
	s := newTestServer(t, nil)
	s.owner.onPost = func(ev core.Event) { s.Apply(&core.Reply{Token: ev.(*core.OperatorCall).Token, Status: 202}) }
	rec := s.do("POST", "/api/v1", `{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"a"},"max_grace_period":{"seconds":5,"nanos":0}}}`, isJSON)
	if rec.Code != 202 || rec.Body.Len() != 0 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// FuzzPaths: no path or query makes the edge fail.
func FuzzPaths(f *testing.F) {
	f.Add("/state", "jsonp=x")
	f.Add("/quota/a//b", "")
	f.Add("/files/read", "path=/x&offset=99999999999999999999")
	f.Add("/tasks", "limit=-9223372036854775808&offset=9223372036854775807")
	s := newTestServer(f, nil)
	f.Fuzz(func(t *testing.T, path, query string) {
		req := httptest.NewRequest("GET", "/", nil)
		req.URL.Path, req.URL.RawQuery = path, query
		rec := httptest.NewRecorder()
		s.http.ServeHTTP(rec, req)
		if rec.Code >= 500 {
			t.Errorf("%q?%q: %d %s", path, query, rec.Code, rec.Body)
		}
	})
}
