package zksync

import (
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// Three servers a side and what happens to them, under load all the while: leaders killed, servers paused, the link between
// the sides cut, the target down. After each fault and at the end nothing differs, and the source's digests agreed all along.
func TestFaultTable(t *testing.T) {
	t.Parallel()
	zktest.Long(t)
	var a, b *zktest.Ensemble
	var wg sync.WaitGroup
	wg.Go(func() { a = zktest.Start(t, zktest.Options{Servers: 3, HeapMB: 128}) })
	b = zktest.Start(t, zktest.Options{Servers: 3, HeapMB: 128})
	wg.Wait()
	cfg := config(a, b)
	var cut []*zktest.Proxy
	for _, n := range a.Nodes {
		p := zktest.NewProxy(t, n.Quorum)
		cut = append(cut, p)
		cfg.Source.Quorum = append(cfg.Source.Quorum, p.Addr())
	}
	base := a.Base(t)
	e, stop := start(t, cfg)
	ready(t, e)
	rng := rand.New(rand.NewPCG(3, 4))
	killLeader := func(s *zktest.Ensemble) {
		n := s.Leader(t)
		n.Kill()
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"source leader killed", func() { killLeader(a) }},
		{"target leader killed", func() { killLeader(b) }},
		{"source leader paused 12 s", func() { n := a.Leader(t); n.Pause(); time.Sleep(12 * time.Second); n.Resume() }},
		{"link cut 5 s", func() {
			for _, p := range cut {
				p.Stall(true)
			}
			time.Sleep(5 * time.Second)
			for _, p := range cut {
				p.Stall(false)
				p.Break()
			}
		}},
		{"target down 10 s", func() {
			for _, n := range b.Nodes {
				n.Kill()
			}
			time.Sleep(10 * time.Second)
			for _, n := range b.Nodes {
				if err := n.Start(); err != nil {
					t.Fatal(err)
				}
			}
		}},
	}
	rounds := 2
	if os.Getenv("ZK_LONG") == "2" {
		rounds = 8
	}
	seed := uint64(100)
	for range rounds {
		for _, i := range rng.Perm(len(faults)) {
			f := faults[i]
			began := time.Now()
			// The load is in a tolerant client of its own: its requests may be lost with a leader, which is not the matter.
			done := make(chan struct{})
			stopLoad := make(chan struct{})
			seed++
			go func() {
				defer close(done)
				a.Disturbed(t, base, seed, stopLoad)
			}()
			time.Sleep(300 * time.Millisecond) // load before the fault
			f.do()
			time.Sleep(2 * time.Second) // and after it
			close(stopLoad)
			<-done
			for _, s := range []*zktest.Ensemble{a, b} {
				for _, n := range s.Nodes {
					n.Await(t)
				}
			}
			equal(t, a, b, cfg.Scope)
			st := e.Status()
			t.Logf("%-26s 0 differences, %v; transactions %d, reconciles %d, digests equal %d, different %d, conflicts %d", f.name,
				time.Since(began).Round(time.Second), st.Txns, st.Reconciles, st.Digests, st.DigestsBad, st.Conflicts)
			if st.DigestsBad > 0 || st.Phase == PhaseStopped {
				t.Fatalf("%+v", st)
			}
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
