package zktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Churn does n random changes of every kind below base, pipelined: creations of all modes, sets, deletions, ACLs, multis that
// succeed and fail, and sessions that end with ephemeral nodes. The same seed does the same on an idle server.
func (e *Ensemble) Churn(tb testing.TB, base string, seed uint64, n int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	rng := rand.New(rand.NewPCG(seed, 1))
	c := e.Client(tb, zk.Config{Chroot: base, Auth: []zk.Auth{{Scheme: "digest", Data: []byte("u:p")}}, MaxQueue: 1 << 20})
	defer c.Close()
	open := zk.OpenACL()
	acls := [][]zk.ACL{open, open, open, append(zk.CreatorACL(), zk.ReadACL()...), {{Perms: zk.PermAll, Scheme: "ip", ID: "127.0.0.1"}}}
	path := func() string { // of a node that may or may not be there
		p := fmt.Sprintf("/d%d", rng.IntN(8))
		for range rng.IntN(3) {
			p += fmt.Sprintf("/n%d", rng.IntN(12))
		}
		return p
	}
	data := func() []byte {
		b := make([]byte, rng.IntN(200))
		for i := range b {
			b[i] = byte('a' + rng.IntN(26))
		}
		return b
	}
	write := func() zk.Op {
		switch rng.IntN(20) {
		case 0, 1, 2, 3, 4:
			return zk.Create(path(), data(), acls[rng.IntN(len(acls))], zk.Persistent)
		case 5:
			return zk.Create2(path()+"/s-", data(), open, zk.PersistentSequential)
		case 6:
			return zk.Create(path()+fmt.Sprintf("/c%d", rng.IntN(5)), nil, open, zk.Container)
		case 7:
			return zk.CreateTTL(path()+fmt.Sprintf("/t%d", rng.IntN(5)), data(), open, zk.PersistentTTL, time.Duration(1+rng.IntN(1000))*time.Hour)
		case 8, 9:
			return zk.Delete(path(), zk.AnyVersion)
		default:
			return zk.Set(path(), data(), zk.AnyVersion)
		}
	}
	expected := func(r zk.Result, err error) error {
		for _, ok := range []zk.Error{zk.ErrNoNode, zk.ErrNodeExists, zk.ErrNotEmpty, zk.ErrNoChildrenForEphemerals, zk.ErrBadVersion} {
			if errors.Is(err, ok) {
				return nil
			}
		}
		return err
	}
	w := c.NewWindow(200)
	for i := range n {
		var op zk.Op
		switch k := rng.IntN(20); {
		case k == 0:
			ops := []zk.Op{write(), write(), write()}
			op = zk.Multi(ops...)
		case k == 1:
			p := fmt.Sprintf("/m%d", i)
			op = zk.Multi(zk.Create(p, data(), open, zk.Persistent), zk.Create(p+"/a", nil, open, zk.Persistent), zk.Set(p, data(), 0), zk.Delete(p+"/a", 0))
		case k == 2:
			op = zk.SetACL(path(), acls[rng.IntN(len(acls))], zk.AnyVersion)
		case k == 3:
			op = zk.Create(strings.Replace(path(), "/d", "/e", 1), data(), open, zk.Ephemeral)
		default:
			op = write()
		}
		if err := w.Send(ctx, op, expected); err != nil {
			tb.Fatal(err)
		}
		if i%97 == 0 { // another session comes, leaves something, and goes
			s := e.Client(tb, zk.Config{Chroot: base})
			for j := range 1 + rng.IntN(4) {
				if _, err := s.Do(ctx, zk.Create(fmt.Sprintf("/eph-%d-%d", i, j), data(), open, zk.EphemeralSequential)); err != nil {
					tb.Fatal(err)
				}
			}
			s.Close()
		}
	}
	if err := w.Wait(ctx); err != nil {
		tb.Fatal(err)
	}
}

