package zk_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	gozk "github.com/go-zookeeper/zk"
	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// node is what both clients must say about a node.
type node struct {
	Data     string
	Version  int32
	Aversion int32
	Children []string
	Eph      bool
}

// client is what the suite asks of a ZooKeeper client; errors are ours.
type client interface {
	create(path, data string, mode int32) (string, error)
	set(path, data string, version int32) error
	del(path string, version int32) error
	read(path string) (node, error)
	setACL(path string) error
	multi(fail bool, path string) error
	watchData(path string) (<-chan string, error)
	watchChildren(path string) (<-chan string, error)
	watchExists(path string) (bool, <-chan string, error)
	container(path string) error
	ttl(path string, mode int32) (string, error)
	exists(path string) (bool, error)
	acl(path string) (string, error)
	auth(id string) error
	private(path string) error // creates what only the caller's identities may use
	sync(path string) error
	change(set, del string) ([]int32, error) // both in one multi: the new version of set
	reconfig(version int64) error
	close()
}

type ours struct {
	c   *zk.Client
	ctx context.Context
}

func (o ours) create(path, data string, mode int32) (string, error) {
	return o.c.Create(o.ctx, path, []byte(data), zk.OpenACL(), zk.CreateMode(mode))
}

func (o ours) set(path, data string, version int32) error {
	_, err := o.c.Set(o.ctx, path, []byte(data), version)
	return err
}
func (o ours) del(path string, version int32) error { return o.c.Delete(o.ctx, path, version) }

func (o ours) read(path string) (node, error) {
	d, st, err := o.c.Get(o.ctx, path)
	if err != nil {
		return node{}, err
	}
	ch, _, err := o.c.Children(o.ctx, path)
	slices.Sort(ch)
	return node{string(d), st.Version, st.Aversion, ch, st.EphemeralOwner != 0}, err
}

func (o ours) setACL(path string) error {
	_, err := o.c.SetACL(o.ctx, path, []zk.ACL{{Perms: zk.PermRead | zk.PermWrite | zk.PermDelete, Scheme: "world", ID: "anyone"}}, zk.AnyVersion)
	return err
}

func (o ours) multi(fail bool, path string) error {
	v := int32(0)
	if fail {
		v = 99
	}
	_, err := o.c.Multi(o.ctx, zk.Create(path+"/m1", nil, zk.OpenACL(), zk.Persistent), zk.Check(path, v), zk.Create(path+"/m2", nil, zk.OpenACL(), zk.Persistent))
	return err
}

func (o ours) watchData(path string) (<-chan string, error) {
	ch := make(chan string, 1)
	_, err := o.c.Do(o.ctx, zk.Get(path).Watched(zk.NewWatch(func(e zk.Event) { ch <- fmt.Sprint(int32(e.Type), e.Path) })))
	return ch, err
}

func (o ours) watchChildren(path string) (<-chan string, error) {
	ch := make(chan string, 1)
	_, err := o.c.Do(o.ctx, zk.Children(path).Watched(zk.NewWatch(func(e zk.Event) { ch <- fmt.Sprint(int32(e.Type), e.Path) })))
	return ch, err
}

func (o ours) watchExists(path string) (bool, <-chan string, error) {
	ch := make(chan string, 1)
	_, err := o.c.Do(o.ctx, zk.Exists(path).Watched(zk.NewWatch(func(e zk.Event) { ch <- fmt.Sprint(int32(e.Type), e.Path) })))
	if errors.Is(err, zk.ErrNoNode) {
		return false, ch, nil
	}
	return err == nil, ch, err
}

func (o ours) container(path string) error {
	_, err := o.c.Create(o.ctx, path, nil, zk.OpenACL(), zk.Container)
	return err
}

func (o ours) ttl(path string, mode int32) (string, error) {
	r, err := o.c.Do(o.ctx, zk.CreateTTL(path, nil, zk.OpenACL(), zk.CreateMode(mode), time.Hour))
	return r.Path, err
}

