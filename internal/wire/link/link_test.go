package link_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func pong(n uint64) *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_Pong{Pong: &linkv1.Pong{Sequence: &n}}}
}

func sized(n, size int) *linkv1.Message {
	return &linkv1.Message{Kind: &linkv1.Message_FrameworkMessage{FrameworkMessage: &linkv1.FrameworkMessage{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String(fmt.Sprint(n))},
		Data: make([]byte, size),
	}}}
}

// master serves the link at "master:5050" of an in-memory network; each accepted connection is handed to the test.
func master(t *testing.T, cfg link.Config) (*memnet.Network, chan *link.Conn) {
	t.Helper()
	network, conns := new(memnet.Network), make(chan *link.Conn, 16)
	serve(t, network.Listen("master:5050"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := link.Accept(w, r, cfg); err == nil {
			conns <- c
		}
	}))
	return network, conns
}

func serve(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-served })
}

func pair(t *testing.T, here, there link.Config) (agent, master *link.Conn) {
	t.Helper()
	a, b := net.Pipe()
	return link.NewConn(a, here), link.NewConn(b, there)
}

// run runs a connection in the background; the channel gets why it ended.
func run(c *link.Conn, h link.Handler) chan error {
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background(), h) }()
	return ended
}

func ignore(uint64, []*linkv1.Message, bool) error { return nil }

func TestMessagesArriveInOrderBothWays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network, conns := master(t, link.Config{})
		agent, err := link.Dial(t.Context(), link.DialConfig{Address: "master:5050", Dial: network.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		const n = 5000
		var last atomic.Uint64
		collect := func(step func()) link.Handler {
			next := uint64(0)
			return func(channel uint64, msgs []*linkv1.Message, _ bool) error {
				for _, m := range msgs {
					if got := m.GetPong().GetSequence(); got != next || channel != next%3 {
						return fmt.Errorf("message %d on channel %d, want %d on %d", got, channel, next, next%3)
					}
					if next++; next == n {
						step()
					}
				}
				return nil
			}
		}
		m := <-conns
		masterEnded := run(m, collect(func() { last.Add(1) }))
		agentEnded := run(agent, collect(func() { last.Add(1); agent.Close() }))
		for i := range uint64(n) {
			if !agent.Send(i%3, pong(i)) {
				t.Fatal(agent.Err())
			}
			raw, _ := pong(i).MarshalVT()
			if !m.SendRaw(i%3, raw[:1], raw[1:]) {
				t.Fatal(m.Err())
			}
		}
		if err := <-agentEnded; !errors.Is(err, link.ErrClosed) {
			t.Errorf("the agent's side ended with %v", err)
		}
		if err := <-masterEnded; !errors.Is(err, link.ErrPeerGone) {
			t.Errorf("the master's side ended with %v", err)
		}
		if agent.Send(0, pong(0)) || m.Send(0, pong(0)) {
			t.Error("an ended link took a message")
		}
		if last.Load() != 2 {
			t.Errorf("%d sides have read everything", last.Load())
		}
	})
}

func TestWhatComesDuringAWriteRidesInTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := link.NewConn(a, link.Config{})
		ended := run(c, ignore)
		c.Send(0, pong(0))
		synctest.Wait() // the first write hangs in the pipe
		for i := range uint64(100) {
			c.Send(0, pong(i+1))
		}
		frame := func() int {
			var head [4]byte
			if _, err := io.ReadFull(b, head[:]); err != nil {
				t.Fatal(err)
			}
			body := make([]byte, binary.BigEndian.Uint32(head[:]))
			if _, err := io.ReadFull(b, body); err != nil {
				t.Fatal(err)
			}
			var f linkv1.Frame
			if err := f.UnmarshalVT(body); err != nil {
				t.Fatal(err)
			}
			return len(f.GetMessages())
		}
		if first, second := frame(), frame(); first != 1 || second != 100 {
			t.Errorf("frames of %d and %d messages, want 1 and 100", first, second)
		}
		b.Close()
		<-ended
	})
}

func TestLargeAndSmallFramesInAnyCut(t *testing.T) {
	t.Parallel()
	const n = 300
	a, b := net.Pipe()
	sender := link.NewConn(a, link.Config{})
	// The receiver's reads are cut at random places.
	receiver := link.NewConn(&choppy{Conn: b, rng: rand.New(rand.NewPCG(1, 2))}, link.Config{})
	sizes := make([]int, n)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range sizes {
		sizes[i] = []int{0, 1, 200, 300, 5000, 40_000, 200_000}[rng.IntN(7)]
	}
	next := 0
	received := run(receiver, func(_ uint64, msgs []*linkv1.Message, _ bool) error {
		for _, m := range msgs {
			got := m.GetFrameworkMessage()
			if got.GetExecutorId().GetValue() != fmt.Sprint(next) || len(got.GetData()) != sizes[next] {
				return fmt.Errorf("message %v of %d bytes, want %d of %d", got.GetExecutorId(), len(got.GetData()), next, sizes[next])
			}
			next++
		}
		return nil
	})
	sent := run(sender, ignore)
	for i, size := range sizes {
		if !sender.Send(0, sized(i, size)) {
			t.Fatal(sender.Err())
		}
	}
	sender.Close()
	<-sent
	if err := <-received; !errors.Is(err, link.ErrPeerGone) || next != n {
		t.Errorf("%d of %d messages, then %v", next, n, err)
	}
}

