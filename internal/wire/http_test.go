package wire_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestReadCallAnswersInMesosOrder(t *testing.T) {
	t.Parallel()
	call := &schedulerv1.Call{Type: schedulerv1.Call_SUPPRESS.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")}}
	encoded, err := wire.Protobuf.Marshal(call)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	fmt.Fprint(z, `{"type":"SUPPRESS"}`)
	z.Close()
	var bomb bytes.Buffer
	z = gzip.NewWriter(&bomb)
	fmt.Fprint(z, strings.Repeat(" ", 1<<20))
	z.Close()
	for _, tc := range []struct {
		name, method, media, encoding, body string
		status                              int
		text                                string
	}{
		{"GET, whatever else is wrong", "GET", "text/plain", "", "", 405, "Expecting one of { 'POST' }, but received 'GET'"},
		{"no Content-Type", "POST", "", "", "{", 400, "Expecting 'Content-Type' to be present"},
		{"a charset is another type", "POST", "application/json; charset=utf-8", "", "{}", 415, "application/x-protobuf"},
		{"recordio", "POST", "application/recordio", "", "", 415, "application/json"},
		{"not JSON", "POST", "application/json", "", "{", 400, "Failed to convert JSON into Call protobuf: invalid JSON at byte 1"},
		{"missing required", "POST", "application/json", "", `{"kill":{}}`, 400, "kill.task_id: missing required field"},
		{"not protobuf", "POST", "application/x-protobuf", "", "\xff\xff", 400, "Failed to parse body into Call protobuf"},
		{"too large", "POST", "application/json", "", strings.Repeat(" ", 2000), 413, "exceeds the limit of 1000 bytes"},
		{"too large once it is unpacked", "POST", "application/json", "gzip", bomb.String(), 413, "exceeds the limit of 1000 bytes"},
		{"not gzip", "POST", "application/json", "gzip", "{}", 400, "Failed to decompress the body"},
		{"unknown encoding", "POST", "application/json", "br", "{}", 415, "Content-Encoding"},
		{"empty protobuf", "POST", "application/x-protobuf", "", "", 202, ""},
		{"JSON", "POST", "application/json", "", `{"type":"SUPPRESS"}`, 202, ""},
		{"protobuf", "POST", "application/x-protobuf", "", string(encoded), 202, ""},
		{"gzip", "POST", "application/json", "gzip", zipped.String(), 202, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(tc.method, "/api/v1/scheduler", strings.NewReader(tc.body))
			if tc.media != "" {
				r.Header.Set("Content-Type", tc.media)
			}
			if tc.encoding != "" {
				r.Header.Set("Content-Encoding", tc.encoding)
			}
			w := httptest.NewRecorder()
			var got schedulerv1.Call
			ct, ok := wire.ReadCall(w, r, &got, wire.CallOptions{MaxBody: 1000})
			if ok {
				wire.Accepted(w)
				if ct.String() != tc.media {
					t.Errorf("the call is %v", ct)
				}
				if tc.body != "" && got.GetType() != schedulerv1.Call_SUPPRESS {
					t.Errorf("the call reads %v", &got)
				}
			}
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.text) {
				t.Errorf("answer %d %q, want %d %q", w.Code, w.Body, tc.status, tc.text)
			}
			if tc.status == 405 && w.Header().Get("Allow") != "POST" {
				t.Errorf("Allow is %q", w.Header().Get("Allow"))
			}
			if got := w.Header().Get("Content-Length"); got != fmt.Sprint(w.Body.Len()) {
				t.Errorf("Content-Length %q of %d bytes", got, w.Body.Len())
			}
			if media := w.Header().Get("Content-Type"); (media == "") != (w.Body.Len() == 0) {
				t.Errorf("Content-Type %q of %d bytes", media, w.Body.Len())
			}
		})
	}
}

func TestBodyThatTricklesMeetsADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var call schedulerv1.Call
			if _, ok := wire.ReadCall(w, r, &call, wire.CallOptions{BodyTimeout: 10 * time.Second}); ok {
				t.Error("half a body was a call")
			}
		}))
		conn, err := network.DialContext(t.Context(), "", "master:5050")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		answer := make([]byte, 1000)
		n, err := conn.Read(answer)
		if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 408 ") {
			t.Errorf("answer %q, %v", answer[:n], err)
		}
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("after %v", got)
		}
	})
}

// A connection that carried a call within its deadline is not cut by it later.
func TestDeadlineOfABodyEndsWithTheBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{})
		c := client(t, serve(t, m), nil)
		for range 3 {
			if err := c.Call(t.Context(), &schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // virtual time, twice the default deadline
		}
	})
}

