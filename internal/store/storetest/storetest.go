// Package storetest is the suite that every implementation of store.Store passes. It is the precise form of the contract.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/store"
)

// Fixture makes stores. Open returns the store of the given name; opening it again after Close gives what was kept.
type Fixture struct {
	Open func(t testing.TB, name string) store.Store
}

// Run runs the suite.
func Run(t *testing.T, f Fixture) {
	for name, test := range map[string]func(*testing.T, Fixture){
		"ReadYourWrites": readYourWrites, "Conflicts": conflicts, "Fencing": fencing, "Reopen": reopen, "Limits": limits, "Order": order,
		"Closed": closed, "Concurrent": concurrent, "Model": model, "Context": cancelled, "OwnBytes": ownBytes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}

func open(t *testing.T, f Fixture) (store.Store, store.Writer) {
	t.Helper()
	s := f.Open(t, "s")
	t.Cleanup(func() { _ = s.Close() })
	w, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s, w
}

func put(key, value string) store.Put { return store.Put{Key: key, Value: []byte(value)} }

func must(t *testing.T, w store.Writer, txn store.Txn) {
	t.Helper()
	if err := w.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
}

func list(t testing.TB, s store.Store, prefix string) string {
	t.Helper()
	entries, err := s.List(context.Background(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s=%s@%d ", e.Key, e.Value, e.Version)
	}
	return b.String()
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func readYourWrites(t *testing.T, f Fixture) {
	s, w := open(t, f)
	_, err := s.Get(t.Context(), "agents/a")
	wantErr(t, err, store.ErrNotFound)
	must(t, w, store.Txn{Puts: []store.Put{put("agents/b", "2"), put("agents/a", "1"), put("agentsx", "x"), put("quota/dev", "")}})
	must(t, w, store.Txn{Puts: []store.Put{put("agents/a", "1a")}, Deletes: []string{"nothing"}})
	e, err := s.Get(t.Context(), "agents/a")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(store.Entry{Key: "agents/a", Value: []byte("1a"), Version: 2}, e); d != "" {
		t.Error(d)
	}
	if got, want := list(t, s, "agents/"), "agents/a=1a@2 agents/b=2@1 "; got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
	must(t, w, store.Txn{Deletes: []string{"agents/a"}})
	must(t, w, store.Txn{Puts: []store.Put{put("agents/a", "again")}})
	if got, want := list(t, s, ""), "agents/a=again@1 agents/b=2@1 agentsx=x@1 quota/dev=@1 "; got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
	if got := list(t, s, "none/"); got != "" {
		t.Errorf("list of nothing is %q", got)
	}
}

func conflicts(t *testing.T, f Fixture) {
	s, w := open(t, f)
	must(t, w, store.Txn{Checks: []store.Check{{Key: "k"}}, Puts: []store.Put{put("k", "1")}})
	for _, checks := range [][]store.Check{{{Key: "k"}}, {{Key: "k", Version: 2}}, {{Key: "k", Version: 1}, {Key: "other", Version: 1}}} {
		err := w.Txn(t.Context(), store.Txn{Checks: checks, Puts: []store.Put{put("k", "no"), put("new", "no")}, Deletes: []string{"x"}})
		wantErr(t, err, store.ErrConflict)
	}
	must(t, w, store.Txn{Checks: []store.Check{{Key: "k", Version: 1}, {Key: "other"}}, Puts: []store.Put{put("k", "2")}})
	if got, want := list(t, s, ""), "k=2@2 "; got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
}

func fencing(t *testing.T, f Fixture) {
	s, old := open(t, f)
	must(t, old, store.Txn{Puts: []store.Put{put("k", "old")}})
	later, err := s.Claim(t.Context(), old.Epoch()+5)
	if err != nil {
		t.Fatal(err)
	}
	if later.Epoch() != old.Epoch()+5 {
		t.Errorf("epoch is %d", later.Epoch())
	}
	wantErr(t, old.Txn(t.Context(), store.Txn{Puts: []store.Put{put("k", "late")}}), store.ErrFenced)
	must(t, later, store.Txn{Puts: []store.Put{put("k", "new")}})
	for _, epoch := range []uint64{1, later.Epoch()} {
		_, err := s.Claim(t.Context(), epoch)
		wantErr(t, err, store.ErrFenced)
	}
	must(t, later, store.Txn{Puts: []store.Put{put("k", "newer")}})
	next, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if next.Epoch() <= later.Epoch() {
		t.Errorf("epoch %d does not follow %d", next.Epoch(), later.Epoch())
	}
	if got, want := list(t, s, ""), "k=newer@3 "; got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
}

func reopen(t *testing.T, f Fixture) {
	s, w := open(t, f)
	must(t, w, store.Txn{Puts: []store.Put{put("a/b", "1"), put("c", "2")}})
	must(t, w, store.Txn{Puts: []store.Put{put("c", "3")}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = f.Open(t, "s")
	t.Cleanup(func() { _ = s.Close() })
	if got, want := list(t, s, ""), "a/b=1@1 c=3@2 "; got != want {
		t.Errorf("after reopening: %q, want %q", got, want)
	}
	_, err := s.Claim(t.Context(), w.Epoch())
	wantErr(t, err, store.ErrFenced)
	if _, err := s.Claim(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

func limits(t *testing.T, f Fixture) {
	s, w := open(t, f)
	big := store.Put{Key: "big", Value: make([]byte, store.MaxValue)}
	must(t, w, store.Txn{Puts: []store.Put{big}})
	for name, txn := range map[string]store.Txn{
		"value":     {Puts: []store.Put{{Key: "k", Value: make([]byte, store.MaxValue+1)}}},
		"sum":       {Puts: []store.Put{big, {Key: "k", Value: make([]byte, store.MaxTxn-store.MaxValue)}}},
		"long key":  {Puts: []store.Put{put(strings.Repeat("k", store.MaxKey+1), "")}},
		"empty key": {Puts: []store.Put{put("", "")}},
		"slash":     {Deletes: []string{"/k"}},
		"dots":      {Checks: []store.Check{{Key: "a/../b"}}},
		"control":   {Puts: []store.Put{put("a\nb", "")}},
		"not utf-8": {Puts: []store.Put{put("a\xff", "")}},
		"put twice": {Puts: []store.Put{put("k", "1"), put("k", "2")}},
		"put, del":  {Puts: []store.Put{put("k", "1")}, Deletes: []string{"k"}},
		"count":     {Deletes: make([]string, store.MaxOps+1)},
	} {
		if err := w.Txn(t.Context(), txn); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := s.Get(t.Context(), ""); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("get of an empty key: %v", err)
	}
	if _, err := s.List(t.Context(), "a"); err == nil {
		t.Error("list of a prefix without / is allowed")
	}
	if got := len(list(t, s, "")); got != store.MaxValue+len("big=@1 ") {
		t.Errorf("something was written: %d bytes", got)
	}
}

// order submits dependent transactions without waiting: each one's check holds only if all before it took effect in order.
func order(t *testing.T, f Fixture) {
	s, w := open(t, f)
	const n = 200
	var done sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		done.Add(1)
		w.Submit(store.Txn{
			Checks: []store.Check{{Key: "counter", Version: uint64(i)}},
			Puts:   []store.Put{put("counter", fmt.Sprint(i+1))},
		}, func(err error) { errs[i] = err; done.Done() })
	}
	done.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got, want := list(t, s, ""), fmt.Sprintf("counter=%d@%d ", n, n); got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
}

func closed(t *testing.T, f Fixture) {
	s, w := open(t, f)
	must(t, w, store.Txn{Puts: []store.Put{put("k", "1")}})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Get(t.Context(), "k")
	wantErr(t, err, store.ErrClosed)
	_, err = s.List(t.Context(), "")
	wantErr(t, err, store.ErrClosed)
	_, err = s.Claim(t.Context(), 0)
	wantErr(t, err, store.ErrClosed)
	wantErr(t, w.Txn(t.Context(), store.Txn{}), store.ErrClosed)
}

// concurrent increments one counter from many goroutines, each retrying its conflicts: no increment is lost.
func concurrent(t *testing.T, f Fixture) {
	s, w := open(t, f)
	const workers, each = 8, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := 0; i < each; {
				e, err := s.Get(t.Context(), "counter")
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
					return
				}
				err = w.Txn(t.Context(), store.Txn{
					Checks: []store.Check{{Key: "counter", Version: e.Version}},
					Puts:   []store.Put{put("counter", fmt.Sprint(e.Version+1))},
				})
				switch {
				case err == nil:
					i++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, want := list(t, s, ""), fmt.Sprintf("counter=%d@%d ", workers*each, workers*each); got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
}

func cancelled(t *testing.T, f Fixture) {
	s, w := open(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, "k")
	wantErr(t, err, context.Canceled)
	_, err = s.List(ctx, "")
	wantErr(t, err, context.Canceled)
	_, err = s.Claim(ctx, 0)
	wantErr(t, err, context.Canceled)
	wantErr(t, w.Txn(ctx, store.Txn{Puts: []store.Put{put("k", "1")}}), context.Canceled)
	if got := list(t, s, ""); got != "" {
		t.Errorf("a cancelled transaction was written: %q", got)
	}
}

func ownBytes(t *testing.T, f Fixture) {
	s, w := open(t, f)
	value := []byte("abc")
	errs := make(chan error, 1)
	w.Submit(store.Txn{Puts: []store.Put{{Key: "k", Value: value}}}, func(err error) { errs <- err })
	copy(value, "xyz")
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	e, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	copy(e.Value, "...")
	if got, want := list(t, s, ""), "k=abc@1 "; got != want {
		t.Errorf("list is %q, want %q", got, want)
	}
}

// model compares random histories with a plain map.
func model(t *testing.T, f Fixture) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		name := fmt.Sprintf("model%d", run)
		s := f.Open(t, name)
		defer func() { _ = s.Close() }()
		w, err := s.Claim(t.Context(), 0)
		if err != nil {
			rt.Fatal(err)
		}
		want := map[string]store.Entry{}
		key := rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "ab", "b/1", "b/2"})
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "op") {
			case 0:
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = f.Open(t, name)
				fallthrough
			case 1:
				if w, err = s.Claim(t.Context(), 0); err != nil {
					rt.Fatal(err)
				}
			default:
				txn := store.Txn{}
				ok := true
				for _, k := range rapid.SliceOfNDistinct(key, 0, 2, rapid.ID[string]).Draw(rt, "checks") {
					v := uint64(rapid.IntRange(0, 2).Draw(rt, "version"))
					txn.Checks = append(txn.Checks, store.Check{Key: k, Version: v})
					ok = ok && want[k].Version == v
				}
				for i, k := range rapid.SliceOfNDistinct(key, 0, 4, rapid.ID[string]).Draw(rt, "changes") {
					if i%3 == 2 {
						txn.Deletes = append(txn.Deletes, k)
					} else {
						txn.Puts = append(txn.Puts, store.Put{Key: k, Value: []byte(rapid.StringN(0, 5, 20).Draw(rt, "value"))})
					}
				}
				err := w.Txn(t.Context(), txn)
				if ok != (err == nil) || err != nil && !errors.Is(err, store.ErrConflict) {
					rt.Fatalf("transaction %+v: %v, allowed: %v", txn, err, ok)
				}
				if !ok {
					continue
				}
				for _, p := range txn.Puts {
					want[p.Key] = store.Entry{Key: p.Key, Value: p.Value, Version: want[p.Key].Version + 1}
				}
				for _, k := range txn.Deletes {
					delete(want, k)
				}
			}
			got, err := s.List(t.Context(), "")
			if err != nil {
				rt.Fatal(err)
			}
			all := map[string]store.Entry{}
			for _, e := range got {
				all[e.Key] = e
			}
			if d := cmp.Diff(want, all, cmp.Comparer(func(a, b []byte) bool { return string(a) == string(b) })); d != "" {
				rt.Fatal(d)
			}
		}
	})
}
