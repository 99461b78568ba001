package election

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Target{
		"localhost":                           {Addresses: []string{"localhost:5050"}},
		"http://10.0.0.1:80/":                 {Addresses: []string{"10.0.0.1:80"}},
		"a:1, b:2":                            {Addresses: []string{"a:1", "b:2"}},
		"[::1]:5050":                          {Addresses: []string{"[::1]:5050"}},
		"::1":                                 {Addresses: []string{"[::1]:5050"}},
		"zk://localhost:2181/mesos":           {ZooKeeper: &ZooKeeper{Servers: []string{"localhost:2181"}, Path: "/mesos"}},
		"zk://u:p@w@a,b:2182/x/y/":            {ZooKeeper: &ZooKeeper{Servers: []string{"a:2181", "b:2182"}, Path: "/x/y", User: "u", Password: "p@w"}},
		"zk://a:1,[fe80::1]:2,c/services/one": {ZooKeeper: &ZooKeeper{Servers: []string{"a:1", "[fe80::1]:2", "c:2181"}, Path: "/services/one"}},
	} {
		got, err := ParseTarget(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", in, d)
		}
	}
	for in, want := range map[string]string{
		"":                          "has no valid host",
		"a:0":                       "has no valid port",
		"a:1:2":                     "is not host:port",
		"a,,b":                      "has no valid host",
		"https://a:1":               "not host:port",
		"zk://a:1":                  "path must not be empty",
		"zk://a:1/":                 "path must not be empty",
		"zk://a:1/x//y":             "component",
		"zk:///mesos":               "has no valid host",
		"zk://user@a:1/mesos":       "user:password@",
		"zk://u:secret@a:99999/m":   "has no valid port",
		"zk://u:secret@a:1/m/../..": "component",
	} {
		_, err := ParseTarget(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not say %q", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password is in the error: %v", in, err)
		}
	}
}

func TestTargetText(t *testing.T) {
	t.Parallel()
	var target Target
	if err := target.UnmarshalText([]byte("zk://u:secret@a,b:2/mesos")); err != nil {
		t.Fatal(err)
	}
	if got, want := target.String(), "zk://u:***@a:2181,b:2/mesos"; got != want {
		t.Errorf("text is %q, want %q", got, want)
	}
	if err := target.UnmarshalText(nil); err != nil || !target.IsZero() {
		t.Errorf("empty text: %v, %v", target, err)
	}
	if err := target.UnmarshalText([]byte("/")); err == nil {
		t.Error("a wrong target was taken")
	}
}

func TestBoard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Board
		a := &Leader{ID: "1", Address: "a:1"}
		got := make(chan *Leader)
		for range 2 {
			go func() {
				l, err := b.Detect(t.Context(), nil)
				if err != nil {
					t.Error(err)
				}
				got <- l
			}()
		}
		synctest.Wait()
		b.Set(nil) // no news
		b.Set(a)
		for range 2 {
			if l := <-got; l != a {
				t.Errorf("detected %v", l)
			}
		}
		// The same address in a new term is news; an out-of-date previous is answered at once.
		b.Set(&Leader{ID: "2", Address: "a:1"})
		if l, err := b.Detect(t.Context(), a); err != nil || l.ID != "2" {
			t.Error(l, err)
		}
		b.Set(nil)
		if l, err := b.Detect(t.Context(), a); err != nil || l != nil {
			t.Error(l, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Detect(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	f.Add("zk://u:p@a:1,b/x")
	f.Add("[::1]:80,c")
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			return
		}
		if target.IsZero() {
			t.Fatalf("%q gives nothing", s)
		}
		if target.ZooKeeper != nil && target.ZooKeeper.User != "" {
			return // the password is hidden
		}
		again, err := ParseTarget(target.String())
		if err != nil {
			t.Fatalf("%q -> %q: %v", s, target, err)
		}
		if d := cmp.Diff(target, again); d != "" {
			t.Fatalf("%q -> %q: %s", s, target, d)
		}
	})
}