func (o ours) exists(path string) (bool, error) {
	ok, _, err := o.c.Exists(o.ctx, path)
	return ok, err
}

func (o ours) acl(path string) (string, error) {
	acl, _, err := o.c.GetACL(o.ctx, path)
	return fmt.Sprint(acl), err
}

func (o ours) auth(id string) error {
	o.c.AddAuth(zk.Auth{Scheme: "digest", Data: []byte(id)})
	return nil
}

func (o ours) private(path string) error {
	_, err := o.c.Create(o.ctx, path, []byte("p"), zk.CreatorACL(), zk.Persistent)
	return err
}
func (o ours) sync(string) error { return o.c.Sync(o.ctx) }

func (o ours) change(set, del string) ([]int32, error) {
	r, err := o.c.Multi(o.ctx, zk.Set(set, []byte("c"), zk.AnyVersion), zk.Delete(del, zk.AnyVersion))
	if err != nil {
		return nil, err
	}
	return []int32{r[0].Stat.Version}, nil
}

func (o ours) reconfig(version int64) error {
	_, err := o.c.Do(o.ctx, zk.Reconfig("", "77", "", version))
	return err
}
func (o ours) close() { o.c.Close() }

type theirs struct{ c *gozk.Conn }

var strangersErrors = map[error]error{
	gozk.ErrNoNode: zk.ErrNoNode, gozk.ErrNodeExists: zk.ErrNodeExists, gozk.ErrBadVersion: zk.ErrBadVersion, gozk.ErrNotEmpty: zk.ErrNotEmpty,
	gozk.ErrNoAuth: zk.ErrNoAuth, gozk.ErrNoChildrenForEphemerals: zk.ErrNoChildrenForEphemerals,
}

func translate(err error) error {
	if e, ok := strangersErrors[err]; ok {
		return e
	}
	return err
}

func (o theirs) create(path, data string, mode int32) (string, error) {
	p, err := o.c.Create(path, []byte(data), mode, gozk.WorldACL(gozk.PermAll))
	return p, translate(err)
}

func (o theirs) set(path, data string, version int32) error {
	_, err := o.c.Set(path, []byte(data), version)
	return translate(err)
}

func (o theirs) del(path string, version int32) error { return translate(o.c.Delete(path, version)) }

func (o theirs) read(path string) (node, error) {
	d, st, err := o.c.Get(path)
	if err != nil {
		return node{}, translate(err)
	}
	ch, _, err := o.c.Children(path)
	slices.Sort(ch)
	if len(ch) == 0 {
		ch = nil
	}
	return node{string(d), st.Version, st.Aversion, ch, st.EphemeralOwner != 0}, translate(err)
}

func (o theirs) setACL(path string) error {
	_, err := o.c.SetACL(path, gozk.WorldACL(gozk.PermRead|gozk.PermWrite|gozk.PermDelete), -1)
	return translate(err)
}

func (o theirs) multi(fail bool, path string) error {
	v := int32(0)
	if fail {
		v = 99
	}
	_, err := o.c.Multi(&gozk.CreateRequest{Path: path + "/m1", Acl: gozk.WorldACL(gozk.PermAll)}, &gozk.CheckVersionRequest{Path: path, Version: v},
		&gozk.CreateRequest{Path: path + "/m2", Acl: gozk.WorldACL(gozk.PermAll)})
	return translate(err)
}

func (o theirs) watchData(path string) (<-chan string, error) {
	_, _, ev, err := o.c.GetW(path)
	ch := make(chan string, 1)
	go func() {
		e := <-ev
		ch <- fmt.Sprint(int32(e.Type), e.Path)
	}()
	return ch, translate(err)
}

func text(ev <-chan gozk.Event) <-chan string {
	ch := make(chan string, 1)
	go func() {
		e := <-ev
		ch <- fmt.Sprint(int32(e.Type), e.Path)
	}()
	return ch
}

func (o theirs) watchChildren(path string) (<-chan string, error) {
	_, _, ev, err := o.c.ChildrenW(path)
	if err != nil {
		return nil, translate(err)
	}
	return text(ev), nil
}

