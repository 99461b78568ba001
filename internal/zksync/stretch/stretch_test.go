package stretch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func TestParseAndPlan(t *testing.T) {
	t.Parallel()
	c, err := ParseConfig("server.1=a:1:2:participant;0.0.0.0:9\nserver.2=b:1:2;9\nserver.3=[::1]:1:2:observer;[::1]:9\nversion=100000000")
	if err != nil {
		t.Fatal(err)
	}
	want := []Member{{1, "a:1:2", "participant", "a:9"}, {2, "b:1:2", "participant", "b:9"}, {3, "[::1]:1:2", "observer", "[::1]:9"}}
	if diff := cmp.Diff(want, c.Members); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "server.x=a:1:2;3", "server.1=a:1:2", "server.1=a;3", "server.1=a:1;3"} {
		if m, err := ParseMember(bad); err == nil {
			t.Errorf("%q was read as %v", bad, m)
		}
	}
	aim := []Member{{4, "d:1:2", "participant", "d:9"}, {3, "[::1]:1:2", "participant", "[::1]:9"}}
	steps, err := Plan(c, aim, 1)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, s := range steps {
		got += fmt.Sprintf("%s %d, ", s.Do, s.Member.ID)
	}
	if got != "join 4, promote 4, remove 2, promote 3, remove 1, " {
		t.Errorf("plan: %s", got)
	}
	if _, err := Plan(c, []Member{{1, "other:1:2", "participant", "x:9"}}, 1); err == nil {
		t.Error("an id was given to another server")
	}
	if _, err := Plan(c, nil, 1); err == nil {
		t.Error("a plan to nowhere")
	}
	if steps, err := Plan(Config{Members: want[:2]}, want[:2], 1); err != nil || len(steps) != 0 {
		t.Errorf("nothing to do: %v %v", steps, err)
	}
}

func FuzzParseMember(f *testing.F) {
	f.Add("server.1=a:1:2:participant;0.0.0.0:9")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMember(s)
		if err == nil && m.Client == "" {
			t.Fatal(m)
		}
	})
}

// load is what goes on while an ensemble moves: sessions with an ephemeral node each, that write at a rate whatever the servers do.
type load struct {
	t       *testing.T
	clients []*zk.Client
	ids     []int64
	stopped chan struct{}
	wg      sync.WaitGroup

	mu             sync.Mutex
	acked, unknown int
	last           time.Time     // of an answer
	pause          time.Duration // the longest between two answers, to whomever
	slowest        time.Duration // the longest that one write took
}

func startLoad(t *testing.T, addrs []string, sessions, rate int) *load {
	t.Helper()
	l := &load{t: t, stopped: make(chan struct{}), last: time.Now()}
	for i := range sessions {
		c, err := zk.New(zk.Config{Servers: addrs, SessionTimeout: 40 * time.Second, MaxQueue: 1 << 20}, zk.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if _, err := c.Multi(t.Context(), zk.Create(fmt.Sprintf("/n%d", i), nil, zk.OpenACL(), zk.Persistent), zk.Create(fmt.Sprintf("/eph%d", i), nil, zk.OpenACL(), zk.Ephemeral)); err != nil {
			t.Fatal(err)
		}
		l.clients, l.ids = append(l.clients, c), append(l.ids, c.Session().ID)
	}
	l.last = time.Now()
	l.wg.Go(func() {
		began := time.Now()
		for sent := 0; ; {
			for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; sent++ {
				at, i := time.Now(), sent%sessions
				l.wg.Add(1)
				err := l.clients[i].Send(zk.Set(fmt.Sprintf("/n%d", i), nil, zk.AnyVersion), func(_ zk.Result, err error) {
					defer l.wg.Done()
					now := time.Now()
					l.mu.Lock()
					defer l.mu.Unlock()
					if err != nil {
						l.unknown++
						return
					}
					l.acked++
					l.pause = max(l.pause, now.Sub(l.last))
					l.slowest = max(l.slowest, now.Sub(at))
					l.last = now
				})
				if err != nil {
					l.wg.Done()
					t.Errorf("a session does not take writes: %v", err)
					return
				}
			}
			select {
			case <-l.stopped:
				return
			case <-time.After(time.Millisecond): // open loop: the pace of the load
			}
		}
	})
	return l
}

// goOn waits until n more writes were answered.
func (l *load) goOn(n int) {
	l.t.Helper()
	have := func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.acked }
	want := have() + n
	zktest.Eventually(l.t, 2*time.Minute, "writes are answered", func() bool { return have() >= want })
}

