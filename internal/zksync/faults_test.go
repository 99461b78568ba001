package zksync

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// rig is a link between two ensembles of three servers, with a cuttable way to either side.
type rig struct {
	*testing.T
	a, b   *zktest.Ensemble
	source []*zktest.Proxy // to a's quorum ports
	target []*zktest.Proxy // to b's client ports
	cfg    Config
	e      *Engine
	stop   func() error
	table  [][]any
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t}
	var wg sync.WaitGroup
	// The source keeps 200 transactions and no more for who was away: beyond them it sends a snapshot.
	wg.Go(func() {
		r.a = zktest.Start(t, zktest.Options{Servers: 3, HeapMB: 192, JVM: []string{"-Dzookeeper.snapCount=1000", "-Dzookeeper.commitLogCount=200"}, Config: []string{"zookeeper.snapshotSizeFactor=-1"}})
	})
	r.b = zktest.Start(t, zktest.Options{Servers: 3, HeapMB: 192, JVM: []string{"-Dreadonlymode.enabled=true"}})
	wg.Wait()
	r.cfg = Config{SessionTimeout: 4 * time.Second, QueueBytes: 8 << 20}
	for i := range r.a.Nodes {
		p, q := zktest.NewProxy(t, r.a.Nodes[i].Quorum), zktest.NewProxy(t, r.b.Nodes[i].Client)
		r.source, r.target = append(r.source, p), append(r.target, q)
		r.cfg.Source.Quorum, r.cfg.Target.Servers = append(r.cfg.Source.Quorum, p.Addr()), append(r.cfg.Target.Servers, q.Addr())
	}
	r.cfg.Source.Servers = r.a.Servers()
	r.cfg.Target.Quorum = quorum(r.b)
	r.cfg.Target.Auth = super()
	return r
}

func stall(ps []*zktest.Proxy, d time.Duration) {
	for _, p := range ps {
		p.Stall(true)
	}
	time.Sleep(d) // the fault's length
	for _, p := range ps {
		p.Stall(false)
		p.Break()
	}
}

// restart kills servers as kill -9 does, all at once, and starts them again after a while.
func (r *rig) restart(d time.Duration, nodes ...*zktest.Node) {
	for _, n := range nodes {
		n.Kill()
	}
	time.Sleep(d) // the fault's length
	for _, n := range nodes {
		if err := n.Start(); err != nil {
			r.Error(err)
		}
	}
}

// settle waits until both ensembles serve and the target is equal, and adds a row to the table.
func (r *rig) settle(name string, updates int, began time.Time) {
	r.Helper()
	for _, s := range []*zktest.Ensemble{r.a, r.b} {
		for _, n := range s.Nodes {
			n.Await(r)
		}
	}
	var diffs []tree.Difference
	var nodes int
	deadline := time.Now().Add(5 * time.Minute)
	for {
		zktest.Eventually(r, 2*time.Minute, name+": the engine has written all that it knows of", func() bool {
			st := r.e.Status()
			return st.Phase == PhaseLive && st.SourceQuorum && st.QueueEvents == 0 && st.BehindMS == 0
		})
		va, err := Side{Quorum: quorum(r.a)}.Read(r.Context(), "/")
		if err == nil {
			var vb View
			if vb, err = (Side{Quorum: quorum(r.b)}).Read(r.Context(), "/"); err == nil {
				nodes = va.Tree.Len()
				diffs, err = Diff(va, vb, r.cfg.Scope, 0)
			}
		}
		if err == nil && len(diffs) == 0 {
			break
		}
		if time.Now().After(deadline) || r.e.Status().Phase == PhaseStopped {
			r.Errorf("%s: %v, %d differences, %.500v; %+v", name, err, len(diffs), diffs, r.e.Status())
			break
		}
		time.Sleep(100 * time.Millisecond) // between polls of a condition with a deadline
	}
	versions := 0
	for _, d := range diffs {
		if d.What == "version" {
			versions++
		}
	}
	st := r.e.Status()
	if st.DigestsBad > 0 || st.Conflicts > 0 {
		r.Errorf("%s: %+v, %+v", name, st, r.e.Conflicts())
	}
	r.table = append(r.table, []any{name, updates, nodes, len(diffs), versions, time.Since(began).Round(100 * time.Millisecond), "exact"})
}

