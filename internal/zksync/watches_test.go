package zksync

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// Without the quorum port, by a recursive watch and, from a server that knows none, by one-shot watches: under load in which nodes and
// whole subtrees are deleted and created again all the time, when connections break, the source's server or the target's is killed, the
// engine is started anew: everything that clients can see is equal afterwards, ACLs, versions and counters included.
func TestWatches(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"recursive", "one-shot"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			cfg := config(a, b)
			cfg.Source.Auth, cfg.Watches, cfg.FullRead = super(), true, time.Hour
			p := zktest.NewProxy(t, a.Nodes[0].Client)
			cfg.Source.Servers = []string{p.Addr()}
			if mode == "one-shot" {
				old, refused := zktest.NewFakeOldServer(t, p.Addr())
				cfg.Source.Servers = []string{old}
				defer func() {
					if refused() == 0 {
						t.Error("the old server was asked for nothing that it does not know")
					}
				}()
			}
			q := zktest.NewProxy(t, b.Nodes[0].Client)
			cfg.Target.Servers = []string{q.Addr()}
			a.Churn(t, a.Base(t), 1, 300)
			e, stop := start(t, cfg)
			ready(t, e)
			restart := func(n *zktest.Node) {
				n.Kill()
				if err := n.Start(); err != nil {
					t.Fatal(err)
				}
				n.Await(t)
			}
			faults := []struct {
				name string
				do   func()
			}{
				{"none", func() {}},
				{"source's connection breaks", p.Break},
				{"target's connection breaks", q.Break},
				{"source's server killed", func() { restart(a.Nodes[0]) }},
				{"target's server killed", func() { restart(b.Nodes[0]) }},
				{"engine started anew", func() {
					if err := stop(); err != nil {
						t.Fatal(err)
					}
					cfg.FullRead = time.Second
					e, stop = start(t, cfg)
				}},
				{"link cut 3 s", func() {
					p.Stall(true)
					time.Sleep(3 * time.Second) // longer than the session
					p.Stall(false)
					p.Break()
				}},
			}
			for i, f := range faults {
				var wg sync.WaitGroup
				halt := make(chan struct{})
				base := a.Base(t)
				stormy := a.Base(t)
				wg.Go(func() { a.Disturbed(t, base, uint64(i), halt, new(atomic.Int64)) })
				wg.Go(func() { a.Storm(t, stormy, uint64(i), 400) })
				f.do()
				close(halt)
				wg.Wait()
				a.Churn(t, a.Base(t), uint64(10+i), 200)
				// Until it reads everything every second, changed ACLs are not to be seen: the rest shows that no event was missed.
				sameForClients(t, a, b, cfg.FullRead == time.Second)
				t.Logf("%s: 0 differences", f.name)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// sameForClients waits until two ensembles are equal as clients see them, kinds apart.
func sameForClients(t *testing.T, a, b *zktest.Ensemble, acls bool) {
	t.Helper()
	ca, cb := a.Client(t, zk.Config{Auth: super()}), b.Client(t, zk.Config{Auth: super()})
	defer ca.Close()
	defer cb.Close()
	var proof Proof
	deadline := time.Now().Add(3 * time.Minute)
	for {
		var err error
		proof, err = Compare(t.Context(), Side{Client: ca}, Side{Client: cb}, Scope{}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if !acls {
			proof.Differences = slices.DeleteFunc(proof.Differences, func(d tree.Difference) bool { return d.What == "acl" || d.What == "aversion" })
		}
		if len(proof.Differences) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d differences: %+v", len(proof.Differences), proof.Differences[:min(len(proof.Differences), 10)])
		}
		time.Sleep(100 * time.Millisecond) // between polls of a condition with a deadline
	}
}
