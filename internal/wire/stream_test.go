package wire_test

import (
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

// serve runs a handler at "master:5050" of an in-memory network until the test ends.
func serve(t *testing.T, h http.Handler) *memnet.Network {
	t.Helper()
	network := new(memnet.Network)
	serveAt(t, network, "master:5050", h)
	return network
}

func serveAt(t *testing.T, network *memnet.Network, address string, h http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan struct{})
	l := network.Listen(address)
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		cancel()
		srv.Close()
		<-served
	})
}

func client(t *testing.T, network *memnet.Network, edit func(*wire.ClientConfig)) *wire.Client {
	t.Helper()
	cfg := wire.ClientConfig{Masters: []string{"master:5050"}, Path: "/api/v1/scheduler", Transport: wire.NewTransport(network.DialContext)}
	if edit != nil {
		edit(&cfg)
	}
	c, err := wire.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func subscribed(interval float64) *wire.Event {
	return wire.NewEvent(&schedulerv1.Event{
		Type: schedulerv1.Event_SUBSCRIBED.Enum(),
		Subscribed: &schedulerv1.Event_Subscribed{
			FrameworkId: &mesosv1.FrameworkID{Value: proto.String("F-0000")}, HeartbeatIntervalSeconds: proto.Float64(interval),
		},
	})
}

func heartbeat() *wire.Event {
	return wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_HEARTBEAT.Enum()})
}

func message(n int) *wire.Event {
	return wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_MESSAGE.Enum(), Message: &schedulerv1.Event_Message{
		AgentId:    &mesosv1.AgentID{Value: proto.String("S0")},
		ExecutorId: &mesosv1.ExecutorID{Value: proto.String(fmt.Sprint(n))}, Data: []byte("data"),
	}})
}

func subscribeCall() *schedulerv1.Call {
	return &schedulerv1.Call{Type: schedulerv1.Call_SUBSCRIBE.Enum(), Subscribe: &schedulerv1.Call_Subscribe{
		FrameworkInfo: &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("test")},
	}}
}

// fakeMaster answers SUBSCRIBE with a stream that it hands to the test, and other calls with 202.
type fakeMaster struct {
	cfg     wire.StreamConfig
	streams chan *wire.Stream
	calls   chan *schedulerv1.Call
	ended   chan error
}

func newFakeMaster(cfg wire.StreamConfig) *fakeMaster {
	return &fakeMaster{cfg: cfg, streams: make(chan *wire.Stream, 16), calls: make(chan *schedulerv1.Call, 64), ended: make(chan error, 16)}
}

func (m *fakeMaster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call schedulerv1.Call
	if _, ok := wire.ReadCall(w, r, &call, wire.CallOptions{}); !ok {
		return
	}
	if call.GetType() != schedulerv1.Call_SUBSCRIBE {
		if r.Header.Get("Mesos-Stream-Id") != m.cfg.ID {
			wire.Error(w, http.StatusBadRequest, "wrong stream id")
			return
		}
		m.calls <- &call
		wire.Accepted(w)
		return
	}
	ct, ok := wire.Negotiate(r)
	if !ok {
		wire.NotAcceptable(w)
		return
	}
	cfg := m.cfg
	cfg.ContentType = ct
	s, err := wire.NewStream(w, r, cfg)
	if err != nil {
		m.ended <- err
		return
	}
	m.streams <- s
	m.ended <- s.Serve(r.Context())
}

func TestStreamAndClientInBothEncodings(t *testing.T) {
	t.Parallel()
	for _, ct := range []wire.ContentType{wire.JSON, wire.Protobuf} {
		t.Run(ct.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newFakeMaster(wire.StreamConfig{ID: "stream-1", Heartbeat: heartbeat(), Interval: 15 * time.Second})
				c := client(t, serve(t, m), func(cfg *wire.ClientConfig) { cfg.ContentType = ct })
				events, err := c.Open(t.Context(), subscribeCall())
				if err != nil {
					t.Fatal(err)
				}
				defer events.Close()
				s := <-m.streams
				const n = 1000
				s.Send(subscribed(15))
				for i := range n {
					if !s.Send(message(i)) {
						t.Fatalf("event %d was refused", i)
					}
				}
				var ev schedulerv1.Event
				if err := events.Next(&ev); err != nil || ev.GetSubscribed().GetFrameworkId().GetValue() != "F-0000" {
					t.Fatalf("first event %v, %v", &ev, err)
				}
				for i := range n {
					if err := events.Next(&ev); err != nil || ev.GetMessage().GetExecutorId().GetValue() != fmt.Sprint(i) {
						t.Fatalf("event %d is %v, %v", i, &ev, err)
					}
				}
				// An hour of silence but for heartbeats.
				start := time.Now()
				for range 240 {
					if err := events.Next(&ev); err != nil || ev.GetType() != schedulerv1.Event_HEARTBEAT {
						t.Fatalf("instead of a heartbeat: %v, %v", &ev, err)
					}
				}
				if got := time.Since(start); got != time.Hour {
					t.Errorf("240 heartbeats took %v", got)
				}
				if err := c.Call(t.Context(), &schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String("F-0000")}}); err != nil {
					t.Fatal(err)
				}
				if call := <-m.calls; call.GetType() != schedulerv1.Call_REVIVE || call.GetFrameworkId().GetValue() != "F-0000" {
					t.Errorf("the master read %v", call)
				}
				s.Close(message(-1))
				if s.Send(heartbeat()) {
					t.Error("a closed stream took an event")
				}
				if err := events.Next(&ev); err != nil || ev.GetMessage().GetExecutorId().GetValue() != "-1" {
					t.Fatalf("the final event is %v, %v", &ev, err)
				}
				if err := events.Next(&ev); !errors.Is(err, io.EOF) {
					t.Errorf("after the end: %v", err)
				}
				if err := <-m.ended; !errors.Is(err, wire.ErrStreamClosed) {
					t.Errorf("the stream ended with %v", err)
				}
				<-s.Done()
			})
		})
	}
}

func TestSlowReaderIsCutAndNeverWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{MaxEvents: 100})
		c := client(t, serve(t, m), nil)
		events, err := c.Open(t.Context(), subscribeCall())
		if err != nil {
			t.Fatal(err)
		}
		defer events.Close()
		s := <-m.streams
		start := time.Now()
		sent := 0
		for s.Send(message(sent)) {
			if sent++; sent > 100_000 {
				t.Fatal("the queue has no bound")
			}
		}
		<-s.Done()
		if err := <-m.ended; !errors.Is(err, wire.ErrSlowReader) {
			t.Errorf("the stream ended with %v", err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("cutting the reader off took %v", waited)
		}
		var ev schedulerv1.Event
		for err = nil; err == nil; err = events.Next(&ev) {
		}
		if errors.Is(err, io.EOF) {
			t.Error("the cut looks like a proper end to the client")
		}
	})
}

func TestReaderThatNeverReadsMeetsTheWriteDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{WriteTimeout: 20 * time.Second})
		network := serve(t, m)
		conn, err := network.DialContext(t.Context(), "", "master:5050")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"+`{"type":"SUBSCRIBE"}`)
		head := make([]byte, 1024)
		if _, err := conn.Read(head); err != nil {
			t.Fatal(err)
		}
		s := <-m.streams
		// More than the network takes without a reader.
		s.Send(wire.NewEvent(&schedulerv1.Event{
			Type: schedulerv1.Event_ERROR.Enum(), Error: &schedulerv1.Event_Error{Message: proto.String(strings.Repeat("x", 1<<20))},
		}))
		start := time.Now()
		<-s.Done()
		if got := time.Since(start); got != 20*time.Second {
			t.Errorf("the stream ended after %v", got)
		}
	})
}

func TestPeerThatGoesAwayEndsTheStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{})
		c := client(t, serve(t, m), nil)
		events, err := c.Open(t.Context(), subscribeCall())
		if err != nil {
			t.Fatal(err)
		}
		s := <-m.streams
		events.Close()
		<-s.Done()
		if err := <-m.ended; !errors.Is(err, wire.ErrPeerGone) {
			t.Errorf("the stream ended with %v", err)
		}
		if s.Send(heartbeat()) {
			t.Error("an ended stream took an event")
		}
	})
}

// One record is one chunk, whether or not several were queued together, and the headers are there before any event.
func TestOneRecordIsOneChunk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{ID: "abc"})
		conn, err := serve(t, m).DialContext(t.Context(), "", "master:5050")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"+`{"type":"SUBSCRIBE"}`)
		raw := make(chan string)
		go func() {
			all, _ := io.ReadAll(conn)
			raw <- string(all)
		}()
		s := <-m.streams
		synctest.Wait()
		big := wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_ERROR.Enum(), Error: &schedulerv1.Event_Error{Message: proto.String(strings.Repeat("x", 100_000))}})
		sent := []*wire.Event{subscribed(15), heartbeat(), big, heartbeat()}
		for _, e := range sent {
			s.Send(e)
		}
		s.Close(nil)
		head, body, _ := strings.Cut(<-raw, "\r\n\r\n")
		for _, want := range []string{"HTTP/1.1 200 OK", "Content-Type: application/json\r", "Mesos-Stream-Id: abc", "Transfer-Encoding: chunked"} {
			if !strings.Contains(head+"\r", want) {
				t.Errorf("the head lacks %q:\n%s", want, head)
			}
		}
		want := ""
		for _, e := range sent {
			record, err := e.Record(wire.JSON)
			if err != nil {
				t.Fatal(err)
			}
			want += fmt.Sprintf("%x\r\n%s\r\n", len(record), record)
		}
		if want += "0\r\n\r\n"; body != want {
			t.Errorf("body of %d bytes, want %d:\n%.300q\n%.300q", len(body), len(want), body, want)
		}
	})
}

// A stream that owns its connection outlives the handler that made it, and the request's context.
func TestStartedStreamOutlivesItsHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		streams, ended, returned := make(chan *wire.Stream, 1), make(chan error, 1), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		c := client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			s, err := wire.NewStream(w, r, wire.StreamConfig{ContentType: wire.Protobuf})
			if err != nil {
				t.Error(err)
				return
			}
			streams <- s
			s.Start(ctx, func(err error) { ended <- err })
		})), nil)
		events, err := c.Open(t.Context(), subscribeCall())
		if err != nil {
			t.Fatal(err)
		}
		defer events.Close()
		<-returned
		s := <-streams
		time.Sleep(time.Hour) // virtual time
		s.Send(message(7))
		var ev schedulerv1.Event
		if err := events.Next(&ev); err != nil || ev.GetMessage().GetExecutorId().GetValue() != "7" {
			t.Errorf("%v, %v", &ev, err)
		}
		cancel()
		if err := events.Next(&ev); !errors.Is(err, io.EOF) {
			t.Errorf("a stream that the server ends reads %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}
