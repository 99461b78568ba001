package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

// serveFront is serve with a Front before the http.Server. served says who served a request: the Front's requests don't know
// an http.Server.
func serveFront(t *testing.T, h http.Handler) *memnet.Network {
	t.Helper()
	network := new(memnet.Network)
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}
	front := wire.NewFront(network.Listen("master:5050"), wire.FrontConfig{Handler: h, Paths: []string{"/api/v1/scheduler"}, Context: ctx, IdleTimeout: time.Hour})
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(front) }()
	t.Cleanup(func() {
		cancel()
		srv.Close()
		<-served
		front.Wait()
	})
	return network
}

func servedBy(r *http.Request) string {
	if r.Context().Value(http.ServerContextKey) != nil {
		return "net/http"
	}
	return "front"
}

// echo says what it was asked and by whom it was served.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		wire.Error(w, http.StatusBadRequest, err.Error())
		return
	}
	wire.Error(w, http.StatusOK, fmt.Sprintf("%s %s %s host=%s id=%s auth=%s %d:%s", servedBy(r), r.Method, r.URL, r.Host,
		r.Header.Get("Mesos-Stream-Id"), r.Header.Get("Authorization"), r.ContentLength, body))
})

// talk sends raw bytes in pieces of so many, and returns the answers that come until the connection ends or n are there.
func talk(t *testing.T, network *memnet.Network, raw string, piece, n int) []string {
	t.Helper()
	conn, err := network.DialContext(t.Context(), "", "master:5050")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for len(raw) > 0 {
			k := min(piece, len(raw))
			if _, err := io.WriteString(conn, raw[:k]); err != nil {
				return
			}
			raw = raw[k:]
		}
	}()
	var answers []string
	r := bufio.NewReader(conn)
	for range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			answers = append(answers, "end")
			break
		}
		body, _ := io.ReadAll(resp.Body)
		answers = append(answers, fmt.Sprintf("%d %s", resp.StatusCode, body))
	}
	conn.Close()
	<-sent
	return answers
}

func post(path, headers, body string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: m\r\n" + headers + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

func TestFrontServesCallsAndHandsTheRestOver(t *testing.T) {
	t.Parallel()
	const api = "/api/v1/scheduler"
	for _, tc := range []struct {
		name, raw string
		want      []string
	}{
		{"one call", post(api, "Mesos-Stream-Id: s\r\nAuthorization: Basic eDp5\r\n", "hello"), []string{"200 front POST /api/v1/scheduler host=m id=s auth=Basic eDp5 5:hello"}},
		{"an empty body", post(api, "", ""), []string{"200 front POST /api/v1/scheduler host=m id= auth= 0:"}},
		{
			"pipelined, the head repeated and changed", post(api, "Mesos-Stream-Id: s\r\n", "a") + post(api, "Mesos-Stream-Id: s\r\n", "bbbbbbbbbbbb") + post(api, "Mesos-Stream-Id: t\r\n", "c") + post(api, "Mesos-Stream-Id: tt\r\n", ""),
			[]string{
				"200 front POST /api/v1/scheduler host=m id=s auth= 1:a", "200 front POST /api/v1/scheduler host=m id=s auth= 12:bbbbbbbbbbbb",
				"200 front POST /api/v1/scheduler host=m id=t auth= 1:c", "200 front POST /api/v1/scheduler host=m id=tt auth= 0:",
			},
		},
		{
			"another path, and then calls again", post(api, "", "a") + "GET /state HTTP/1.1\r\nHost: m\r\n\r\n" + post(api, "", "b"),
			[]string{"200 front POST /api/v1/scheduler host=m id= auth= 1:a", "200 net/http GET /state host=m id= auth= 0:", "200 net/http POST /api/v1/scheduler host=m id= auth= 1:b"},
		},
		{"a query", post(api+"?x=1", "", "a"), []string{"200 net/http POST /api/v1/scheduler?x=1 host=m id= auth= 1:a"}},
		{"a chunked body", "POST " + api + " HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", []string{"200 net/http POST /api/v1/scheduler host=m id= auth= -1:a"}},
		{"expecting 100", "POST " + api + " HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", []string{"100 ", "200 net/http POST /api/v1/scheduler host=m id= auth= 1:a"}},
		{"HTTP/1.0", "POST " + api + " HTTP/1.0\r\nContent-Length: 1\r\n\r\na", []string{"200 net/http POST /api/v1/scheduler host= id= auth= 1:a", "end"}},
		{"closing", post(api, "Connection: close\r\n", "a"), []string{"200 net/http POST /api/v1/scheduler host=m id= auth= 1:a", "end"}},
		{"keep-alive", post(api, "Connection: Keep-Alive\r\n", "a"), []string{"200 front POST /api/v1/scheduler host=m id= auth= 1:a"}},
		{"two lengths", "POST " + api + " HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", []string{"400 400 Bad Request", "end"}},
		{"a length that is none", "POST " + api + " HTTP/1.1\r\nHost: m\r\nContent-Length: +1\r\n\r\na", []string{"400 400 Bad Request", "end"}},
		{"length and chunks", "POST " + api + " HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []string{"200 net/http POST /api/v1/scheduler host=m id= auth= -1:"}},
		{"no host", "POST " + api + " HTTP/1.1\r\nContent-Length: 0\r\n\r\n", []string{"400 400 Bad Request: missing required Host header", "end"}},
		{"a header over two lines", "POST " + api + " HTTP/1.1\r\nHost: m\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", []string{"200 net/http POST /api/v1/scheduler host=m id= auth= 0:"}},
		{"a bad header name", "POST " + api + " HTTP/1.1\r\nHost: m\r\nX y: a\r\nContent-Length: 0\r\n\r\n", []string{"400 400 Bad Request: invalid header name", "end"}},
		{"not HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", []string{"400 400 Bad Request", "end"}},
		{"a large body", post(api, "", strings.Repeat("x", 300_000)), []string{"200 front POST /api/v1/scheduler host=m id= auth= 300000:" + strings.Repeat("x", 300_000)}},
		{"a larger body", post(api, "", strings.Repeat("x", 2_000_000)), []string{"200 net/http POST /api/v1/scheduler host=m id= auth= 2000000:" + strings.Repeat("x", 2_000_000)}},
		{"a long head", post(api, "X: "+strings.Repeat("x", 20_000)+"\r\n", "a"), []string{"200 net/http POST /api/v1/scheduler host=m id= auth= 1:a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			network := serveFront(t, echo)
			pieces := []int{1 << 30, 7, 1}
			if len(tc.raw) > 10_000 {
				pieces = []int{1 << 30, 4096, 997}
			}
			for _, piece := range pieces {
				got := talk(t, network, tc.raw, piece, len(tc.want))
				if fmt.Sprint(got) != fmt.Sprint(tc.want) {
					t.Errorf("in pieces of %d: %.300q, want %.300q", piece, got, tc.want)
				}
			}
		})
	}
}

// The client and the streams work the same through a Front.
func TestFrontUnderClientAndStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{ID: "s", Heartbeat: heartbeat(), Interval: 15 * time.Second})
		c := client(t, serveFront(t, m), nil)
		events, err := c.Open(t.Context(), subscribeCall())
		if err != nil {
			t.Fatal(err)
		}
		defer events.Close()
		s := <-m.streams
		s.Send(subscribed(15))
		var ev schedulerv1.Event
		for i := range 100 {
			if err := events.Next(&ev); err != nil {
				t.Fatal(err)
			}
			call := &schedulerv1.Call{Type: schedulerv1.Call_KILL.Enum(), Kill: &schedulerv1.Call_Kill{TaskId: &mesosv1.TaskID{Value: proto.String(fmt.Sprint(i))}}}
			if err := c.Call(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			if got := <-m.calls; got.GetKill().GetTaskId().GetValue() != fmt.Sprint(i) {
				t.Errorf("call %d reads %v", i, got)
			}
		}
		s.Close(nil)
		if err := events.Next(&ev); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestFrontOutlivesHandlersThatPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := serveFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); string(body) == "boom" {
				panic("boom")
			}
			wire.Accepted(w)
		}))
		raw := post("/api/v1/scheduler", "", "a") + post("/api/v1/scheduler", "", "boom")
		if got := fmt.Sprint(talk(t, network, raw, 1<<30, 3)); got != "[202  end]" {
			t.Errorf("answers %s", got)
		}
		if got := fmt.Sprint(talk(t, network, post("/api/v1/scheduler", "", "a"), 1<<30, 1)); got != "[202 ]" {
			t.Errorf("afterwards %s", got)
		}
	})
}