func (r *rig) row(name string, f func() (outcome string)) {
	r.Helper()
	began := time.Now()
	outcome := f()
	r.table = append(r.table, []any{name, 0, 0, 0, 0, time.Since(began).Round(100 * time.Millisecond), outcome})
}

func (r *rig) print() {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "fault\tupdates\tnodes\tdifferences\tversions unequal\ttook\tend")
	for _, row := range r.table {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%v\t%s\n", row...)
	}
	_ = w.Flush()
	r.Logf("\n%s", b.String())
}

// Three servers a side and what happens to them, under load all the while. After each fault nothing differs, versions
// included, and the source's own digests agreed all along. ZK_LONG=1 makes the faults as long as they are in life.
func TestFaultTable(t *testing.T) {
	t.Parallel()
	long := os.Getenv("ZK_LONG") != ""
	either := func(short, real time.Duration) time.Duration {
		if long {
			return real
		}
		return short
	}
	r := newRig(t)
	defer r.print()
	base := r.a.Base(t)
	r.e, r.stop = start(t, r.cfg)
	ready(t, r.e)
	leaders := func(s *zktest.Ensemble) {
		kills := 1
		if long {
			kills = 6
		}
		for range kills {
			r.restart(0, s.Leader(t))
			time.Sleep(either(0, 10*time.Second)) // the fault's pace
		}
	}
	away := func(s *zktest.Ensemble) func() {
		return func() { r.restart(either(3*time.Second, 3*time.Minute), s.Nodes...) }
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"two engines at once, the first one paused", func() { r.supersede(base) }},
		{"source's leader killed", func() { leaders(r.a) }},
		{"target's leader killed", func() { leaders(r.b) }},
		{"source down", away(r.a)},
		{"target down", away(r.b)},
		{"partition between engine and source", func() { stall(r.source, either(3*time.Second, time.Minute)) }},
		{"partition between engine and target", func() { stall(r.target, either(3*time.Second, time.Minute)) }},
		{"source's log does not reach back", r.forget},
		{"target slower than the source", r.slow},
		{"target without quorum (read-only mode)", func() { r.restart(either(3*time.Second, time.Minute), r.b.Nodes[:2]...) }},
	}
	if long {
		faults = append(faults, struct {
			name string
			do   func()
		}{"source's leader paused 12 s", func() { n := r.a.Leader(t); n.Pause(); time.Sleep(12 * time.Second); n.Resume() }})
	}
	seed := uint64(100)
	for _, f := range faults {
		began := time.Now()
		var updates atomic.Int64
		var wg sync.WaitGroup
		halt := make(chan struct{})
		seed++
		wg.Go(func() { r.a.Disturbed(t, base, seed, halt, &updates) })
		loaded := func() {
			t.Helper()
			from := updates.Load()
			zktest.Eventually(t, 60*time.Second, "the load goes on", func() bool { return updates.Load() >= from+100 })
		}
		loaded()
		f.do()
		loaded()
		close(halt)
		wg.Wait()
		r.settle(f.name, int(updates.Load()), began)
	}
	wide := 20_000
	if long {
		wide = 100_000
	}
	for _, f := range []struct {
		name string
		do   func() int
	}{
		{"nodes near 1 MB", r.huge},
		{fmt.Sprintf("%d children of one node", wide), func() int { return r.wide(wide) }},
		{"sessions end with thousands of ephemeral nodes", r.sessions},
	} {
		began := time.Now()
		r.settle(f.name, f.do(), began)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
}

