package link_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// BenchmarkIdleLink reports what an idle connection costs the master in memory of the process, without the kernel's part.
// The peers are bare connections, whose own cost (some 300 bytes) is included.
func BenchmarkIdleLink(b *testing.B) {
	const n = 2000
	for b.Loop() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var links sync.WaitGroup
		accepted := make(chan struct{}, n)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := link.Accept(w, r, link.Config{})
			if err != nil {
				b.Error(err)
				return
			}
			links.Add(1)
			go func() {
				defer links.Done()
				accepted <- struct{}{}
				_ = c.Run(ctx, ignore)
			}()
		})}
		go func() { _ = srv.Serve(l) }()
		before := memory()
		conns := make([]net.Conn, n)
		for i := range conns {
			if conns[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
				b.Fatal(err)
			}
			fmt.Fprintf(conns[i], "POST %s HTTP/1.1\r\nHost: m\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", link.Path, link.Protocol)
			if line, err := bufio.NewReaderSize(conns[i], 16).ReadString('\n'); err != nil || line != "HTTP/1.1 101 Switching Protocols\r\n" {
				b.Fatal(line, err)
			}
		}
		for range n {
			<-accepted
		}
		b.ReportMetric((memory()-before)/n, "B/conn")
		for _, c := range conns {
			c.Close()
		}
		links.Wait()
		cancel()
		srv.Close()
	}
}

func memory() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