func TestFrontCutsBodiesThatTrickleAndIdleConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := serveFront(t, echo)
		for sent, want := range map[string]time.Duration{
			"": time.Hour, "POST /api/v1": wire.DefaultBodyTimeout, "POST /api/v1/scheduler HTTP/1.1\r\nHost: m\r\nContent-Length: 10\r\n\r\nab": wire.DefaultBodyTimeout,
		} {
			conn, err := network.DialContext(t.Context(), "", "master:5050")
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			fmt.Fprint(conn, sent)
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Error(err)
			}
			if got := time.Since(start); got != want {
				t.Errorf("after %q the connection lived for %v, want %v", sent, got, want)
			}
			conn.Close()
		}
	})
}

// FuzzFront compares what a Front makes of a connection's bytes with what net/http makes of them.
func FuzzFront(f *testing.F) {
	f.Add([]byte(post("/api/v1/scheduler", "A: b\r\n", "body") + post("/api/v1/scheduler", "A: b\r\n", "other")))
	f.Add([]byte("POST /api/v1/scheduler HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.1\r\nHost: m\r\n\r\n"))
	f.Add([]byte("POST /api/v1/scheduler HTTP/1.1\r\nContent-Length: 1\r\nHost: m\r\nContent-Length: 1\r\n\r\na"))
	handler := func(log *bytes.Buffer) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				fmt.Fprintf(log, "%s %s %s %v %q\n", r.Method, r.URL, r.Host, r.Header["A"], body)
			}
			wire.Accepted(w)
		})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		var plain, fronted bytes.Buffer
		for _, front := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var network *memnet.Network
				if front {
					network = serveFront(t, handler(&fronted))
				} else {
					network = serve(t, handler(&plain))
				}
				conn, err := network.DialContext(t.Context(), "", "master:5050")
				if err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = conn.Write(data) }()
				go func() { _, _ = io.Copy(io.Discard, conn) }()
				synctest.Wait()
				conn.Close()
				synctest.Wait()
			})
		}
		if plain.String() != fronted.String() {
			t.Fatalf("net/http served\n%s, with a Front it served\n%s", plain.String(), fronted.String())
		}
	})
}