// supersede runs a second engine, and keeps the first one from the target for longer than its session lives, so that the second one
// takes over while the first one believes that it is in charge.
func (r *rig) supersede(base string) {
	cfg := r.cfg
	cfg.Target.Servers = r.b.Servers()
	second, stop := start(r, cfg)
	zktest.Eventually(r, 60*time.Second, "the second engine stands by", func() bool { return second.Status().Phase == PhaseStandby })
	for _, p := range r.target {
		p.Stall(true)
	}
	zktest.Eventually(r, 60*time.Second, "the second engine takes over", func() bool { return second.Status().Phase == PhaseLive })
	for _, p := range r.target {
		p.Stall(false)
	}
	zktest.Eventually(r, 60*time.Second, "the first engine is superseded", func() bool { return r.e.Status().Phase == PhaseStandby })
	before := second.Status().Txns
	c := r.a.Client(r, zk.Config{})
	if _, err := c.Set(r.Context(), base, []byte("second"), -1); err != nil {
		r.Fatal(err)
	}
	zktest.Eventually(r, 60*time.Second, "the second engine writes", func() bool { return second.Status().Txns > before })
	if err := stop(); err != nil {
		r.Error(err)
	}
	zktest.Eventually(r, 60*time.Second, "the first engine takes over again", func() bool { return r.e.Status().Phase == PhaseLive })
}

// forget cuts the engine off until the source's servers no longer have what it missed.
func (r *rig) forget() {
	before := r.e.Status().Reconciles
	for _, p := range r.source {
		p.Refuse(true)
		p.Break()
	}
	c := r.a.Client(r, zk.Config{})
	w := c.NewWindow(100)
	base := r.a.Base(r)
	for i := range 600 {
		if err := w.Send(r.Context(), zk.Create(fmt.Sprintf("%s/%d", base, i), nil, zk.OpenACL(), zk.Persistent), nil); err != nil {
			r.Fatal(err)
		}
	}
	if err := w.Wait(r.Context()); err != nil {
		r.Fatal(err)
	}
	for _, p := range r.source {
		p.Refuse(false)
	}
	zktest.Eventually(r, 60*time.Second, "the engine was given a snapshot", func() bool { return r.e.Status().Reconciles > before })
}

// slow delays the target while the source writes more than the engine's queue holds.
func (r *rig) slow() {
	for _, p := range r.target {
		p.Delay(300 * time.Millisecond)
	}
	c := r.a.Client(r, zk.Config{})
	base := r.a.Base(r)
	w := c.NewWindow(200)
	for i := range 3000 {
		op := zk.Set(base, make([]byte, 4000), -1)
		if i%10 == 0 {
			op = zk.Create(base+"/s-", make([]byte, 4000), zk.OpenACL(), zk.PersistentSequential)
		}
		if err := w.Send(r.Context(), op, nil); err != nil {
			r.Fatal(err)
		}
	}
	if err := w.Wait(r.Context()); err != nil {
		r.Fatal(err)
	}
	for _, p := range r.target {
		p.Delay(0)
	}
}

// huge writes the largest nodes that the source takes.
func (r *rig) huge() int {
	c := r.a.Client(r, zk.Config{})
	base := r.a.Base(r)
	updates := 0
	try := func(op zk.Op) {
		if _, err := c.Do(r.Context(), op); err != nil {
			r.Fatal(err)
		}
		updates++
	}
	for i, size := range []int{900_000, 1_048_575 - 100 - len(base), 1_048_575 - 75 - len(base)} {
		path := fmt.Sprintf("%s/%d", base, i)
		data := bytes.Repeat([]byte{byte(i)}, size)
		try(zk.Create(path, data, zk.OpenACL(), zk.Persistent))
		for j := range 3 {
			data[0] = byte(j)
			try(zk.Set(path, data, int32(j)))
		}
		try(zk.Set(path, data[:10], 3))
		try(zk.Set(path, data, 4))
		// In one transaction with others.
		try(zk.Multi(zk.Create(path+"m", data[:size-300], zk.OpenACL(), zk.Persistent), zk.Set(path, nil, 5)))
	}
	for i := range 3 {
		try(zk.Delete(fmt.Sprintf("%s/%dm", base, i), 0))
	}
	return updates
}

