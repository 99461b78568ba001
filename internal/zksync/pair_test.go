package zksync

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func startPair(t *testing.T, a, b *zktest.Ensemble, homes map[string]Home, policy Policy) (*Pair, func() error) {
	t.Helper()
	cfg := config(a, b)
	cfg.Source.Auth = super()
	p, err := NewPair(cfg, Deps{Log: testLog(t)}, homes, policy)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	wait, end := context.WithTimeout(t.Context(), 4*time.Minute)
	defer end()
	if err := p.Ready(wait); err != nil {
		t.Fatal(err, p.Forward.Status(), p.Back.Status())
	}
	return p, stop
}

// Two subtrees are written to on the side where each is at home, and the homes are flipped again and again under that load:
// no update is lost (every counter ends at the number of its increments, by value and by version), and nothing differs.
func TestPairFlips(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	ca, cb := a.Client(t, zk.Config{}), b.Client(t, zk.Config{})
	ctx := t.Context()
	for _, p := range []string{"/one", "/two", "/one/n", "/two/n", "/one/seq", "/two/seq"} {
		if _, err := ca.Create(ctx, p, []byte("0"), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	p, stop := startPair(t, a, b, nil, PolicyHome)
	type subtree struct {
		mu    sync.Mutex // held while its home is flipped: its writers pause
		home  Home
		count int
	}
	trees := map[string]*subtree{"/one": {home: HomeSource}, "/two": {home: HomeSource}}
	client := func(h Home) *zk.Client {
		if h == HomeTarget {
			return cb
		}
		return ca
	}
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for root, s := range trees {
		wg.Go(func() {
			for !stopped.Load() {
				s.mu.Lock()
				c := client(s.home)
				// An increment that reads what the copy became: it fails if anything was lost on the way.
				data, st, err := c.Get(ctx, root+"/n")
				if err == nil && string(data) != fmt.Sprint(s.count) {
					t.Errorf("%s at %s holds %s, want %d", root, s.home, data, s.count)
				}
				if err == nil {
					_, err = c.Set(ctx, root+"/n", fmt.Append(nil, s.count+1), st.Version)
				}
				if err == nil {
					s.count++
					if s.count%10 == 0 {
						_, err = c.Create(ctx, root+"/seq/s-", nil, zk.OpenACL(), zk.PersistentSequential)
					}
				}
				if err != nil {
					t.Error(err)
					stopped.Store(true)
				}
				s.mu.Unlock()
				time.Sleep(time.Millisecond) // the pace of the load
			}
		})
	}
	for i := range 20 {
		root := []string{"/one", "/two"}[i%2]
		s := trees[root]
		s.mu.Lock()
		to := HomeTarget
		if s.home == HomeTarget {
			to = HomeSource
		}
		fctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		if err := p.Flip(fctx, root, to); err != nil {
			t.Fatal(err)
		}
		cancel()
		s.home = to
		s.mu.Unlock()
	}
	stopped.Store(true)
	wg.Wait()
	equal(t, a, b, Scope{})
	for root, s := range trees {
		_, st, err := ca.Get(ctx, root+"/n")
		if err != nil || int(st.Version) != s.count || s.count < 20 {
			t.Errorf("%s: version %d after %d increments, %v", root, st.Version, s.count, err)
		}
		_, seq, err := cb.Children(ctx, root+"/seq")
		if err != nil || int(seq.NumChildren) != s.count/10 {
			t.Errorf("%s: %d sequential nodes, want %d (%v)", root, seq.NumChildren, s.count/10, err)
		}
	}
	if n := p.Forward.Status().Conflicts + p.Back.Status().Conflicts; n != 0 {
		t.Errorf("%d conflicts: %+v %+v", n, p.Forward.Conflicts(), p.Back.Conflicts())
	}
	// Sessions do not move: a subtree that holds ephemeral nodes is not flipped.
	home := trees["/one"].home
	if _, err := client(home).Create(ctx, "/one/eph", nil, zk.OpenACL(), zk.Ephemeral); err != nil {
		t.Fatal(err)
	}
	to := HomeTarget
	if home == HomeTarget {
		to = HomeSource
	}
	if err := p.Flip(ctx, "/one", to); err == nil || !strings.Contains(err.Error(), "sessions do not move") {
		t.Errorf("flipping with an ephemeral node: %v", err)
	}
	// What was recorded holds for the next start.
	if err := p.Flip(ctx, "/two", HomeTarget); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	p, stop = startPair(t, a, b, nil, PolicyHome)
	if p.Homes()["/two"] != HomeTarget {
		t.Errorf("homes after a restart: %v", p.Homes())
	}
	if _, err := cb.Set(ctx, "/two/n", []byte("after"), -1); err != nil {
		t.Fatal(err)
	}
	equal(t, b, a, Scope{Source: "/two"})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// The same node written on both sides: every policy does what it says, and records both values.
func TestPairConflicts(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	ca, cb := a.Client(t, zk.Config{}), b.Client(t, zk.Config{})
	ctx := t.Context()
	get := func(c *zk.Client, path string) string {
		d, _, err := c.Get(ctx, path)
		if err != nil {
			return err.Error()
		}
		return string(d)
	}
	both := func(path, want string) {
		t.Helper()
		zktest.Eventually(t, 20*time.Second, fmt.Sprintf("%s is %q on both sides", path, want), func() bool {
			x, y := get(ca, path), get(cb, path)
			return strings.Contains(x, want) && strings.Contains(y, want)
		})
	}
	for _, policy := range []Policy{PolicyHome, PolicySource, PolicyLast, PolicyManual} {
		root := "/" + string(policy)
		for _, n := range []string{"", "/n", "/m", "/gone"} {
			if _, err := ca.Create(ctx, root+n, []byte("first"), zk.OpenACL(), zk.Persistent); err != nil {
				t.Fatal(err)
			}
		}
		p, stop := startPair(t, a, b, nil, policy)
		both(root+"/n", "first")
		if _, err := cb.Set(ctx, root+"/n", []byte("foreign"), -1); err != nil {
			t.Fatal(err)
		}
		zktest.Eventually(t, 20*time.Second, "the conflict is recorded", func() bool { return len(p.Forward.Conflicts()) > 0 })
		c := p.Forward.Conflicts()[0]
		if c.Path != root+"/n" || !strings.Contains(c.Source, "first") || !strings.Contains(c.Target, "foreign") || c.Policy != policy {
			t.Errorf("%s: recorded %+v", policy, c)
		}
		switch policy {
		case PolicyHome:
			both(root+"/n", "first")
			if err := cb.Delete(ctx, root+"/gone", -1); err != nil {
				t.Fatal(err)
			}
			both(root+"/gone", "first")
			if _, err := cb.Create(ctx, root+"/new", nil, zk.OpenACL(), zk.Persistent); err != nil {
				t.Fatal(err)
			}
			both(root+"/new", "no such node")
		case PolicySource: // the source side is the home here; where it is not, see TestPairPolicies
			both(root+"/n", "first")
		case PolicyLast:
			both(root+"/n", "foreign")
			if err := cb.Delete(ctx, root+"/gone", -1); err != nil {
				t.Fatal(err)
			}
			both(root+"/gone", "no such node")
			if _, err := ca.Set(ctx, root+"/n", []byte("later"), -1); err != nil {
				t.Fatal(err)
			}
			both(root+"/n", "later")
		case PolicyManual:
			if _, err := ca.Set(ctx, root+"/n", []byte("second"), -1); err != nil {
				t.Fatal(err)
			}
			if _, err := ca.Set(ctx, root+"/m", []byte("second"), -1); err != nil {
				t.Fatal(err)
			}
			both(root+"/m", "second") // everything else goes on
			if got := get(cb, root+"/n"); got != "foreign" {
				t.Errorf("a node that waits for a decision became %q", got)
			}
			if err := p.Resolve(ctx, root+"/n", "copy"); err != nil {
				t.Error(err)
			}
			both(root+"/n", "foreign")
			if _, err := cb.Set(ctx, root+"/m", []byte("foreign"), -1); err != nil {
				t.Fatal(err)
			}
			zktest.Eventually(t, 20*time.Second, "the second conflict is recorded", func() bool { return len(p.Forward.Conflicts()) > 1 })
			if err := p.Resolve(ctx, root+"/m", "home"); err != nil {
				t.Error(err)
			}
			both(root+"/m", "second")
			if err := p.Resolve(ctx, root+"/m", "home"); err == nil {
				t.Error("a conflict was resolved twice")
			}
		}
		if _, err := ca.Set(ctx, root+"/m", []byte("end"), -1); err != nil {
			t.Fatal(err)
		}
		both(root+"/m", "end")
		// What others created in the copy has raised its parent's counter, which nothing can lower; all else is equal.
		equalBut(t, a, b, Scope{}, "counter")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// What each policy says about a set, a deletion and a creation in a copy, with the home on either side.
func TestPairPolicies(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	ctx := t.Context()
	clients := map[Home]*zk.Client{HomeSource: a.Client(t, zk.Config{}), HomeTarget: b.Client(t, zk.Config{})}
	var names []string
	for policy, wins := range map[Policy]map[Home]string{ // what is there in the end, by home
		PolicyHome:   {HomeSource: "home", HomeTarget: "home"},
		PolicySource: {HomeSource: "home", HomeTarget: "copy"},
		PolicyLast:   {HomeSource: "copy", HomeTarget: "copy"},
		PolicyManual: {HomeSource: "both", HomeTarget: "both"},
	} {
		root := "/p-" + string(policy)
		if _, err := clients[HomeSource].Create(ctx, root, nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
		for _, home := range []Home{HomeSource, HomeTarget} {
			for _, p := range []string{"", "/set", "/del"} {
				if _, err := clients[HomeSource].Create(ctx, root+"/"+string(home)+p, []byte("old"), zk.OpenACL(), zk.Persistent); err != nil {
					t.Fatal(err)
				}
			}
		}
		p, stop := startPair(t, a, b, nil, policy)
		if err := p.Flip(ctx, root+"/target", HomeTarget); err != nil {
			t.Fatal(err)
		}
		equal(t, a, b, Scope{Source: root})
		for _, home := range []Home{HomeSource, HomeTarget} {
			dir := root + "/" + string(home)
			other := HomeTarget
			fed := p.Forward
			if home == HomeTarget {
				other, fed = HomeSource, p.Back
			}
			c := clients[other]
			if _, err := c.Set(ctx, dir+"/set", []byte("new"), -1); err != nil {
				t.Fatal(err)
			}
			if err := c.Delete(ctx, dir+"/del", -1); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Create(ctx, dir+"/new", []byte("new"), zk.OpenACL(), zk.Persistent); err != nil {
				t.Fatal(err)
			}
			zktest.Eventually(t, 30*time.Second, "three conflicts are recorded", func() bool {
				n := 0
				for _, c := range fed.Conflicts() {
					if zk.Within(c.Path, dir) && c.Policy == policy && c.Pending == (policy == PolicyManual) {
						n++
					}
				}
				return n >= 3
			})
			state := func(h Home) string {
				out := ""
				for _, n := range []string{"set", "del", "new"} {
					data, _, err := clients[h].Get(ctx, dir+"/"+n)
					if err != nil {
						data = []byte("none")
					}
					out += n + "=" + string(data) + " "
				}
				return out
			}
			const old, changed = "set=old del=old new=none ", "set=new del=none new=new "
			atHome, atCopy := old, old
			switch wins[home] {
			case "copy":
				atHome, atCopy = changed, changed
			case "both": // nothing happens until somebody decides
				atCopy = changed
			}
			zktest.Eventually(t, 30*time.Second, fmt.Sprintf("%s, home %s: %q at home, %q in the copy", policy, home, atHome, atCopy), func() bool {
				return state(home) == atHome && state(other) == atCopy
			})
			if policy == PolicyManual {
				for n, keep := range map[string]string{"set": "copy", "del": "home", "new": "copy"} {
					if err := p.Resolve(ctx, dir+"/"+n, keep); err != nil {
						t.Error(err)
					}
				}
				const decided = "set=new del=old new=new "
				zktest.Eventually(t, 30*time.Second, "what was decided is on both sides", func() bool {
					return state(home) == decided && state(other) == decided
				})
			}
			names = append(names, fmt.Sprintf("%s, home %s: %s wins", policy, home, wins[home]))
		}
		equalBut(t, a, b, Scope{Source: root}, "counter")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%q", names)
	if _, err := NewPair(config(a, b), Deps{}, nil, "coin"); err == nil || !strings.Contains(err.Error(), "source") {
		t.Errorf("a policy that is none: %v", err)
	}
}

// A pair mirrors the contenders of an election that it was told of, and leaves them out of what it copies.
func TestPairElection(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	ctx := t.Context()
	ca, cb := a.Client(t, zk.Config{}), b.Client(t, zk.Config{})
	for _, p := range []string{"/mesos", "/mesos/state"} {
		if _, err := ca.Create(ctx, p, []byte("x"), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	join := func(c *zk.Client) string {
		p, err := c.Create(ctx, "/mesos/masters/json.info_", []byte("who"), zk.OpenACL(), zk.EphemeralSequential)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if _, err := ca.Create(ctx, "/mesos/masters", nil, zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	first := join(ca)
	cfg := config(a, b)
	cfg.Source.Auth, cfg.Elections = super(), []string{"/mesos/masters"}
	p, err := NewPair(cfg, Deps{Log: testLog(t)}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	rctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(rctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wait, stop := context.WithTimeout(ctx, 4*time.Minute)
	defer stop()
	if err := p.Ready(wait); err != nil {
		t.Fatal(err)
	}
	if data, st, err := cb.Get(ctx, first); err != nil || string(data) != "who" || st.EphemeralOwner != 0 {
		t.Fatalf("the mirror: %q %+v %v", data, st, err)
	}
	second := join(cb)
	if second <= first {
		t.Errorf("%s sorts before %s", second, first)
	}
	if err := ca.Delete(ctx, first, -1); err != nil {
		t.Fatal(err)
	}
	zktest.Eventually(t, 20*time.Second, "the target's side leads", func() bool {
		g := p.Elections()[0]
		ok, _, err := cb.Exists(ctx, first)
		return g.Senior == "target" && g.Leader == zk.Name(second) && err == nil && !ok
	})
	if third := join(ca); third <= second {
		t.Errorf("%s sorts before %s", third, second)
	}
	equal(t, a, b, Scope{Exclude: []string{"/mesos/masters"}})
}