// Disturbed changes nodes below base until stop is closed, whatever happens to the servers: what fails is passed over, what is
// acknowledged is counted.
func (e *Ensemble) Disturbed(tb testing.TB, base string, seed uint64, stop <-chan struct{}, acknowledged *atomic.Int64) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	c, err := zk.New(zk.Config{Servers: e.Servers(), Chroot: base, Renew: true, SessionTimeout: 4 * time.Second}, zk.Deps{})
	if err != nil {
		tb.Error(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { <-stop; cancel() }()
	w := c.NewWindow(100)
	for i := 0; ctx.Err() == nil; i++ {
		p := fmt.Sprintf("/f%d", rng.IntN(300))
		op := zk.Set(p, fmt.Append(nil, seed, i), zk.AnyVersion)
		switch rng.IntN(10) {
		case 0:
			op = zk.Create(p, nil, zk.OpenACL(), zk.Persistent)
		case 1:
			op = zk.Create(p+"/s-", nil, zk.OpenACL(), zk.PersistentSequential)
		case 2:
			op = zk.Delete(p, zk.AnyVersion)
		case 3:
			op = zk.Create("/e-", nil, zk.OpenACL(), zk.EphemeralSequential)
		}
		_ = w.Send(ctx, op, func(_ zk.Result, err error) error {
			if err == nil {
				acknowledged.Add(1)
			}
			return nil
		})
		if i%20 == 0 {
			time.Sleep(5 * time.Millisecond) // the pace of the load
		}
	}
}

// Storm deletes nodes and creates them again below base, n times in all, pipelined, so that a reader sees most of it as if it had
// been a change: leaves, whole subtrees in one transaction and step by step, nodes that were written to often before, parents of
// sequential nodes. What fails, because something before it did, is passed over.
func (e *Ensemble) Storm(tb testing.TB, base string, seed uint64, n int) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	c, err := zk.New(zk.Config{Servers: e.Servers(), Chroot: base, Renew: true, SessionTimeout: 4 * time.Second}, zk.Deps{})
	if err != nil {
		tb.Error(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w := c.NewWindow(300)
	passed := 0
	send := func(op zk.Op) {
		if err := w.Send(ctx, op, func(_ zk.Result, err error) error { // callbacks run one at a time
			if err == nil {
				passed++
			}
			return nil
		}); err != nil && ctx.Err() != nil {
			tb.Error(err)
		}
	}
	create := func(p string) zk.Op {
		return zk.Create(p, fmt.Append(nil, p, rng.IntN(1000)), zk.OpenACL(), zk.Persistent)
	}
	for i := range n {
		top := fmt.Sprintf("/p%d", rng.IntN(6))
		kids := []string{top + "/a", top + "/b", top + "/b/c", top + "/b/c/d"}
		switch rng.IntN(8) {
		case 0: // a subtree in one transaction: it is there, but another
			ops := []zk.Op{}
			for j := range kids {
				ops = append(ops, zk.Delete(kids[len(kids)-1-j], zk.AnyVersion))
			}
			ops = append(ops, zk.Delete(top, zk.AnyVersion), create(top))
			for _, k := range kids[:1+rng.IntN(len(kids))] {
				ops = append(ops, create(k))
			}
			send(zk.Multi(ops...))
		case 1: // step by step
			for j := range kids {
				send(zk.Delete(kids[len(kids)-1-j], zk.AnyVersion))
			}
			send(zk.Delete(top, zk.AnyVersion))
			send(create(top))
			for _, k := range kids {
				send(create(k))
			}
		case 2: // a leaf, in one transaction or two
			if k := top + "/b/c/d"; rng.IntN(2) == 0 {
				send(zk.Multi(zk.Delete(k, zk.AnyVersion), create(k)))
			} else {
				send(zk.Delete(k, zk.AnyVersion))
				send(create(k))
			}
		case 3: // a parent of sequential nodes goes with them, and its counter begins anew
			q := fmt.Sprintf("/q%d", rng.IntN(3))
			send(create(q))
			for range 1 + rng.IntN(4) {
				send(zk.Create(q+"/s-", nil, zk.OpenACL(), zk.PersistentSequential))
			}
			for j := range 12 {
				send(zk.Delete(fmt.Sprintf("%s/s-%010d", q, j), zk.AnyVersion))
			}
			send(zk.Delete(q, zk.AnyVersion))
			send(create(q))
			send(zk.Create(q+"/s-", nil, zk.OpenACL(), zk.PersistentSequential))
		case 4: // a leaf that comes and goes
			send(create(top + "/e"))
			send(zk.Delete(top+"/e", zk.AnyVersion))
		default: // versions that a new node does not have
			for range 1 + rng.IntN(5) {
				send(zk.Set(append(kids, top)[rng.IntN(len(kids)+1)], fmt.Append(nil, i), zk.AnyVersion))
			}
		}
		if i%10 == 0 {
			time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond) // the pace of the load
		}
	}
	_ = w.Wait(ctx)
	if passed < n/4 {
		tb.Errorf("only %d of the storm's operations took effect", passed)
	}
}