// stop ends the load and checks what has to hold: sessions and ephemeral nodes are those of the beginning, and the nodes hold every
// write that was acknowledged and none that was not asked for.
func (l *load) stop() {
	l.t.Helper()
	close(l.stopped)
	l.wg.Wait()
	versions := 0
	for i, c := range l.clients {
		// A leader may have been killed just now: reads are asked again, which changes nothing.
		asked := func(err error) bool { return !errors.Is(err, zk.ErrConnectionLoss) }
		var st zk.Stat
		var ok bool
		var err error
		zktest.Eventually(l.t, 2*time.Minute, "the node is read", func() bool {
			_, st, err = c.Get(l.t.Context(), fmt.Sprintf("/n%d", i))
			return asked(err)
		})
		if err != nil {
			l.t.Fatal(err)
		}
		versions += int(st.Version)
		zktest.Eventually(l.t, 2*time.Minute, "the ephemeral node is read", func() bool {
			ok, st, err = c.Exists(l.t.Context(), fmt.Sprintf("/eph%d", i))
			return asked(err)
		})
		if !ok || err != nil || st.EphemeralOwner != l.ids[i] || c.Session().ID != l.ids[i] {
			l.t.Errorf("session %d did not survive: %v %v", i, ok, err)
		}
	}
	if versions < l.acked || versions > l.acked+l.unknown {
		l.t.Errorf("%d writes are there, %d were acknowledged and %d are of unknown outcome", versions, l.acked, l.unknown)
	}
	l.t.Logf("%d writes by %d sessions, %d of unknown outcome; the longest pause between two answers was %v, the longest write %v",
		l.acked, len(l.clients), l.unknown, l.pause.Round(time.Millisecond), l.slowest.Round(time.Millisecond))
}

// scene is an ensemble, and as many servers that follow it and are to replace it.
type scene struct {
	old      *zktest.Ensemble
	added    []*zktest.Node
	aim      []Member // the new servers
	back     []Member // the old ones
	addrs    []string
	mover    *Mover
	everyone map[int64]*zktest.Node
}

func newScene(t *testing.T, n int) *scene {
	t.Helper()
	s := &scene{old: zktest.Start(t, zktest.Options{Servers: n, HeapMB: 128}), everyone: map[int64]*zktest.Node{}}
	s.addrs = s.old.Servers()
	member := func(node *zktest.Node) Member {
		m, err := ParseMember(node.Member())
		if err != nil {
			t.Fatal(err)
		}
		s.everyone[m.ID] = node
		return m
	}
	for _, node := range s.old.Nodes {
		s.back = append(s.back, member(node))
	}
	for i := range n {
		node := s.old.Join(t, 11+i)
		s.added, s.addrs = append(s.added, node), append(s.addrs, node.Client)
		s.aim = append(s.aim, member(node))
	}
	admin := s.old.Client(t, zk.Config{Servers: s.addrs, SessionTimeout: 40 * time.Second, Auth: []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}})
	s.mover = &Mover{Client: admin, Wait: 2 * time.Minute, Report: func(s Step, done bool) { t.Log(s, done) }}
	return s
}

// plan asks until the ensemble has a leader and answers.
func (s *scene) plan(t *testing.T, aim []Member) (steps []Step, leader int64) {
	t.Helper()
	zktest.Eventually(t, 2*time.Minute, "the ensemble has a leader", func() bool {
		now, l, err := s.mover.Current(t.Context())
		if err != nil || l < 0 {
			return false
		}
		leader = l
		if steps, err = Plan(now, aim, l); err != nil {
			t.Fatal(err)
		}
		return true
	})
	return steps, leader
}

