package spec

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func settings() *Settings {
	return &Settings{Role: "*", PortMin: 10000, PortMax: 20000, Features: []string{"secrets", "gpu_resources", "external_volumes"}}
}

// TestGolden reads every testdata/*.in.json as an app and compares what is emitted, or the problems found, with the golden
// file beside it.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.in.json")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d inputs: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := readAndEmit(t, filepath.Base(f), in)
			golden := strings.TrimSuffix(f, ".in.json") + ".golden.json"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func readAndEmit(t *testing.T, name string, in []byte) []byte {
	t.Helper()
	r := NewRoot(settings(), 1)
	v, err := Decode(in)
	var s *Spec
	if err == nil {
		if strings.HasPrefix(name, "pod") {
			var p *Pod
			if p, err = ReadPod(v, RootID, r.set); err == nil {
				s = OfPod(p)
			}
		} else {
			var a *App
			if a, err = ReadApp(v, "", RootID, r.set); err == nil {
				s = OfApp(a)
			}
		}
	}
	if err == nil {
		if err = r.Put(s, 1_500_000_000_123, false); err == nil {
			s = r.Get(s.ID)
			reread(t, s)
		}
	}
	var out any
	var bad *Invalid
	switch {
	case errors.As(err, &bad):
		out = bad
	case err != nil:
		out = err.Error()
	case s.Pod != nil:
		out = s.Pod
	default:
		out = s.App
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// reread checks that what is emitted and what is stored give the same definition again.
func reread(t *testing.T, s *Spec) {
	t.Helper()
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Unmarshal(b)
	if err != nil {
		t.Fatal(err)
	}
	b2, _ := again.Marshal()
	if d := cmp.Diff(string(b), string(b2)); d != "" {
		t.Errorf("stored and read again, -first +second\n%s", d)
	}
	if !again.SameConfig(s) {
		t.Error("stored and read again it counts as a change")
	}
	if s.App != nil {
		o, err := toObject(s.App)
		if err != nil {
			t.Fatal(err)
		}
		a, err := ReadApp(o, "", RootID, settings())
		if err != nil {
			t.Fatalf("what was emitted is refused: %v", err)
		}
		if !OfApp(a).SameConfig(s) {
			t.Error("reading what was emitted counts as a change")
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ id, base, want string }{
		{"a", "/", "/a"}, {"/a/b/", "/", "/a/b"}, {"../db", "/prod/web", "/prod/db"}, {"//a//b", "/", "/a/b"}, {"..", "/", "/"}, {"./x", "/g", "/g/x"},
	} {
		if got := Resolve(c.id, c.base); got != c.want {
			t.Errorf("Resolve(%q, %q) = %q, want %q", c.id, c.base, got, c.want)
		}
	}
	for id, ok := range map[string]bool{
		"/a": true, "/a.b/c-d": true, "/A": false, "/a_b": false, "/-a": false, "/a-": false, "/a/restart": false, "/a/tasks": false, "/": false, "/versions/x": true, "/a..b": false,
	} {
		if err := CheckRunSpecID(id); (err == nil) != ok {
			t.Errorf("CheckRunSpecID(%q) = %v", id, err)
		}
	}
	if got := DiscoveryName("/a/b/c"); got != "c.b.a" {
		t.Errorf("DiscoveryName = %q", got)
	}
	if got := FromSafeID(SafeID("/a/b.c/d-e")); got != "/a/b.c/d-e" {
		t.Errorf("FromSafeID(SafeID) = %q", got)
	}
}

func app(t *testing.T, body string) *App {
	t.Helper()
	v, err := Decode([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	a, err := ReadApp(v, "", RootID, settings())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestVersionsFollowWhatChanged(t *testing.T) {
	t.Parallel()
	r := NewRoot(settings(), 1)
	put := func(body string, now Version, restart bool) *Spec {
		t.Helper()
		if err := r.Put(OfApp(app(t, body)), now, restart); err != nil {
			t.Fatal(err)
		}
		return r.Get("/a")
	}
	check := func(s *Spec, v, scaled, config Version) {
		t.Helper()
		if s.Version != v || s.ScaledAt != scaled || s.ConfigAt != config {
			t.Errorf("version %d scaled %d config %d, want %d %d %d", s.Version, s.ScaledAt, s.ConfigAt, v, scaled, config)
		}
	}
	check(put(`{"id":"a","cmd":"sleep 1"}`, 10, false), 10, 10, 10)
	first := r.Get("/a").App.PortDefinitions[0].Port
	check(put(`{"id":"a","cmd":"sleep 1"}`, 20, false), 10, 10, 10)
	check(put(`{"id":"a","cmd":"sleep 1","instances":3}`, 30, false), 30, 30, 10)
	check(put(`{"id":"a","cmd":"sleep 1","instances":3,"labels":{"x":"y"}}`, 40, false), 40, 40, 40)
	check(put(`{"id":"a","cmd":"sleep 1","instances":3,"labels":{"x":"y"}}`, 50, true), 50, 40, 50)
	if got := r.Get("/a").App.PortDefinitions[0].Port; got != first {
		t.Errorf("the service port went from %d to %d", first, got)
	}
}

func TestPartialUpdateReplacesTopLevelKeys(t *testing.T) {
	t.Parallel()
	r := NewRoot(settings(), 1)
	a := app(t, `{"id":"a","cmd":"sleep 1","env":{"A":"1","B":"2"},"upgradeStrategy":{"minimumHealthCapacity":0.3},"resourceLimits":{"cpus":"unlimited"}}`)
	if err := r.Put(OfApp(a), 10, false); err != nil {
		t.Fatal(err)
	}
	u, err := CanonicalApp(Object{"env": Object{"C": "3"}, "instances": json.Number("4")}, "")
	if err != nil {
		t.Fatal(err)
	}
	o, err := OverlayApp(r.Get("/a").App, u)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadApp(o, "", RootID, settings())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]EnvVar{"C": {Value: "3"}}, got.Env); d != "" {
		t.Error(d)
	}
	if got.Cmd != "sleep 1" || got.Instances != 4 || got.UpgradeStrategy.MinimumHealthCapacity != 0.3 || got.ResourceLimits != nil {
		t.Errorf("got %+v", got)
	}
}

func TestGroupAndAppShareOneNamespace(t *testing.T) {
	t.Parallel()
	r := NewRoot(settings(), 1)
	if err := r.Put(OfApp(app(t, `{"id":"/g/a","cmd":"sleep 1"}`)), 10, false); err != nil {
		t.Fatal(err)
	}
	var bad *Invalid
	if err := r.Put(OfApp(app(t, `{"id":"/g","cmd":"sleep 1"}`)), 11, false); !errors.As(err, &bad) {
		t.Errorf("an app took the id of a group: %v", err)
	}
	if err := r.Put(OfApp(app(t, `{"id":"/g/a/b","cmd":"sleep 1"}`)), 11, false); !errors.As(err, &bad) {
		t.Errorf("an app was put beneath an app: %v", err)
	}
	if err := r.PutGroup(&Group{ID: "/g/a"}, 12); !errors.As(err, &bad) {
		t.Errorf("a group took the id of an app: %v", err)
	}
}

func TestCircularDependencies(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"apps":        `{"apps":[{"id":"a","cmd":"sleep 1","dependencies":["b"]},{"id":"b","cmd":"sleep 1","dependencies":["a"]}]}`,
		"self":        `{"apps":[{"id":"a","cmd":"sleep 1","dependencies":["a"]}]}`,
		"groups":      `{"groups":[{"id":"x","dependencies":["/y"],"apps":[{"id":"a","cmd":"sleep 1"}]},{"id":"y","dependencies":["/x"],"apps":[{"id":"a","cmd":"sleep 1"}]}]}`,
		"empty group": `{"groups":[{"id":"x","dependencies":["/y"]},{"id":"y","dependencies":["/x"]}]}`,
	} {
		r := NewRoot(settings(), 1)
		v, _ := Decode([]byte(body))
		err := r.UpdateGroup(RootID, v, 10, nil)
		var bad *Invalid
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), "cyclic") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := NewRoot(settings(), 1)
	v, _ := Decode([]byte(`{"id":"/","groups":[{"id":"web","dependencies":["/db"],"apps":[{"id":"w1","cmd":"sleep 1"},{"id":"w2","cmd":"sleep 1","dependencies":["w1"]}]},{"id":"db","apps":[{"id":"d","cmd":"sleep 1"}]}]}`))
	if err := r.UpdateGroup(RootID, v, 10, nil); err != nil {
		t.Fatal(err)
	}
	layers, ok := r.Layers([]string{"/web/w2", "/web/w1", "/db/d"})
	if d := cmp.Diff([][]string{{"/db/d"}, {"/web/w1"}, {"/web/w2"}}, layers); !ok || d != "" {
		t.Error(d)
	}
}

func TestGroupUpdateReplacesWhatItLists(t *testing.T) {
	t.Parallel()
	r := NewRoot(settings(), 1)
	do := func(id, body string, now Version) error {
		v, err := Decode([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return r.UpdateGroup(id, v, now, nil)
	}
	ids := func() []string {
		var out []string
		for s := range r.Specs(RootID) {
			out = append(out, s.ID)
		}
		return out
	}
	if err := do("/p", `{"apps":[{"id":"a","cmd":"sleep 1","instances":3},{"id":"/p/b","cmd":"sleep 1"}],"groups":[{"id":"sub","apps":[{"id":"c","cmd":"sleep 1"}]}]}`, 10); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/p/a", "/p/b", "/p/sub/c"}, ids()); d != "" {
		t.Error(d)
	}
	if err := do("/p", `{"apps":[{"id":"a","cmd":"sleep 1","instances":3}]}`, 20); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/p/a", "/p/sub/c"}, ids()); d != "" {
		t.Error(d)
	}
	if err := do("/p", `{"scaleBy":1.5}`, 30); err != nil || r.Get("/p/a").Instances() != 5 {
		t.Errorf("scaleBy: %v, %d instances", err, r.Get("/p/a").Instances())
	}
	if err := do("/p", `{"groups":[]}`, 40); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/p/a"}, ids()); d != "" {
		t.Error(d)
	}
	if err := do("/p", `{"apps":[{"id":"/q/x","cmd":"sleep 1"}]}`, 50); err == nil {
		t.Error("an app of another group was accepted")
	}
}

func TestServicePortsStayUnique(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		set := settings()
		set.PortMax = set.PortMin + 40
		r := NewRoot(set, 1)
		now := Version(1)
		before := map[string][]int{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now++
			id := rapid.SampledFrom([]string{"/a", "/b", "/c/d", "/c/e"}).Draw(t, "id")
			c := r.Clone()
			if rapid.Bool().Draw(t, "remove") {
				c.Remove(id, now)
				delete(before, id)
				r = c
				continue
			}
			n := rapid.IntRange(0, 6).Draw(t, "ports")
			a := &App{ID: id, Cmd: "sleep 1", Networks: []Network{{Mode: NetworkHost}}, PortDefinitions: make([]PortDefinition, n), Labels: map[string]string{}}
			if err := c.Put(OfApp(a), now, false); err != nil {
				t.Fatal(err)
			}
			r = c
			got := r.Get(id).App.ServicePorts()
			for i := range min(len(got), len(before[id])) {
				if got[i] != before[id][i] {
					t.Fatalf("%s had %v and has %v", id, before[id], got)
				}
			}
			before[id] = got
			seen := map[int]string{}
			for id, ports := range before {
				for _, p := range ports {
					if p == 0 || seen[p] != "" {
						t.Fatalf("port %d of %s: also %s", p, id, seen[p])
					}
					seen[p] = id
				}
			}
		}
	})
}