func (o theirs) watchExists(path string) (bool, <-chan string, error) {
	ok, _, ev, err := o.c.ExistsW(path)
	if err != nil {
		return false, nil, translate(err)
	}
	return ok, text(ev), nil
}

func (o theirs) container(path string) error {
	_, err := o.c.CreateContainer(path, nil, gozk.FlagContainer, gozk.WorldACL(gozk.PermAll))
	return translate(err)
}

func (o theirs) ttl(path string, mode int32) (string, error) {
	p, err := o.c.CreateTTL(path, nil, mode, gozk.WorldACL(gozk.PermAll), time.Hour)
	return p, translate(err)
}

func (o theirs) exists(path string) (bool, error) {
	ok, _, err := o.c.Exists(path)
	return ok, translate(err)
}

func (o theirs) acl(path string) (string, error) {
	acl, _, err := o.c.GetACL(path)
	list := []zk.ACL{}
	for _, a := range acl {
		list = append(list, zk.ACL{Perms: zk.Perm(a.Perms), Scheme: a.Scheme, ID: a.ID})
	}
	return fmt.Sprint(list), translate(err)
}
func (o theirs) auth(id string) error { return o.c.AddAuth("digest", []byte(id)) }

func (o theirs) private(path string) error {
	_, err := o.c.Create(path, []byte("p"), 0, []gozk.ACL{{Perms: gozk.PermAll, Scheme: "auth", ID: ""}})
	return translate(err)
}

func (o theirs) sync(path string) error {
	_, err := o.c.Sync(path)
	return translate(err)
}

func (o theirs) change(set, del string) ([]int32, error) {
	r, err := o.c.Multi(&gozk.SetDataRequest{Path: set, Data: []byte("c"), Version: -1}, &gozk.DeleteRequest{Path: del, Version: -1})
	if err != nil {
		return nil, translate(err)
	}
	return []int32{r[0].Stat.Version}, nil
}

func (o theirs) reconfig(version int64) error {
	_, err := o.c.IncrementalReconfig(nil, []string{"77"}, version)
	return translate(err)
}
func (o theirs) close() { o.c.Close() }

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// One suite, two clients: ours, and go-zookeeper which shares no line with it. Each step is done by one and read by both.
func TestSharedSuiteWithGoZookeeper(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	for _, who := range []string{"ours", "go-zookeeper"} {
		t.Run(who, func(t *testing.T) {
			base := e.Base(t)
			conn, _, err := gozk.Connect(e.Servers(), 20*time.Second, gozk.WithLogger(quiet{}))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			us, them := ours{e.Client(t, zk.Config{}), t.Context()}, theirs{conn}
			actor, reader := client(us), client(them)
			if who == "go-zookeeper" {
				actor, reader = them, us
			}
			suite(t, base, actor, reader)
		})
	}
}