type choppy struct {
	net.Conn
	rng *rand.Rand
}

func (c *choppy) Read(b []byte) (int, error) {
	if len(b) > 1 && c.rng.IntN(2) == 0 {
		b = b[:1+c.rng.IntN(len(b)-1)]
	}
	return c.Conn.Read(b)
}

func TestPeerThatNeverReadsIsCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, link.Config{MaxQueued: 1 << 20}, link.Config{})
		ended := run(c, ignore)
		start, sent := time.Now(), 0
		for c.Send(0, sized(0, 1000)) {
			if sent++; sent > 10_000 {
				t.Fatal("the queue has no bound")
			}
		}
		if err := <-ended; !errors.Is(err, link.ErrSlowPeer) || time.Since(start) != 0 {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, link.Config{WriteTimeout: 7 * time.Second}, link.Config{})
		ended := run(c, ignore)
		start := time.Now()
		c.Send(0, pong(1))
		if err := <-ended; err == nil || time.Since(start) != 7*time.Second {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
	})
}

func TestSilentPeerIsCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent, master := pair(t, link.Config{}, link.Config{})
		ended, other := run(agent, ignore), run(master, ignore)
		agent.SetIdleTimeout(75 * time.Second)
		start := time.Now()
		for range 10 {
			time.Sleep(time.Minute) // virtual time
			if !master.Send(0, pong(1)) {
				t.Fatal(master.Err())
			}
		}
		if err := <-ended; !errors.Is(err, link.ErrSilent) {
			t.Errorf("ended with %v", err)
		}
		if got := time.Since(start); got != 10*time.Minute+75*time.Second {
			t.Errorf("ended after %v", got)
		}
		<-other
	})
}

func TestClosedChannelAndHandlerError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent, master := pair(t, link.Config{}, link.Config{})
		boom := errors.New("enough")
		var seen []string
		ended := run(master, func(channel uint64, msgs []*linkv1.Message, closed bool) error {
			seen = append(seen, fmt.Sprint(channel, len(msgs), closed))
			if channel == 9 {
				return boom
			}
			return nil
		})
		other := run(agent, ignore)
		agent.Send(7, pong(1), pong(2))
		synctest.Wait()
		agent.CloseChannel(7)
		synctest.Wait()
		agent.Send(9, pong(3))
		if err := <-ended; !errors.Is(err, boom) || strings.Join(seen, ",") != "7 2 false,7 0 true,9 1 false" {
			t.Errorf("ended with %v after %v", err, seen)
		}
		<-other
		<-master.Done()
	})
}

func TestContextEndsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent, master := pair(t, link.Config{}, link.Config{})
		other := run(master, ignore)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("stepping down")
		time.AfterFunc(time.Second, func() { cancel(why) })
		if err := agent.Run(ctx, ignore); !errors.Is(err, why) {
			t.Errorf("ended with %v", err)
		}
		<-other
	})
}

