package link_test

import (
	"context"
	"io"
	"net"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// update is a status update as an agent sends it, about 200 bytes.
func update() *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("6c8e4a1e-3f4f-4f0c-9a0e-5b0f0c7a9d11-0000")},
		Status: &mesosv1.TaskStatus{
			TaskId:     &mesosv1.TaskID{Value: proto.String("service.0f3c1f6e-8f51-4a5e-b5a0-3c1f6e8f514a")},
			AgentId:    &mesosv1.AgentID{Value: proto.String("6c8e4a1e-3f4f-4f0c-9a0e-5b0f0c7a9d11-S17")},
			ExecutorId: &mesosv1.ExecutorID{Value: proto.String("service.0f3c1f6e-8f51-4a5e-b5a0-3c1f6e8f514a")},
			State:      mesosv1.TaskState_TASK_RUNNING.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
			Timestamp: proto.Float64(1.7e9), Uuid: make([]byte, 16),
		},
		LatestState: mesosv1.TaskState_TASK_RUNNING.Enum(),
	}}}
}

func tcpPair(b *testing.B) (net.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return here, there
}

// BenchmarkLink measures one status update from Send to the receiver's handler over loopback: alone (each waits for the
// one before), in groups of 16, and as fast as the sender can.
func BenchmarkLink(b *testing.B) {
	for _, bc := range []struct {
		name   string
		window int
	}{{"one", 1}, {"batched16", 16}, {"flood", 4096}} {
		b.Run(bc.name, func(b *testing.B) {
			here, there := tcpPair(b)
			sender, receiver := link.NewConn(here, link.Config{}), link.NewConn(there, link.Config{})
			arrived := make(chan int, 64)
			ended := make(chan error, 2)
			go func() {
				pending := 0
				ended <- receiver.Run(context.Background(), func(_ uint64, msgs []*linkv1.Message, _ bool) error {
					for range msgs {
						if pending++; pending == bc.window {
							arrived <- pending
							pending = 0
						}
					}
					return nil
				})
			}()
			go func() {
				ended <- sender.Run(context.Background(), func(uint64, []*linkv1.Message, bool) error { return nil })
			}()
			m := update()
			msgs := make([]*linkv1.Message, bc.window)
			for i := range msgs {
				msgs[i] = m
			}
			b.SetBytes(int64(m.SizeVT()))
			b.ReportAllocs()
			b.ResetTimer()
			inFlight := 0
			for i := 0; i < b.N; i += bc.window {
				sender.Send(0, msgs...)
				if inFlight++; bc.window < 100 || inFlight > 8 {
					<-arrived
					inFlight--
				}
			}
			for ; inFlight > 0; inFlight-- {
				<-arrived
			}
			b.StopTimer()
			sender.Close()
			<-ended
			<-ended
		})
	}
}

// BenchmarkSend is the sender's part alone: what the master's owner goroutine pays for a message.
func BenchmarkSend(b *testing.B) {
	here, there := net.Pipe()
	c := link.NewConn(here, link.Config{})
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(context.Background(), func(uint64, []*linkv1.Message, bool) error { return nil })
	}()
	go func() { _, _ = io.Copy(io.Discard, there) }()
	m := update()
	b.ReportAllocs()
	for b.Loop() {
		c.Send(0, m)
	}
	there.Close()
	<-ended
}
