package zk_test

import (
	"context"
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

func TestMain(m *testing.M) { os.Exit(zktest.Tests{M: m}.Run()) }

func TestMultiAnswersPerOperation(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	c := e.Client(t, zk.Config{Chroot: base})
	ctx := t.Context()
	res, err := c.Multi(ctx,
		zk.Create("/a", []byte("1"), zk.OpenACL(), zk.Persistent),
		zk.Create2("/b-", nil, zk.OpenACL(), zk.PersistentSequential),
		zk.Create("/c", nil, zk.OpenACL(), zk.Container),
		zk.CreateTTL("/t", nil, zk.OpenACL(), zk.PersistentTTL, time.Minute),
		zk.Set("/a", []byte("2"), 0),
		zk.Check("/a", 1),
		zk.Delete("/a", 1),
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(res) != 7 || res[0].Path != "/a" || res[1].Path != "/b-0000000001" || res[4].Stat.Version != 1 {
		t.Errorf("results %+v", res)
	}
	// A client is not told what kind container and TTL nodes are of; the learner's tests see it.
	if res[2].Stat.Czxid == 0 || res[3].Stat.Czxid != res[2].Stat.Czxid {
		t.Errorf("container and ttl nodes: %+v, %+v", res[2].Stat, res[3].Stat)
	}
	// A failed multi says 0 in its header: the errors are in the body.
	res, err = c.Multi(ctx, zk.Set("/c", []byte("x"), -1), zk.Check("/none", 0), zk.Delete("/c", -1))
	var m *zk.MultiError
	if !errors.As(err, &m) || m.Index != 1 || !errors.Is(err, zk.ErrNoNode) {
		t.Errorf("err %v", err)
	}
	if len(res) != 3 || res[2].Err != zk.ErrRuntimeInconsistency {
		t.Errorf("results %+v", res)
	}
	if d, _, err := c.Get(ctx, "/c"); err != nil || len(d) != 0 {
		t.Errorf("the failed multi had an effect: %q, %v", d, err)
	}
	got, err := c.MultiRead(ctx, zk.Get("/c"), zk.Get("/none"), zk.Children("/"))
	if err != nil || got[0].Err != 0 || got[1].Err != zk.ErrNoNode || len(got[2].Children) != 3 {
		t.Errorf("multiRead %+v, %v", got, err)
	}
	if res, err := c.Multi(ctx); err != nil || len(res) != 0 {
		t.Errorf("empty multi: %v, %v", res, err)
	}
}

func TestOrderedPipeline(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	c := e.Client(t, zk.Config{Chroot: base})
	const n = 5000
	var order []int
	var last int32
	done := make(chan struct{})
	if _, err := c.Create(t.Context(), "/n", nil, zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		err := c.Send(zk.Set("/n", fmt.Append(nil, i), int32(i)), func(r zk.Result, err error) {
			if err != nil {
				t.Errorf("set %d: %v", i, err)
			}
			order = append(order, i)
			last = r.Stat.Version
			if i == n-1 {
				close(done)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if !slices.IsSorted(order) || len(order) != n || last != n {
		t.Errorf("%d answers, sorted %v, last version %d", len(order), slices.IsSorted(order), last)
	}
}

type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) watch() *zk.Watch {
	return zk.NewWatch(func(ev zk.Event) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if ev.Type == zk.EventSession {
			e.list = append(e.list, "session "+ev.State.String())
			return
		}
		e.list = append(e.list, ev.Type.String()+" "+ev.Path)
	})
}

func (e *events) get() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func (e *events) expect(t *testing.T, want ...string) {
	t.Helper()
	zktest.Eventually(t, 10*time.Second, fmt.Sprintf("events %q", want), func() bool { return len(e.get()) >= len(want) })
	if diff := cmp.Diff(want, e.get()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func do(t *testing.T, c *zk.Client, ops ...zk.Op) {
	t.Helper()
	for _, op := range ops {
		if _, err := c.Do(t.Context(), op); err != nil && !(op.Code == zk.OpExists && errors.Is(err, zk.ErrNoNode)) {
			t.Fatal(err)
		}
	}
}

func TestWatches(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	c := e.Client(t, zk.Config{Chroot: base})
	other := e.Client(t, zk.Config{Chroot: base})
	do(t, other, zk.Create("/a", nil, zk.OpenACL(), zk.Persistent))
	var data, exist, child, pers, rec, gone events
	do(t, c,
		zk.Get("/a").Watched(data.watch()),
		zk.Exists("/later").Watched(exist.watch()),
		zk.Children("/a").Watched(child.watch()),
		zk.AddWatch("/a", zk.WatchPersistent, pers.watch()),
		zk.AddWatch("/", zk.WatchPersistentRecursive, rec.watch()),
		zk.Get("/a").Watched(gone.watch()),
		zk.RemoveWatches("/a", zk.WatchData),
	)
	// The removal took both data watches; one is set again.
	do(t, c, zk.Get("/a").Watched(data.watch()))
	do(t, other,
		zk.Set("/a", []byte("x"), -1),
		zk.Set("/a", []byte("y"), -1),
		zk.Create("/a/b", nil, zk.OpenACL(), zk.Persistent),
		zk.Create("/later", nil, zk.OpenACL(), zk.Persistent),
		zk.Delete("/a/b", -1),
		zk.Delete("/a", -1),
	)
	data.expect(t, "changed /a")
	exist.expect(t, "created /later")
	child.expect(t, "children /a")
	pers.expect(t, "changed /a", "changed /a", "children /a", "children /a", "deleted /a")
	rec.expect(t, "changed /a", "changed /a", "created /a/b", "created /later", "deleted /a/b", "deleted /a")
	if g := gone.get(); len(g) != 0 {
		t.Errorf("a removed watch fired: %q", g)
	}
	do(t, c, zk.RemoveWatches("/", zk.WatchAny))
	do(t, other, zk.Set("/later", nil, -1))
	do(t, c, zk.Sync("/"))
	if g := rec.get(); len(g) != 6 {
		t.Errorf("a removed recursive watch fired: %q", g)
	}
}

// Connections that break again and again, under load: what was answered holds, in order, once; watches are set again.
func TestReconnects(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	p := zktest.NewProxy(t, e.Nodes[0].Client)
	var states events
	c := e.Client(t, zk.Config{Servers: []string{p.Addr()}, Chroot: base, SessionTimeout: 30 * time.Second, OnState: func(s zk.State) {
		states.mu.Lock()
		states.list = append(states.list, s.String())
		states.mu.Unlock()
	}})
	session := c.Session().ID
	direct := e.Client(t, zk.Config{Chroot: base})
	do(t, c, zk.Create("/n", nil, zk.OpenACL(), zk.Persistent), zk.Create("/eph", nil, zk.OpenACL(), zk.Ephemeral))
	var oneshot, pers events
	do(t, c, zk.Exists("/fire").Watched(oneshot.watch()), zk.AddWatch("/n", zk.WatchPersistent, pers.watch()))

	acked, lost := 0, 0
	version := int32(0)
	for i := range 300 {
		if i%30 == 29 {
			p.Break()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		st, err := c.Set(ctx, "/n", fmt.Append(nil, i), zk.AnyVersion)
		cancel()
		switch {
		case err == nil:
			acked++
			if st.Version <= version {
				t.Fatalf("set %d: version went from %d to %d", i, version, st.Version)
			}
			version = st.Version
		case errors.Is(err, zk.ErrConnectionLoss):
			lost++
		default:
			t.Fatal(err)
		}
	}
	_, st, err := direct.Get(t.Context(), "/n")
	if err != nil {
		t.Fatal(err)
	}
	if int(st.Version) < acked || int(st.Version) > acked+lost {
		t.Errorf("%d acknowledged, %d unknown, but the version is %d", acked, lost, st.Version)
	}
	if c.Session().ID != session {
		t.Error("the session changed")
	}
	if ok, _, err := direct.Exists(t.Context(), "/eph"); !ok || err != nil {
		t.Errorf("the ephemeral node is gone: %v", err)
	}
	// A change made while the connection is down fires the one-shot watch afterwards.
	p.Refuse(true)
	p.Break()
	do(t, direct, zk.Create("/fire", nil, zk.OpenACL(), zk.Persistent))
	p.Refuse(false)
	oneshot.expect(t, "created /fire")
	do(t, c, zk.Sync("/"))
	before := len(pers.get())
	do(t, direct, zk.Set("/n", []byte("last"), -1))
	zktest.Eventually(t, 5*time.Second, "the persistent watch lives on", func() bool { return len(pers.get()) > before })
	if !slices.Contains(pers.get(), "session disconnected") || !slices.Contains(pers.get(), "session connected") {
		t.Errorf("the persistent watch was not told of the reconnect: %q", pers.get()[:4])
	}
	if s := states.get(); len(s) < 3 || s[0] != "connected" || s[1] != "disconnected" || s[2] != "connected" {
		t.Errorf("states %q", s)
	}
}

func TestSessionResumedAndExpired(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	first := e.Client(t, zk.Config{Chroot: base, SessionTimeout: 6 * time.Second}) // it is resumed in time on a busy machine, too
	do(t, first, zk.Create("/eph", nil, zk.OpenACL(), zk.Ephemeral))
	s := first.Session()
	first.Abandon()
	second := e.Client(t, zk.Config{Chroot: base, SessionTimeout: 6 * time.Second, Session: s, Renew: true})
	if second.Session().ID != s.ID {
		t.Fatalf("session %x, want %x", second.Session().ID, s.ID)
	}
	r, err := second.Do(t.Context(), zk.GetEphemerals("/"))
	if err != nil || !slices.Equal(r.Children, []string{"/eph"}) {
		t.Fatalf("ephemerals %q, %v", r.Children, err)
	}
	if second.AliveUntil().Before(time.Now()) {
		t.Error("a connected session is said to be dead")
	}
	if r, err := second.Do(t.Context(), zk.WhoAmI()); err != nil || len(r.Clients) == 0 {
		t.Errorf("whoAmI %v, %v", r.Clients, err)
	}
	second.Abandon()

	p := zktest.NewProxy(t, e.Nodes[0].Client)
	var w events
	third := e.Client(t, zk.Config{Servers: []string{p.Addr()}, Chroot: base, SessionTimeout: 2 * time.Second, Renew: true})
	old := third.Session().ID
	do(t, third, zk.Exists("/x").Watched(w.watch()))
	p.Refuse(true)
	p.Break()
	zktest.Eventually(t, 10*time.Second, "the first sessions' ephemeral node is removed", func() bool {
		ok, _, err := e.Client(t, zk.Config{Chroot: base}).Exists(t.Context(), "/eph")
		return err == nil && !ok
	})
	waiting := make(chan error, 1)
	if err := third.Send(zk.Get("/"), func(_ zk.Result, err error) { waiting <- err }); err != nil {
		t.Fatal(err)
	}
	p.Refuse(false)
	if err := <-waiting; !errors.Is(err, zk.ErrSessionExpired) {
		t.Errorf("a request of the expired session was answered %v", err)
	}
	w.expect(t, "session expired")
	if _, _, err := third.Children(t.Context(), "/"); err != nil {
		t.Errorf("the renewed session does not work: %v", err)
	}
	if third.Session().ID == old {
		t.Error("the session is still the old one")
	}
	third.Close()
	if _, _, err := third.Children(t.Context(), "/"); !errors.Is(err, zk.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAuthAndACL(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	owner := e.Client(t, zk.Config{Chroot: base, Auth: []zk.Auth{{Scheme: "digest", Data: []byte("bob:secret")}}})
	other := e.Client(t, zk.Config{Chroot: base})
	do(t, owner, zk.Create("/mine", []byte("x"), zk.CreatorACL(), zk.Persistent))
	if _, _, err := other.Get(t.Context(), "/mine"); !errors.Is(err, zk.ErrNoAuth) {
		t.Errorf("a stranger reads: %v", err)
	}
	acl, _, err := owner.GetACL(t.Context(), "/mine")
	want := []zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: zk.DigestID("bob", "secret")}}
	if diff := cmp.Diff(want, acl); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	parsed, err := zk.ParseACL(want[0].String() + ",world:anyone:r")
	if diff := cmp.Diff(append(want, zk.ReadACL()...), parsed); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	other.AddAuth(zk.Auth{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)})
	if st, err := other.SetACL(t.Context(), "/mine", parsed, 0); err != nil || st.Aversion != 1 {
		t.Errorf("super sets the ACL: %v %+v", err, st)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	base := e.Base(t)
	c := e.Client(t, zk.Config{Chroot: base})
	// The server closes the connection of who sends more than jute.maxbuffer: the client must not let it come to that.
	_, err := c.Create(t.Context(), "/big", make([]byte, 1<<20), zk.OpenACL(), zk.Persistent)
	if !errors.Is(err, zk.ErrTooLarge) {
		t.Errorf("1 MB: %v", err)
	}
	overhead := 8 + 4 + len(base+"/big") + 4 + 4 + 4 + 4 + 5 + 4 + 6 + 4 // header, path, data length, one ACL, flags
	if _, err := c.Create(t.Context(), "/big", make([]byte, 0xfffff-overhead), zk.OpenACL(), zk.Persistent); err != nil {
		t.Errorf("exactly the limit: %v", err)
	}
	for _, path := range []string{"", "x", "/x/", "/a//b", "/./a", "/..", "/a\x00", "/\ufffe", "/a\xff"} {
		if _, _, err := c.Get(t.Context(), path); !errors.Is(err, zk.ErrBadArguments) {
			t.Errorf("path %q: %v", path, err)
		}
	}
	small := e.Client(t, zk.Config{Servers: []string{zktest.NewProxy(t, e.Nodes[0].Client).Addr()}, MaxQueue: 2})
	// Answers cannot be taken while this callback runs, so the queue fills.
	release := make(chan struct{})
	results := make(chan error, 3)
	_ = small.Send(zk.Exists("/"), func(zk.Result, error) { <-release })
	zktest.Eventually(t, 5*time.Second, "the queue is full and says so", func() bool {
		return errors.Is(small.Send(zk.Exists("/"), func(_ zk.Result, err error) {
			select {
			case results <- err:
			default:
			}
		}), zk.ErrOverloaded)
	})
	close(release)
	if err := <-results; err != nil {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	p := zktest.NewProxy(t, "127.0.0.1:1")
	p.Refuse(true)
	c, err := zk.New(zk.Config{Servers: []string{p.Addr()}}, zk.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, _, err = c.Get(ctx, "/x")
	var oe *zk.OpError
	if !errors.As(err, &oe) || !errors.Is(err, context.DeadlineExceeded) || oe.Hint == "" {
		t.Errorf("want a deadline with a hint, got %v", err)
	}
	c.Close()
	if c.State() != zk.StateClosed {
		t.Errorf("state %v", c.State())
	}
}

func TestSASLAndTLSlessRefusal(t *testing.T) {
	t.Parallel()
	e := zktest.Start(t, zktest.Options{JVM: zktest.SASLServer(t, "bob", `p"w`), Config: []string{"sessionRequireClientSASLAuth=true"}})
	c := e.Client(t, zk.Config{SASL: &zk.SASLDigest{Username: "bob", Password: `p"w`}})
	do(t, c, zk.Create("/mine", nil, zk.CreatorACL(), zk.Persistent))
	acl, _, err := c.GetACL(t.Context(), "/mine")
	if err != nil || len(acl) != 1 || acl[0].Scheme != "sasl" || acl[0].ID != "bob" {
		t.Errorf("acl %v, %v", acl, err)
	}
	bad, err := zk.New(zk.Config{Servers: e.Servers(), SASL: &zk.SASLDigest{Username: "bob", Password: "wrong"}}, zk.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	if _, _, err := bad.Get(t.Context(), "/mine"); !errors.Is(err, zk.ErrAuthFailed) {
		t.Errorf("wrong password: %v", err)
	}
	<-bad.Done()
}