// Whatever the last message says arrives, although the peer was sending all the while: over TCP a plain close would
// reset the connection and throw it away.
func TestCloseDeliversWhatWasQueuedOverTCP(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *link.Conn, 1)
	serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := link.Accept(w, r, link.Config{}); err == nil {
			conns <- c
		}
	}))
	for range 20 {
		agent, err := link.Dial(t.Context(), link.DialConfig{Address: l.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		m := <-conns
		refused := false
		for range 200 {
			agent.Send(0, sized(1, 1000))
		}
		ended := run(agent, func(_ uint64, msgs []*linkv1.Message, _ bool) error {
			for _, msg := range msgs {
				refused = refused || msg.GetRefused() != nil
			}
			return nil
		})
		m.Send(0, &linkv1.Message{Kind: &linkv1.Message_Refused{Refused: &linkv1.Refused{Message: proto.String("go away")}}})
		m.Close()
		masterEnded := run(m, func(uint64, []*linkv1.Message, bool) error { t.Error("a closed side was handed a message"); return nil })
		<-ended
		if err := <-masterEnded; !errors.Is(err, link.ErrClosed) {
			t.Errorf("the master's side ended with %v", err)
		}
		if !refused {
			t.Fatal("what was queued before Close did not arrive")
		}
	}
}

func TestBadFrames(t *testing.T) {
	t.Parallel()
	frame := func(body string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
	}
	// ContainerID within ContainerID within … in the status of an update.
	nested := &mesosv1.ContainerID{Value: proto.String("c")}
	for range 200 {
		nested = &mesosv1.ContainerID{Value: proto.String("c"), Parent: nested}
	}
	deep, err := (&linkv1.Message{Kind: &linkv1.Message_Update{Update: &linkv1.StatusUpdate{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f")},
		Status: &mesosv1.TaskStatus{
			TaskId: &mesosv1.TaskID{Value: proto.String("t")}, State: mesosv1.TaskState_TASK_RUNNING.Enum(),
			ContainerStatus: &mesosv1.ContainerStatus{ContainerId: nested},
		},
	}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	for name, bytes := range map[string]string{
		"too large":         "\x7f\xff\xff\xff",
		"cut in the header": "\x00\x00",
		"cut in the body":   "\x00\x00\x00\x05abc",
		"no tag":            frame("\xff"),
		"bad message":       frame("\x12\x01\xff"),
		"length beyond":     frame("\x12\x7fab"),
		"field number 0":    frame("\x00\x00"),
		"bad varint":        frame("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
		"nested too deep":   frame("\x12" + string(binary.AppendUvarint(nil, uint64(len(deep)))) + string(deep)),
		"too many messages": frame(strings.Repeat("\x12\x00", 200_000)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := net.Pipe()
			ended := run(link.NewConn(a, link.Config{MaxFrame: 1 << 20}), ignore)
			go func() { _, _ = io.WriteString(b, bytes); b.Close() }()
			if err := <-ended; !errors.Is(err, link.ErrFrame) {
				t.Errorf("ended with %v", err)
			}
		})
	}
	t.Run("a message that can't be sent", func(t *testing.T) {
		t.Parallel()
		a, b := net.Pipe()
		defer b.Close()
		c := link.NewConn(a, link.Config{MaxFrame: 1000})
		ended := run(c, ignore)
		if c.Send(0, sized(1, 2000)) {
			t.Error("a message above the limit was taken")
		}
		if err := <-ended; !errors.Is(err, link.ErrFrame) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestDialMeetsMastersThatDoNotTakeIt(t *testing.T) {
	t.Parallel()
	network := new(memnet.Network)
	serve(t, network.Listen("redirects:1"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wire.Redirect(w, r, "leader:5050") }))
	serve(t, network.Listen("recovers:1"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		wire.Error(w, http.StatusServiceUnavailable, "Master has not finished recovery")
	}))
	serve(t, network.Listen("locked:1"), wire.Authenticated(wire.NewCredentials(map[string]string{"agent": "secret"}), "mesos-master-readwrite",
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := link.Accept(w, r, link.Config{})
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Run(r.Context(), ignore)
		})))
	dial := func(address, secret string) (*link.Conn, error) {
		return link.Dial(t.Context(), link.DialConfig{Address: address, Dial: network.DialContext, Principal: "agent", Secret: secret})
	}
	var redirect *link.RedirectError
	if _, err := dial("redirects:1", ""); !errors.As(err, &redirect) || redirect.Leader != "leader:5050" {
		t.Errorf("redirect: %v", err)
	}
	var status *wire.StatusError
	if _, err := dial("recovers:1", ""); !errors.As(err, &status) || status.Status != http.StatusServiceUnavailable || !status.Temporary() {
		t.Errorf("recovering: %v", err)
	}
	if _, err := dial("locked:1", "wrong"); !errors.As(err, &status) || status.Status != http.StatusUnauthorized || status.Temporary() {
		t.Errorf("wrong secret: %v", err)
	}
	c, err := dial("locked:1", "secret")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-run(c, ignore); !errors.Is(err, link.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
	if _, err := dial("nobody:1", ""); err == nil {
		t.Error("dialling nobody worked")
	}
}

func TestAcceptAnswersOtherRequests(t *testing.T) {
	t.Parallel()
	network, _ := master(t, link.Config{})
	c := &http.Client{Transport: &http.Transport{DialContext: network.DialContext, DisableKeepAlives: true}}
	for method, want := range map[string]int{http.MethodGet: http.StatusMethodNotAllowed, http.MethodPost: http.StatusUpgradeRequired} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://master:5050"+link.Path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", method, resp.StatusCode, want)
		}
	}
}

func TestDialGivesUpOnAMasterThatNeverAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := new(memnet.Network)
		l := network.Listen("mute:1")
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.Copy(io.Discard, c)
			}
		}()
		start := time.Now()
		_, err := link.Dial(t.Context(), link.DialConfig{Address: "mute:1", Dial: network.DialContext, Timeout: 3 * time.Second})
		if err == nil || !strings.Contains(err.Error(), "no answer from mute:1 within 3s") || time.Since(start) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
