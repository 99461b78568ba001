package zktest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy stands between a client and a server and does what networks do.
type Proxy struct {
	l       net.Listener
	target  atomic.Pointer[string]
	refuse  atomic.Bool
	stalled atomic.Bool
	delay   atomic.Int64
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	resume  chan struct{}
}

// NewProxy forwards to target until the test ends.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{l: l, conns: map[net.Conn]struct{}{}, resume: make(chan struct{})}
	p.target.Store(&target)
	go p.accept()
	tb.Cleanup(func() {
		_ = l.Close()
		p.Stall(false)
		p.Break()
	})
	return p
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Target changes where new connections go.
func (p *Proxy) Target(addr string) { p.target.Store(&addr) }

// Refuse makes new connections fail at once.
func (p *Proxy) Refuse(on bool) { p.refuse.Store(on) }

// Delay holds everything back by d in each direction.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Stall stops all bytes without closing anything: what a partition looks like.
func (p *Proxy) Stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled.Swap(on) && !on {
		close(p.resume)
		p.resume = make(chan struct{})
	}
}

// Break closes all connections.
func (p *Proxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if p.refuse.Load() {
			c.Close()
			continue
		}
		go p.forward(c)
	}
}

func (p *Proxy) forward(c net.Conn) {
	s, err := net.DialTimeout("tcp", *p.target.Load(), 5*time.Second)
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[s] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(c, s) })
	wg.Go(func() { p.pump(s, c) })
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, s)
	p.mu.Unlock()
}

type chunk struct {
	due time.Time
	b   []byte
}

func (p *Proxy) pump(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	queue := make(chan chunk, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer dst.Close()
		for ch := range queue {
			if d := time.Until(ch.due); d > 0 {
				time.Sleep(d) // this is the delay that was asked for
			}
			if _, err := dst.Write(ch.b); err != nil {
				break
			}
		}
		for range queue { // let the reader go
		}
	}()
	for {
		b := make([]byte, 32<<10)
		n, err := src.Read(b)
		if p.stalled.Load() {
			p.mu.Lock()
			ch, on := p.resume, p.stalled.Load()
			p.mu.Unlock()
			if on {
				<-ch
			}
		}
		if n > 0 {
			queue <- chunk{time.Now().Add(time.Duration(p.delay.Load())), b[:n]}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	<-done
}

// SASLServer is the JVM option of a server that knows one DIGEST-MD5 user.
func SASLServer(tb testing.TB, user, password string) []string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "jaas.conf")
	conf := "Server {\n org.apache.zookeeper.server.auth.DigestLoginModule required\n user_" + user + `="` +
		strings.ReplaceAll(password, `"`, `\"`) + "\";\n};\n"
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	return []string{"-Djava.security.auth.login.config=" + file}
}