// wide makes a node with n children, a few of which go again.
func (r *rig) wide(n int) int {
	c := r.a.Client(r, zk.Config{})
	base := r.a.Base(r)
	w := c.NewWindow(20)
	ctx := r.Context()
	for i := 0; i < n; i += 500 {
		ops := make([]zk.Op, 500)
		for j := range ops {
			ops[j] = zk.Create(fmt.Sprintf("%s/%d", base, i+j), nil, zk.OpenACL(), zk.Persistent)
		}
		if err := w.Send(ctx, zk.Multi(ops...), nil); err != nil {
			r.Fatal(err)
		}
	}
	for i := range 1000 {
		if err := w.Send(ctx, zk.Delete(fmt.Sprintf("%s/%d", base, i*7), 0), nil); err != nil {
			r.Fatal(err)
		}
	}
	if err := w.Wait(ctx); err != nil {
		r.Fatal(err)
	}
	return n + 1000
}

// sessions ends sessions that hold thousands of ephemeral nodes: one is closed, one expires, and one holds more than a request takes.
func (r *rig) sessions() int {
	base := r.a.Base(r)
	updates := 0
	for i, n := range []int{3000, 3000, 12_000} {
		c, err := zk.New(zk.Config{Servers: r.a.Servers(), SessionTimeout: 4 * time.Second}, zk.Deps{})
		if err != nil {
			r.Fatal(err)
		}
		w := c.NewWindow(500)
		for j := range n {
			path := fmt.Sprintf("%s/a-rather-long-name-so-that-the-request-for-all-of-them-is-large-%d-%d", base, i, j)
			if err := w.Send(r.Context(), zk.Create(path, nil, zk.OpenACL(), zk.Ephemeral), nil); err != nil {
				r.Fatal(err)
			}
		}
		if err := w.Wait(r.Context()); err != nil {
			r.Fatal(err)
		}
		if i == 1 {
			c.Abandon()
		} else {
			c.Close()
		}
		updates += 2 * n
	}
	c := r.a.Client(r, zk.Config{})
	zktest.Eventually(r, 60*time.Second, "the abandoned session has expired", func() bool {
		names, _, err := c.Children(context.Background(), base)
		return err == nil && len(names) == 0
	})
	return updates
}

