package wire_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func statusUpdate() *schedulerv1.Event {
	return &schedulerv1.Event{Type: schedulerv1.Event_UPDATE.Enum(), Update: &schedulerv1.Event_Update{Status: &mesosv1.TaskStatus{
		TaskId:  &mesosv1.TaskID{Value: proto.String("service.0f3c1f6e-8f51-4a5e-b5a0-3c1f6e8f514a")},
		AgentId: &mesosv1.AgentID{Value: proto.String("6c8e4a1e-3f4f-4f0c-9a0e-5b0f0c7a9d11-S17")},
		State:   mesosv1.TaskState_TASK_RUNNING.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		Timestamp: proto.Float64(1.7e9), Uuid: make([]byte, 16),
	}}}
}

// BenchmarkStream measures one UPDATE event from Send to the bytes at the client, over loopback, as fast as it goes.
func BenchmarkStream(b *testing.B) {
	for _, ct := range []wire.ContentType{wire.JSON, wire.Protobuf} {
		b.Run(ct.String(), func(b *testing.B) {
			streams := make(chan *wire.Stream)
			address := benchServer(b, ct, streams)
			conn := subscribeRaw(b, address)
			defer conn.Close()
			s := <-streams
			read := make(chan int64)
			go func() {
				n, _ := io.Copy(io.Discard, conn)
				read <- n
			}()
			ev := statusUpdate()
			b.ReportAllocs()
			for b.Loop() {
				for s.Pending() > 4096 {
					runtime.Gosched()
				}
				if !s.Send(wire.NewEvent(ev)) {
					b.Fatal(s.Err())
				}
			}
			s.Close(nil)
			<-read
		})
	}
}

// BenchmarkIdleStream reports what an idle stream costs the server in memory of the process, without the kernel's part.
func BenchmarkIdleStream(b *testing.B) {
	const n = 2000
	for b.Loop() {
		streams := make(chan *wire.Stream, n)
		address := benchServer(b, wire.JSON, streams)
		before := memory()
		conns := make([]net.Conn, n)
		for i := range conns {
			conns[i] = subscribeRaw(b, address)
		}
		for range n {
			<-streams
		}
		b.ReportMetric((memory()-before)/n, "B/conn")
		for _, c := range conns {
			c.Close()
		}
	}
}

func benchServer(b *testing.B, ct wire.ContentType, streams chan<- *wire.Stream) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{BaseContext: func(net.Listener) context.Context { return ctx }, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := wire.NewStream(w, r, wire.StreamConfig{ContentType: ct})
		if err != nil {
			b.Error(err)
			return
		}
		s.Start(ctx, nil)
		streams <- s
	})}
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(func() { cancel(); srv.Close() })
	return l.Addr().String()
}

func subscribeRaw(b *testing.B, address string) net.Conn {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n")
	if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		b.Fatal(line, err)
	}
	return conn
}

func memory() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