func TestSelector(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"a": "1", "b": "x.y", "odd key": "v"}
	for q, want := range map[string]bool{
		"a": true, "z": false, "a==1": true, "a!=1": false, "a!=2": true, "z!=1": false, "a in (1, 2)": true, "a notin (1,2)": false,
		"a notin (3)": true, "a==1,b==x.y": true, "a==1,b==q": false, `odd\ key==v`: true,
	} {
		s, err := ParseSelector(q)
		if err != nil {
			t.Errorf("%q: %v", q, err)
			continue
		}
		if got := s.Matches(labels); got != want {
			t.Errorf("%q = %v", q, got)
		}
	}
	for _, q := range []string{"", "a=", "==1", "a in 1", "a in (1", "a,,b", "a==1 2"} {
		if _, err := ParseSelector(q); err == nil {
			t.Errorf("%q was accepted", q)
		}
	}
}

func FuzzReadApp(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.in.json")
	for _, n := range files {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			return
		}
		s := settings()
		if p, err := ReadPod(v, RootID, s); err == nil {
			r := NewRoot(s, 1)
			_ = r.Put(OfPod(p), 2, false)
		}
		_ = NewRoot(s, 1).UpdateGroup("/g", v, 2, nil)
		a, err := ReadApp(v, "", RootID, s)
		if err != nil {
			return
		}
		r := NewRoot(s, 1)
		if err := r.Put(OfApp(a), 2, false); err != nil {
			return
		}
		reread(t, r.Get(a.ID))
	})
}