func (s *scene) voters(t *testing.T) []int64 {
	t.Helper()
	now, _, err := s.mover.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for _, m := range now.Members {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return ids
}

func ids(members []Member) []int64 {
	var out []int64
	for _, m := range members {
		out = append(out, m.ID)
	}
	return out
}

// An ensemble moves to other servers while ten sessions write: they live, their ephemeral nodes stay, no acknowledged write is lost, and
// afterwards the old servers can be stopped. With ZK_LONG three servers move to three others under 1,000 writes a second.
func TestStretch(t *testing.T) {
	t.Parallel()
	n, rate := 1, 300
	if os.Getenv("ZK_LONG") != "" {
		n, rate = 3, 1000
	}
	s := newScene(t, n)
	l := startLoad(t, s.addrs, 10, rate)
	l.goOn(rate)
	steps, _ := s.plan(t, s.aim)
	began := time.Now()
	if err := s.mover.Run(t.Context(), steps); err != nil {
		t.Fatal(err)
	}
	moved := time.Since(began)
	for _, node := range s.old.Nodes {
		node.Kill()
	}
	zktest.Eventually(t, time.Minute, "the new servers serve alone", func() bool {
		for _, c := range l.clients {
			if c.Sync(t.Context()) != nil {
				return false
			}
		}
		return true
	})
	l.goOn(rate)
	l.stop()
	if got := s.voters(t); !slices.Equal(got, ids(s.aim)) {
		t.Errorf("members at the end: %v", got)
	}
	if again, _ := s.plan(t, s.aim); len(again) != 0 {
		t.Errorf("there is something left to do: %v", again)
	}
	t.Logf("moved in %v", moved.Round(10*time.Millisecond))
}

// The way back: from half-way, from the end; and a leader that is killed between any two steps. Nothing is lost on the way.
func TestStretchBackAndThroughCrashes(t *testing.T) {
	t.Parallel()
	n := 1
	if os.Getenv("ZK_LONG") != "" {
		n = 3
	}
	s := newScene(t, n)
	l := startLoad(t, s.addrs, 5, 200)
	// Half-way: the first new server has its vote (of three, one old one has lost it), and the operator thinks better of it.
	steps, _ := s.plan(t, s.aim)
	half := slices.IndexFunc(steps, func(s Step) bool { return s.Do == "promote" }) + min(n, 2)
	if err := s.mover.Run(t.Context(), steps[:half]); err != nil {
		t.Fatal(err)
	}
	if got := s.voters(t); slices.Equal(got, ids(s.back)) {
		t.Fatal("nothing was begun")
	}
	steps, _ = s.plan(t, s.back)
	if err := s.mover.Run(t.Context(), steps); err != nil {
		t.Fatal(err)
	}
	if got := s.voters(t); !slices.Equal(got, ids(s.back)) {
		t.Errorf("half-way and back: %v", got)
	}
	// All the way, with a leader that dies before every step; whoever repeats the command goes on where it stopped.
	kills := 0
	for range 50 {
		steps, leader := s.plan(t, s.aim)
		if len(steps) == 0 {
			break
		}
		if steps[0].Do != "join" || n > 1 {
			node := s.everyone[leader]
			node.Kill()
			kills++
			if err := node.Start(); err != nil {
				t.Fatal(err)
			}
			node.Await(t)
			steps, _ = s.plan(t, s.aim)
		}
		do := 1
		if len(steps) > 1 && steps[0].Do == "join" { // changes nothing
			do = 1 + slices.IndexFunc(steps, func(s Step) bool { return s.Do != "join" })
		}
		if err := s.mover.Run(t.Context(), steps[:do]); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.voters(t); !slices.Equal(got, ids(s.aim)) || kills == 0 {
		t.Errorf("there, through %d crashes: %v", kills, got)
	}
	// And back from the end: the old servers have followed all the time.
	steps, _ = s.plan(t, s.back)
	if err := s.mover.Run(t.Context(), steps); err != nil {
		t.Fatal(err)
	}
	if got := s.voters(t); !slices.Equal(got, ids(s.back)) {
		t.Errorf("back from the end: %v", got)
	}
	l.stop()
	t.Logf("%d leaders killed", kills)
}
