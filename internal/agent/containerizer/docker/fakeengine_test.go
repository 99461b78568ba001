package docker

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// fakeEngine answers what a launch asks, at once; a container's ID is its name: what a launch takes against it is our time alone.
type fakeEngine struct {
	create time.Duration // how long it makes a container
	mu     sync.Mutex
	ends   map[string]chan struct{}
}

func (f *fakeEngine) end(name string) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ends[name] == nil {
		f.ends[name] = make(chan struct{})
	}
	return f.ends[name]
}

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // or the connection ends with the answer
	w.Header().Set("Api-Version", "1.41")
	path := r.URL.Path
	if i := strings.Index(path, "/containers/"); i >= 0 {
		path = path[i+len("/containers/"):]
	}
	name, verb, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(r.URL.Path, "/_ping"):
	case strings.Contains(r.URL.Path, "/images/"):
		_, _ = io.WriteString(w, `{"Id":"sha256:1"}`)
	case name == "create":
		time.Sleep(f.create)
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"Id":%q}`, r.URL.Query().Get("name"))
	case verb == "attach":
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		<-f.end(name)
	case verb == "start":
		w.WriteHeader(http.StatusNoContent)
	case verb == "json":
		_, _ = fmt.Fprintf(w, `{"Id":%q,"State":{"Running":true,"Pid":0},"Config":{},"NetworkSettings":{}}`, name)
	case verb == "wait":
		<-f.end(name)
		_, _ = io.WriteString(w, `{"StatusCode":0}`)
	case verb == "kill":
		select {
		case <-f.end(name):
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"message":"it is not running"}`)
		default:
			close(f.end(name))
			w.WriteHeader(http.StatusNoContent)
		}
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// fakeNetworks answers what is asked about networks: in one of them are containers that the Engine does not have.
type fakeNetworks struct {
	endpoints map[string]string // container ID, or "ep-…" where there is none -> name
	there     string            // the name that a stranger's container has taken
	mu        sync.Mutex
	cut       []string
}

func (f *fakeNetworks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	switch path := r.URL.Path[strings.LastIndex(r.URL.Path, "/networks")+1:]; {
	case strings.HasSuffix(r.URL.Path, "/containers/"+f.there+"/json"):
		_, _ = io.WriteString(w, `{"Id":"1","Config":{"Labels":{}}}`)
	case strings.Contains(r.URL.Path, "/containers/"):
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message":"No such container"}`)
	case path == "networks":
		_, _ = io.WriteString(w, `[{"Id":"gone","Name":"gone"},{"Id":"shop","Name":"shop"}]`)
	case path == "networks/shop":
		in := map[string]map[string]string{}
		for key, name := range f.endpoints {
			in[key] = map[string]string{"Name": name}
		}
		_, _ = io.WriteString(w, asJSON(map[string]any{"Id": "shop", "Name": "shop", "Containers": in}))
	case path == "networks/shop/disconnect":
		b, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.cut = append(f.cut, strings.TrimSpace(string(b)))
		f.mu.Unlock()
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message":"No such network"}`)
	}
}

// TestForgottenEndpoints: what the Engine does not have any more is taken out of its networks, if it was ours, and nobody else's. A
// real Engine comes to that by chance only.
func TestForgottenEndpoints(t *testing.T) {
	t.Parallel()
	f := &fakeNetworks{there: namePrefix + "renamed", endpoints: map[string]string{
		"ep-1": namePrefix + "lost", "ep-2": namePrefix + "theirs", "ep-3": "lost", "ep-4": namePrefix + "renamed", "5": namePrefix + "runs",
	}}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	c, err := New(Config{Socket: socket, WorkDir: t.TempDir(), RuntimeDir: t.TempDir(), Helper: helperPath, Cgroups: cgroup.Config{Root: dockertest.Name("orchestrator-docker-test-")}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.sweepEndpoints(t.Context(), map[ids.Container]bool{"lost": true, "renamed": true}); err != nil {
		t.Fatal(err)
	}
	if want := []string{`{"Container":"mesos-lost","Force":true}`}; !slices.Equal(f.cut, want) {
		t.Errorf("taken out: %s, want %s", f.cut, want)
	}
}

// BenchmarkOnTop is GOALS row 10 without the Engine's share and without its noise: a launch, and the same calls by hand,
// against an Engine that does nothing. Ours starts its helper while the Engine makes the container, which takes a real one some
// 30 ms: the second figure is what of ours is seen then.
func BenchmarkOnTop(b *testing.B) {
	for _, create := range []time.Duration{0, 30 * time.Millisecond} {
		b.Run("create="+create.String(), func(b *testing.B) { onTop(b, create) })
	}
}

func onTop(b *testing.B, create time.Duration) {
	f := &fakeEngine{create: create, ends: map[string]chan struct{}{}}
	socket := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	d := hostOn(b, &dockertest.Engine{Socket: socket}).start(nil, inMemory(b))
	defer d.end()
	var ours, plain, toRunning []time.Duration
	i := 0
	for b.Loop() {
		i++
		launch, running, hand, _ := pair(b, d, ids.Container(fmt.Sprintf("b%d", i)), "true")
		ours, toRunning, plain = append(ours, launch), append(toRunning, running), append(plain, hand)
	}
	b.ReportMetric(medianMS(ours), "launch-p50-ms")
	b.ReportMetric(medianMS(toRunning), "running-p50-ms")
	b.ReportMetric(medianMS(plain), "by-hand-p50-ms")
	b.ReportMetric(medianMS(ours)-medianMS(plain), "on-top-ms")
	_ = os.RemoveAll(d.h.dir)
}