func FuzzSelector(f *testing.F) {
	f.Add("a==1,b in (x,y)")
	f.Fuzz(func(_ *testing.T, q string) {
		if s, err := ParseSelector(q); err == nil {
			s.Matches(map[string]string{"a": "1"})
		}
	})
}

func TestAutoscale(t *testing.T) {
	t.Parallel()
	a, ok, err := ReadAutoscale(map[string]string{LabelAutoMin: "2", LabelAutoMax: "10", LabelAutoTarget: "50"})
	if err != nil || !ok {
		t.Fatal(err)
	}
	for _, c := range []struct {
		now  int
		sum  float64
		want int
	}{
		{4, 200, 4}, {4, 210, 4}, {4, 300, 6}, {4, 4000, 8}, {8, 100, 4}, {3, 10, 2}, {8, 800, 10}, {0, 0, 2}, {1, 50, 2}, {20, 1000, 10},
	} {
		if got := a.Want(c.now, c.sum); got != c.want {
			t.Errorf("%d instances with %v in all: %d, want %d", c.now, c.sum, got, c.want)
		}
	}
	for _, bad := range []map[string]string{
		{LabelAutoMax: "x"}, {LabelAutoMax: "3", LabelAutoMin: "4"}, {LabelAutoMax: "3", LabelAutoTarget: "-1"}, {LabelAutoMax: "3", LabelAutoMetric: "rate(x[1m])"}, {LabelAutoMax: "3", LabelAutoCool: "0s"}, {LabelAutoMin: "1"},
	} {
		if _, _, err := ReadAutoscale(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	if _, ok, err := ReadAutoscale(nil); ok || err != nil {
		t.Error("without labels there is nothing to scale")
	}
}