func TestNegotiate(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"":                            "application/json",
		"*/*":                         "application/json",
		"application/*":               "application/json",
		"application/json":            "application/json",
		"application/x-protobuf":      "application/x-protobuf",
		"APPLICATION/X-PROTOBUF":      "application/x-protobuf",
		"text/html, application/json": "application/json",
		"application/x-protobuf, application/json;q=0.1": "application/json",
		"application/x-protobuf, application/json;q=0":   "application/x-protobuf",
		"*/*, application/json; q=0":                     "application/x-protobuf",
		"*/*;q=0, application/x-protobuf;q=0.5":          "application/x-protobuf",
		"application/*;q=0, */*":                         "",
		"text/html":                                      "",
		"*/*;q=0":                                        "",
		"application/jsonp":                              "",
		"application/json;q=0.0":                         "",
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		ct, ok := wire.Negotiate(r)
		if got := ct.String(); ok != (want != "") || ok && got != want {
			t.Errorf("Accept %q: %v %v, want %q", accept, got, ok, want)
		}
	}
}

func TestRedirectKeepsPathAndQueryWithoutScheme(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	wire.Redirect(w, httptest.NewRequest(http.MethodPost, "http://follower:5050/master/api/v1/scheduler?a=b", nil), "leader:5050")
	if w.Code != 307 || w.Header().Get("Location") != "//leader:5050/master/api/v1/scheduler?a=b" || w.Header().Get("Content-Length") != "0" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestRespondJSON(t *testing.T) {
	t.Parallel()
	small, large := []byte(`{"a":1}`), []byte(`{"a":"`+strings.Repeat("x", 2000)+`"}`)
	for _, tc := range []struct {
		name, target, accept string
		body                 []byte
		zipped               bool
		media, prefix        string
	}{
		{"plain", "/state", "", large, false, "application/json", `{"a":`},
		{"compressed", "/state", "deflate, gzip;q=0.5", large, true, "application/json", `{"a":`},
		{"any encoding", "/state", "*", large, true, "application/json", `{"a":`},
		{"gzip refused", "/state", "gzip;q=0, *", large, false, "application/json", `{"a":`},
		{"too small to compress", "/state", "gzip", small, false, "application/json", `{"a":1}`},
		{"jsonp", "/state?jsonp=jQuery12_3.cb", "", small, false, "text/javascript", `jQuery12_3.cb({"a":1});`},
	} {
		r := httptest.NewRequest(http.MethodGet, tc.target, nil)
		r.Header.Set("Accept-Encoding", tc.accept)
		w := httptest.NewRecorder()
		wire.RespondJSON(w, r, tc.body)
		if w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) || w.Header().Get("Content-Type") != tc.media {
			t.Errorf("%s: headers %v of %d bytes", tc.name, w.Header(), w.Body.Len())
		}
		var body io.Reader = w.Body
		if zipped := w.Header().Get("Content-Encoding") == "gzip"; zipped != tc.zipped {
			t.Errorf("%s: compressed %v", tc.name, zipped)
		} else if zipped {
			var err error
			if body, err = gzip.NewReader(w.Body); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := io.ReadAll(body); err != nil || !strings.HasPrefix(string(got), tc.prefix) {
			t.Errorf("%s: body %.40q (%v)", tc.name, got, err)
		}
	}
	w := httptest.NewRecorder()
	wire.RespondJSON(w, httptest.NewRequest(http.MethodGet, "/state?jsonp=alert(1)%2F%2F", nil), small)
	if w.Code != http.StatusBadRequest {
		t.Errorf("a script as the callback: %d", w.Code)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{
		file("json", `{"credentials":[{"principal":"marathon","secret":"s1"},{"principal":"p2","secret":""}]}`),
		file("lines", "marathon s1\n\n p2\tx \n"),
	} {
		creds, err := wire.LoadCredentials(path)
		if err != nil {
			t.Fatal(err)
		}
		h := wire.Authenticated(creds, "mesos-master-scheduler", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			wire.Error(w, http.StatusOK, wire.PrincipalOf(r.Context()).Name)
		}))
		for _, tc := range []struct {
			name, secret string
			status       int
		}{{"marathon", "s1", 200}, {"marathon", "s2", 401}, {"nobody", "s1", 401}, {"nobody", "", 401}, {"", "", 401}} {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			if tc.name != "" {
				r.SetBasicAuth(tc.name, tc.secret)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.status || tc.status == 200 && w.Body.String() != tc.name {
				t.Errorf("%s:%s: %d %s", tc.name, tc.secret, w.Code, w.Body)
			}
			if got := w.Header().Get("WWW-Authenticate"); tc.status == 401 && got != `Basic realm="mesos-master-scheduler"` {
				t.Errorf("WWW-Authenticate %q", got)
			}
		}
	}
	for name, text := range map[string]string{
		"three words": "a b c", "one word": "a", "twice": "a b\na c", "not JSON": `{"credentials":`, "no principal": `{"credentials":[{"secret":"x"}]}`,
	} {
		if _, err := wire.LoadCredentials(file("bad", text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := wire.LoadCredentials(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	p, err := wire.Permissive{}.Authenticate(httptest.NewRequest(http.MethodGet, "/", nil))
	if err != nil || p.Name != "" {
		t.Errorf("permissive: %v %v", p, err)
	}
}

func TestRecordIO(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("x"), 3<<20)
	var stream []byte
	bodies := [][]byte{[]byte("a"), {}, []byte("hello\n5\n"), big, []byte("after")}
	for _, b := range bodies {
		stream = wire.AppendRecord(stream, b)
	}
	r := wire.NewRecordReader(bytes.NewReader(stream), 4<<20)
	for i, want := range bodies {
		if got, err := r.Next(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("record %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for text, want := range map[string]error{
		"5": io.ErrUnexpectedEOF, "5\nab": io.ErrUnexpectedEOF, "\n": wire.ErrRecord, "x\n": wire.ErrRecord, "-1\n": wire.ErrRecord,
		" 1\na": wire.ErrRecord, "1 \na": wire.ErrRecord, "101\n": wire.ErrRecord, "99999999999999999999999\n": wire.ErrRecord,
		"000000000000000000000": wire.ErrRecord, "1\r\na": wire.ErrRecord,
	} {
		if _, err := wire.NewRecordReader(strings.NewReader(text), 100).Next(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

func FuzzRecordIO(f *testing.F) {
	f.Add([]byte("1\na3\nabc"), uint8(3))
	f.Add([]byte("20\n"), uint8(255))
	f.Fuzz(func(t *testing.T, data []byte, limit uint8) {
		r := wire.NewRecordReader(bytes.NewReader(data), int(limit)+1)
		var back []byte
		for {
			record, err := r.Next()
			if err != nil {
				break
			}
			if len(record) > int(limit)+1 {
				t.Fatalf("record of %d bytes above the limit", len(record))
			}
			back = wire.AppendRecord(back, record)
		}
		if len(back) > len(data) {
			t.Fatalf("%q became %q", data, back)
		}
	})
}

// Decoders generated without limits on recursion would exhaust the stack, which Go cannot survive.
func TestProtobufThatIsTooDeepOrTooManyIsRefused(t *testing.T) {
	t.Parallel()
	id := &mesosv1.ContainerID{Value: proto.String("c")}
	for range 90 {
		id = &mesosv1.ContainerID{Value: proto.String("c"), Parent: id}
	}
	call := &agentv1.Call{Type: agentv1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &agentv1.Call_WaitContainer{ContainerId: id}}
	data, err := wire.Protobuf.Marshal(call)
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.Protobuf.Unmarshal(data, new(agentv1.Call)); err != nil {
		t.Errorf("90 levels: %v", err)
	}
	for range 20 {
		id = &mesosv1.ContainerID{Value: proto.String("c"), Parent: id}
	}
	call.WaitContainer.ContainerId = id
	if data, err = wire.Protobuf.Marshal(call); err != nil {
		t.Fatal(err)
	}
	if err := wire.Protobuf.Unmarshal(data, new(agentv1.Call)); err == nil || !strings.Contains(err.Error(), "nested deeper") {
		t.Errorf("110 levels: %v", err)
	}
	decline := bytes.Repeat([]byte{0x0a, 0x00}, 1_500_000) // offer_ids: []
	data = append([]byte{0x22}, byte(0))                   // decline: tag 4
	data = append(data[:1], varint(len(decline))...)
	data = append(data, decline...)
	if err := wire.Protobuf.Unmarshal(data, new(schedulerv1.Call)); err == nil || !strings.Contains(err.Error(), "too many messages") {
		t.Errorf("a million empty messages: %v", err)
	}
}

func varint(n int) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func FuzzUnmarshalProtobuf(f *testing.F) {
	data, err := wire.Protobuf.Marshal(subscribeCall())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var call schedulerv1.Call
		if wire.Protobuf.Unmarshal(data, &call) != nil {
			return
		}
		again, err := wire.Protobuf.Marshal(&call)
		if err != nil {
			t.Fatalf("decoded from %x but cannot be encoded: %v", data, err)
		}
		if err := wire.Protobuf.Unmarshal(again, new(schedulerv1.Call)); err != nil {
			t.Fatalf("encoded from %x but cannot be decoded: %v", data, err)
		}
	})
}

func TestChunks(t *testing.T) {
	t.Parallel()
	size := func(n int) int { return n }
	for _, tc := range []struct {
		items []int
		want  string
	}{
		{nil, "[]"}, {[]int{5}, "[[5]]"}, {[]int{50}, "[[50]]"}, {[]int{4, 6, 1, 20, 2, 3}, "[[4 6] [1] [20] [2 3]]"}, {[]int{10, 10}, "[[10] [10]]"},
	} {
		if got := fmt.Sprint(slices.Collect(wire.Chunks(tc.items, 10, size))); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.items, got, tc.want)
		}
	}
}

// An event is encoded once per content type, however many streams write it.
func TestEventIsEncodedOnce(t *testing.T) {
	t.Parallel()
	encoded := 0
	e := wire.NewRawEvent(3, func(dst []byte, ct wire.ContentType) ([]byte, error) {
		encoded++
		return append(dst, ct.String()...), nil
	})
	var first []byte
	for range 3 {
		record, err := e.Record(wire.JSON)
		if err != nil || string(record) != "16\napplication/json" {
			t.Fatalf("%q %v", record, err)
		}
		if first != nil && &first[0] != &record[0] {
			t.Error("the bytes are not shared")
		}
		first = record
	}
	if record, err := e.Record(wire.Protobuf); err != nil || string(record) != "22\napplication/x-protobuf" || encoded != 2 {
		t.Errorf("%q %v, encoded %d times", record, err, encoded)
	}
}

// Without a connection to take over (HTTP/1.0, HTTP/2, a recorder) a stream goes through the ResponseWriter.
func TestStreamThroughAResponseWriter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		s, err := wire.NewStream(w, httptest.NewRequest(http.MethodPost, "/", nil).WithContext(t.Context()), wire.StreamConfig{ContentType: wire.JSON, ID: "i"})
		if err != nil {
			t.Fatal(err)
		}
		s.Send(heartbeat())
		s.Send(heartbeat())
		s.Close(nil)
		if err := s.Serve(t.Context()); !errors.Is(err, wire.ErrStreamClosed) {
			t.Errorf("ended with %v", err)
		}
		if got := w.Body.String(); got != "20\n{\"type\":\"HEARTBEAT\"}20\n{\"type\":\"HEARTBEAT\"}" || !w.Flushed {
			t.Errorf("body %q", got)
		}
		m := newFakeMaster(wire.StreamConfig{})
		conn, err := serve(t, m).DialContext(t.Context(), "", "master:5050")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST / HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"+`{"type":"SUBSCRIBE"}`)
		go func() {
			s := <-m.streams
			s.Send(heartbeat())
			s.Close(nil)
		}()
		raw, err := io.ReadAll(conn)
		if _, body, _ := strings.Cut(string(raw), "\r\n\r\n"); err != nil || body != "20\n{\"type\":\"HEARTBEAT\"}" {
			t.Errorf("HTTP/1.0 client read %q, %v", raw, err)
		}
	})
}

func TestUnixTransport(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "wire") // t.TempDir may be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" {
			wire.Error(w, http.StatusForbidden, "no token")
			return
		}
		wire.Accepted(w)
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	c, err := wire.NewClient(wire.ClientConfig{Masters: []string{"10.0.0.1:5051"}, Path: "/api/v1/executor", Transport: wire.UnixTransport(path), Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(t.Context(), &schedulerv1.Call{}); err != nil {
		t.Error(err)
	}
}

// The limits that guard a server must not keep a client from reading the state of a large cluster.
func TestStateOfALargeClusterCanBeRead(t *testing.T) {
	t.Parallel()
	const n = 100_000
	tasks := make([]*mesosv1.Task, n)
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{
			Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v},
			AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("r")},
		}
	}
	task := &mesosv1.Task{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
		AgentId: &mesosv1.AgentID{Value: proto.String("s")}, State: mesosv1.TaskState_TASK_RUNNING.Enum(),
		Resources: []*mesosv1.Resource{scalar("cpus", 1), scalar("mem", 1), scalar("disk", 1)},
		Statuses:  []*mesosv1.TaskStatus{{TaskId: &mesosv1.TaskID{Value: proto.String("t")}, State: mesosv1.TaskState_TASK_RUNNING.Enum()}},
	}
	for i := range tasks {
		tasks[i] = task
	}
	state := &masterv1.Response_GetTasks{Tasks: tasks}
	for _, ct := range []wire.ContentType{wire.JSON, wire.Protobuf} {
		body, err := ct.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		var back masterv1.Response_GetTasks
		if err := ct.Unmarshal(body, &back); err != nil || len(back.GetTasks()) != n {
			t.Errorf("%v: %d bytes, %d tasks, %v", ct, len(body), len(back.GetTasks()), err)
		}
	}
}

// FuzzCredentials reads files of principals and secrets.
func FuzzCredentials(f *testing.F) {
	f.Add([]byte(`{"credentials":[{"principal":"a","secret":"b"}]}`))
	f.Add([]byte("a b\n# c\n\nd  e\n"))
	f.Add([]byte("{"))
	path := filepath.Join(f.TempDir(), "credentials")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := wire.LoadCredentials(path); (c == nil) == (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
	})
}