// What is wrong from the beginning is refused with a message that says what to do, and nothing is written where it must not be: wrong
// credentials on either side, a target that takes no writes, one without the operations that the source's nodes need.
func TestFaultRefusals(t *testing.T) {
	t.Parallel()
	sasl := zktest.SASLServer(t, "engine", "secret")
	var a, b *zktest.Ensemble
	var wg sync.WaitGroup
	wg.Go(func() { a = zktest.Start(t, zktest.Options{HeapMB: 96, JVM: sasl}) })
	b = zktest.Start(t, zktest.Options{HeapMB: 96, JVM: sasl})
	wg.Wait()
	r := &rig{T: t, a: a, b: b}
	defer r.print()
	src, tgt := a.Client(t, zk.Config{Auth: super()}), b.Client(t, zk.Config{Auth: super()})
	owner := []zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: zk.DigestID("owner", "right")}}
	for _, p := range []string{"/open", "/secret", "/secret/child"} {
		acl := owner
		if p == "/open" {
			acl = zk.OpenACL()
		}
		if _, err := src.Create(t.Context(), p, []byte("x"), acl, zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	sourceHas := func() string {
		v, err := Side{Quorum: quorum(a)}.Read(t.Context(), "/")
		if err != nil {
			t.Fatal(err)
		}
		list := []string{}
		for n := range v.Tree.Walk("/") {
			list = append(list, fmt.Sprint(n.Path, n.Mzxid, n.Pzxid, n.Version, n.Creations))
		}
		return strings.Join(list, "\n")
	}
	// refused runs an engine that has to stop by itself.
	refused := func(name string, cfg Config, want ...string) {
		t.Helper()
		before := sourceHas()
		defer func() {
			if now := sourceHas(); now != before {
				t.Errorf("%s: the source was written to: before\n%s\nnow\n%s", name, before, now)
			}
		}()
		r.row(name, func() string {
			e, _ := start(t, cfg)
			zktest.Eventually(t, 60*time.Second, name+": the engine stops", func() bool { return e.Status().Phase == PhaseStopped })
			msg := e.Status().Error
			for _, w := range want {
				if !strings.Contains(msg, w) {
					t.Errorf("%s: %q does not say %q", name, msg, w)
				}
			}
			return "stops: " + msg
		})
	}
	link := func(name string) Config {
		cfg := config(a, b)
		cfg.Name = name
		return cfg
	}

	if _, err := tgt.Create(t.Context(), "/stranger", []byte("kept"), zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	refused("a target that is not empty", link("full"), "/stranger", "--overwrite")
	if data, st, err := tgt.Get(t.Context(), "/stranger"); err != nil || string(data) != "kept" || st.Version != 0 {
		t.Errorf("the target was touched: %q %v %v", data, st, err)
	}
	if err := tgt.Delete(t.Context(), "/stranger", -1); err != nil {
		t.Fatal(err)
	}

	cfg := link("wrong-sasl")
	cfg.Target.SASL = &zk.SASLDigest{Username: "engine", Password: "wrong"}
	refused("wrong SASL password at the target", cfg, "authentication failed", "--target-sasl")

	cfg = link("wrong-source-sasl")
	cfg.Source.SASL = &zk.SASLDigest{Username: "engine", Password: "wrong"}
	refused("wrong SASL password at the source", cfg, "authentication failed", "--source-sasl", "--source-quorum")

	cfg = link("watch-sasl")
	cfg.Watches, cfg.Source.SASL = true, &zk.SASLDigest{Username: "engine", Password: "wrong"}
	refused("wrong SASL password at the source, --watches", cfg, "authentication failed", "--source-sasl")

	cfg = link("watch-digest")
	cfg.Watches, cfg.Source.Auth = true, []zk.Auth{{Scheme: "digest", Data: []byte("super:wrong")}}
	refused("wrong digest at the source, --watches", cfg, "/secret", "--source-auth", "super")

	cfg = link("wrong-digest")
	cfg.Target.Auth = []zk.Auth{{Scheme: "digest", Data: []byte("super:wrong")}}
	refused("wrong digest at the target", cfg, "--target-auth", "super")

	// A target that permits no writes to us.
	if _, err := tgt.SetACL(t.Context(), "/zksync", zk.ReadACL(), -1); err != nil {
		t.Fatal(err)
	}
	cfg = link("read-only")
	cfg.Target.Auth = nil
	refused("a target that may only be read", cfg, stateRoot, "--target-auth")
	if _, err := tgt.SetACL(t.Context(), "/zksync", zk.OpenACL(), -1); err != nil {
		t.Fatal(err)
	}

	// A target that knows neither containers nor TTL nodes, as 3.4.
	old, _ := zktest.NewFakeOldServer(t, b.Nodes[0].Client)
	for p, op := range map[string]zk.Op{
		"/box": zk.Create("/box", nil, zk.OpenACL(), zk.Container), "/brief": zk.CreateTTL("/brief", nil, zk.OpenACL(), zk.PersistentTTL, time.Hour),
	} {
		if _, err := src.Do(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		// An empty container may go at any moment.
		if _, err := src.Create(t.Context(), p+"/child", nil, zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
		cfg = link("old" + zk.Name(p))
		cfg.Scope.Source, cfg.Target.Servers, cfg.Target.Quorum = p, []string{old}, quorum(b)
		refused("a target like 3.4, "+p, cfg, p, "3.5", "--exclude")
	}
	// Everything else it takes.
	before := sourceHas()
	r.row("a target like 3.4, nodes that it knows", func() string {
		cfg := link("plain")
		cfg.Scope.Source, cfg.Target.Servers, cfg.Target.Quorum, cfg.Overwrite = "/open", []string{old}, quorum(b), true
		e, stop := start(t, cfg)
		ready(t, e)
		if err := tgt.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, a, b, cfg.Scope)
		if err := stop(); err != nil {
			t.Error(err)
		}
		return "exact"
	})
	if now := sourceHas(); now != before {
		t.Errorf("the source was written to: before\n%s\nnow\n%s", before, now)
	}
}
