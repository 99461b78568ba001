package stretch

import (
	"fmt"
	"os"
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

// An ensemble moves to other servers while a client writes: its session lives, its ephemeral node stays, no acknowledged write
// is lost, and afterwards the old servers can be stopped. With ZK_LONG three servers move to three others.
func TestStretch(t *testing.T) {
	t.Parallel()
	n := 1
	if os.Getenv("ZK_LONG") != "" {
		n = 3
	}
	e := zktest.Start(t, zktest.Options{Servers: n, HeapMB: 128})
	var added []*zktest.Node
	var aim []Member
	addrs := e.Servers()
	for i := range n {
		node := e.Join(t, 11+i)
		added = append(added, node)
		addrs = append(addrs, node.Client)
		m, err := ParseMember(node.Member())
		if err != nil {
			t.Fatal(err)
		}
		aim = append(aim, m)
	}
	admin := e.Client(t, zk.Config{Servers: addrs, Auth: []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}})
	writer := e.Client(t, zk.Config{Servers: addrs, SessionTimeout: 10 * time.Second})
	ctx := t.Context()
	for path, mode := range map[string]zk.CreateMode{"/n": zk.Persistent, "/eph": zk.Ephemeral} {
		if _, err := writer.Create(ctx, path, nil, zk.OpenACL(), mode); err != nil {
			t.Fatal(err)
		}
	}
	session := writer.Session().ID
	stop := make(chan struct{})
	var wg sync.WaitGroup
	acked, unknown := 0, 0
	longest := time.Duration(0)
	wg.Go(func() {
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, err := writer.Set(ctx, "/n", nil, zk.AnyVersion)
			if err != nil {
				unknown++
				continue
			}
			acked++
			longest = max(longest, time.Since(last))
			last = time.Now()
			time.Sleep(time.Millisecond) // the pace of the load
		}
	})
	m := &Mover{Client: admin, Wait: time.Minute, Report: func(s Step, done bool) { t.Log(s, done) }}
	now, leader, err := m.Current(ctx)
	if err != nil || leader < 1 {
		t.Fatal(now, leader, err)
	}
	steps, err := Plan(now, aim, leader)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(ctx, steps); err != nil {
		t.Fatal(err)
	}
	for _, node := range e.Nodes {
		node.Kill()
	}
	zktest.Eventually(t, 30*time.Second, "the new servers serve alone", func() bool { return writer.Sync(ctx) == nil })
	close(stop)
	wg.Wait()
	_, st, err := writer.Get(ctx, "/n")
	if err != nil || int(st.Version) < acked || int(st.Version) > acked+unknown {
		t.Errorf("version %d after %d acknowledged and %d unknown writes, %v", st.Version, acked, unknown, err)
	}
	ok, st, err := writer.Exists(ctx, "/eph")
	if !ok || err != nil || st.EphemeralOwner != session || writer.Session().ID != session {
		t.Errorf("the session did not survive: %v %v", ok, err)
	}
	now, _, err = m.Current(ctx)
	if err != nil || len(now.Members) != n || now.Members[0].ID < 11 {
		t.Errorf("members at the end: %v %v", now, err)
	}
	if again, err := Plan(now, aim, 11); err != nil || len(again) != 0 {
		t.Errorf("there is something left to do: %v %v", again, err)
	}
	t.Logf("%d writes, %d of unknown outcome; the longest pause was %v", acked, unknown, longest)
	_ = added
}