func suite(t *testing.T, base string, c, reader client) {
	t.Helper()
	same := func(path string, want node) {
		t.Helper()
		for i, r := range []client{c, reader} {
			got, err := r.read(path)
			if err != nil {
				t.Fatalf("reader %d: %v", i, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("reader %d, %s (-want +got):\n%s", i, path, diff)
			}
		}
	}
	fails := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.create(base+"/a", "1", 0)
	ok(err)
	_, err = c.create(base+"/a", "1", 0)
	fails(err, zk.ErrNodeExists)
	_, err = c.create(base+"/no/b", "1", 0)
	fails(err, zk.ErrNoNode)
	same(base+"/a", node{Data: "1"})
	ch, err := reader.watchData(base + "/a")
	ok(err)
	ok(c.set(base+"/a", "2", 0))
	if got, want := <-ch, fmt.Sprint(3, base+"/a"); got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	fails(c.set(base+"/a", "3", 0), zk.ErrBadVersion)
	same(base+"/a", node{Data: "2", Version: 1})
	for i := range 3 {
		p, err := c.create(base+"/a/s-", "", 2)
		ok(err)
		if want := fmt.Sprintf("%s/a/s-%010d", base, i); p != want {
			t.Errorf("path %q, want %q", p, want)
		}
	}
	ok(c.del(base+"/a/s-0000000001", -1))
	fails(c.del(base+"/a", -1), zk.ErrNotEmpty)
	same(base+"/a", node{Data: "2", Version: 1, Children: []string{"s-0000000000", "s-0000000002"}})
	p, err := c.create(base+"/e", "", 1)
	ok(err)
	same(p, node{Eph: true})
	_, err = c.create(p+"/x", "", 0)
	fails(err, zk.ErrNoChildrenForEphemerals)
	ok(c.setACL(base + "/a"))
	same(base+"/a", node{Data: "2", Version: 1, Aversion: 1, Children: []string{"s-0000000000", "s-0000000002"}})
	_, err = c.create(base+"/a/x", "", 0)
	fails(err, zk.ErrNoAuth)
	_, err = c.create(base+"/m", "", 0)
	ok(err)
	fails(c.multi(true, base+"/m"), zk.ErrBadVersion)
	same(base+"/m", node{})
	ok(c.multi(false, base+"/m"))
	same(base+"/m", node{Children: []string{"m1", "m2"}})

	// Every sort of node, and what is asked about nodes.
	ok(c.container(base + "/box"))
	ok(c.sync(base))
	ok(reader.sync(base))
	same(base+"/box", node{}) // clients are not told what a container's owner says
	p, err = c.ttl(base+"/brief", 5)
	ok(err)
	same(p, node{})
	p, err = c.ttl(base+"/brief-", 6)
	ok(err)
	// Three creations and an ephemeral one came before it.
	if want := fmt.Sprintf("%s/brief-%010d", base, 5); p != want {
		t.Errorf("path %q, want %q", p, want)
	}
	there, seen, err := reader.watchExists(base + "/later")
	ok(err)
	if there {
		t.Error("a node that was not made yet is there")
	}
	kids, err := reader.watchChildren(base)
	ok(err)
	_, err = c.create(base+"/later", "", 0)
	ok(err)
	for _, ev := range []struct {
		ch   <-chan string
		want string
	}{{seen, fmt.Sprint(1, base+"/later")}, {kids, fmt.Sprint(4, base)}} {
		if got := <-ev.ch; got != ev.want {
			t.Errorf("event %q, want %q", got, ev.want)
		}
	}
	for path, want := range map[string]bool{base + "/later": true, base + "/never": false} {
		for i, r := range []client{c, reader} {
			if got, err := r.exists(path); err != nil || got != want {
				t.Errorf("client %d: exists %s is %v, %v", i, path, got, err)
			}
		}
	}
	versions, err := c.change(base+"/a", base+"/later")
	ok(err)
	if want := []int32{2}; !slices.Equal(versions, want) {
		t.Errorf("versions %v, want %v", versions, want)
	}
	// Identities.
	ok(c.auth("me:secret"))
	ok(c.private(base + "/mine"))
	_, err = reader.read(base + "/mine")
	fails(err, zk.ErrNoAuth)
	ok(reader.auth("me:secret"))
	same(base+"/mine", node{Data: "p"})
	want := fmt.Sprint([]zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: zk.DigestID("me", "secret")}})
	for i, r := range []client{c, reader} {
		if got, err := r.acl(base + "/mine"); err != nil || got != want {
			t.Errorf("client %d: acl %s, want %s (%v)", i, got, want, err)
		}
	}
	fails(c.reconfig(-1), zk.ErrNoAuth)
	ok(c.auth("super:" + zktest.SuperPassword))
	fails(c.reconfig(12345), zk.ErrBadVersion)
	// Its session's nodes go with it.
	gone := base + "/e"
	_, seen, err = reader.watchExists(gone)
	ok(err)
	c.close()
	if got, want := <-seen, fmt.Sprint(2, gone); got != want {
		t.Errorf("event %q, want %q", got, want)
	}
}
