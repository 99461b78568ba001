package marathonclients

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain makes this binary the web service too: with SERVE set it serves until it is told to end, and ends as a service
// behind a proxy should, which is a little later.
func TestMain(m *testing.M) {
	version := os.Getenv("SERVE")
	if version == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: os.Getenv("HOST") + ":" + os.Getenv("PORT"), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && strings.HasPrefix(version, "bad") {
			http.Error(w, "sick", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, version)
	})}
	go func() {
		<-ctx.Done()
		time.Sleep(3 * time.Second) // proxies need a moment to see that this instance goes
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func call(t *testing.T, method, url, body string, v any) int {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if v != nil {
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatalf("%s %s: %d %s: %v", method, url, resp.StatusCode, b, err)
		}
	}
	return resp.StatusCode
}

type proxyClient struct {
	marathon string
	sent     atomic.Int64
	mu       sync.Mutex
	failed   []string
	versions map[string]int
}

// run sends requests to what the text form of /v2/tasks lists, reading the list again before each round, until stop closes.
func (p *proxyClient) run(stop <-chan struct{}) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
		req, _ := http.NewRequest(http.MethodGet, p.marathon+"/v2/tasks", nil)
		req.Header.Set("Accept", "text/plain")
		resp, err := client.Do(req)
		if err != nil {
			p.fail("list: " + err.Error())
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		var ends []string
		for _, line := range strings.Split(string(b), "\n") {
			if f := strings.Split(line, "\t"); len(f) > 2 && f[0] == "web" {
				for _, e := range f[2:] {
					if e != "" {
						ends = append(ends, e)
					}
				}
			}
		}
		if len(ends) == 0 {
			p.fail("no instance is listed")
			continue
		}
		p.sent.Add(1)
		resp, err = client.Get("http://" + ends[n%len(ends)] + "/")
		if err != nil {
			p.fail(err.Error())
			continue
		}
		b, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			p.fail(fmt.Sprintf("%d %v", resp.StatusCode, err))
			continue
		}
		p.mu.Lock()
		p.versions[string(b)]++
		p.mu.Unlock()
	}
}

func (p *proxyClient) fail(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = append(p.failed, what)
}

func webApp(t *testing.T, version string, instances int, labels string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"id":"/web","cmd":"exec %s","cpus":0.1,"mem":32,"instances":%d,"env":{"SERVE":%q},"labels":%s,"taskKillGracePeriodSeconds":30,
		"upgradeStrategy":{"minimumHealthCapacity":0.8,"maximumOverCapacity":0.5},
		"healthChecks":[{"path":"/health","intervalSeconds":1,"timeoutSeconds":20,"gracePeriodSeconds":120,"maxConsecutiveFailures":2}]}`, self, instances, version, labels)
}

type appState struct {
	App struct {
		Instances    int
		TasksRunning int
		TasksHealthy int
		Version      string
		Env          map[string]string
		Deployments  []any
	}
}

// TestNoRequestFails rolls a service of ten instances forward and back, and scales it up and down, under requests.
func TestNoRequestFails(t *testing.T) {
	c := startCluster(t, all)
	settled := func(version string, n int) func() bool {
		return func() bool {
			var a appState
			call(t, "GET", c.Marathon+"/v2/apps/web", "", &a)
			return a.App.TasksHealthy == n && a.App.TasksRunning == n && a.App.Env["SERVE"] == version && len(a.App.Deployments) == 0
		}
	}
	if s := call(t, "POST", c.Marathon+"/v2/apps", webApp(t, "v1", 10, "{}"), nil); s != 201 {
		t.Fatalf("create: %d", s)
	}
	await(t, "10 healthy", settled("v1", 10))
	var first appState
	call(t, "GET", c.Marathon+"/v2/apps/web", "", &first)
	p := &proxyClient{marathon: c.Marathon, versions: map[string]int{}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Add(1)
		go func() { defer wg.Done(); p.run(stop) }()
	}
	step := func(body, version string, n int) {
		t.Helper()
		if s := call(t, "PUT", c.Marathon+"/v2/apps/web", body, nil); s != 200 {
			t.Fatalf("PUT %s: %d", body, s)
		}
		await(t, fmt.Sprintf("%d of %s healthy", n, version), settled(version, n))
	}
	step(webApp(t, "v2", 10, "{}"), "v2", 10)
	step(fmt.Sprintf(`{"version":%q}`, first.App.Version), "v1", 10)
	step(`{"instances":50}`, "v1", 50)
	step(`{"instances":3}`, "v1", 3)
	close(stop)
	wg.Wait()
	t.Logf("%d requests: %v", p.sent.Load(), p.versions)
	if len(p.failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(p.failed), p.sent.Load(), p.failed[:min(5, len(p.failed))])
	}
	if p.versions["v1"] == 0 || p.versions["v2"] == 0 {
		t.Errorf("the requests saw only %v", p.versions)
	}
}

// TestBadCanaryGoesBack: the new version's health checks fail, and nobody has to do anything about it.
func TestBadCanaryGoesBack(t *testing.T) {
	c := startCluster(t, all)
	call(t, "POST", c.Marathon+"/v2/apps", webApp(t, "good", 5, "{}"), nil)
	await(t, "5 healthy", func() bool {
		var a appState
		call(t, "GET", c.Marathon+"/v2/apps/web", "", &a)
		return a.App.TasksHealthy == 5 && len(a.App.Deployments) == 0
	})
	var before struct{ Tasks []struct{ ID string } }
	call(t, "GET", c.Marathon+"/v2/apps/web/tasks", "", &before)
	canary := strings.Replace(webApp(t, "bad", 5, `{"ORCHESTRATOR_STRATEGY":"canary","ORCHESTRATOR_CANARY_MAX_FAILURES":"0"}`), `"gracePeriodSeconds":120`, `"gracePeriodSeconds":1`, 1)
	// All five must stay healthy, so no old one may go before its successor is good.
	canary = strings.Replace(canary, `"minimumHealthCapacity":0.8`, `"minimumHealthCapacity":1`, 1)
	if s := call(t, "PUT", c.Marathon+"/v2/apps/web", canary, nil); s != 200 {
		t.Fatalf("PUT: %d", s)
	}
	await(t, "the good version is back", func() bool {
		var a appState
		call(t, "GET", c.Marathon+"/v2/apps/web", "", &a)
		return a.App.Env["SERVE"] == "good" && a.App.TasksHealthy == 5 && a.App.TasksRunning == 5 && len(a.App.Deployments) == 0
	})
	var after struct{ Tasks []struct{ ID string } }
	call(t, "GET", c.Marathon+"/v2/apps/web/tasks", "", &after)
	was := map[string]bool{}
	for _, x := range before.Tasks {
		was[x.ID] = true
	}
	for _, x := range after.Tasks {
		if !was[x.ID] {
			t.Errorf("%s is none of the tasks from before", x.ID)
		}
	}
}

// TestCrashInEachPhase kills the whole control plane without warning at several moments of a rolling update. Each time it is
// started again the update goes on, and no instance is there twice or missing.
func TestCrashInEachPhase(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	// A command line that no other process of this machine has.
	line := func(n int) string { return fmt.Sprintf("sleep %d00%d", 10000+os.Getpid(), n) }
	c := startIn(t, bin, dir, all)
	call(t, "POST", c.Marathon+"/v2/apps", `{"id":"/job","cmd":"`+line(0)+`","cpus":0.1,"mem":16,"instances":12,"upgradeStrategy":{"minimumHealthCapacity":0.5,"maximumOverCapacity":0.25}}`, nil)
	state := func() (a appState) {
		call(t, "GET", c.Marathon+"/v2/apps/job", "", &a)
		return a
	}
	await(t, "12 run", func() bool { a := state(); return a.App.TasksRunning == 12 && len(a.App.Deployments) == 0 })
	for n, pause := range []time.Duration{0, 60 * time.Millisecond, 200 * time.Millisecond} {
		if s := call(t, "PUT", c.Marathon+"/v2/apps/job", `{"cmd":"`+line(n+1)+`"}`, nil); s != 200 {
			t.Fatalf("PUT: %d", s)
		}
		time.Sleep(pause)
		c.kill()
		c = startIn(t, bin, dir, all)
		await(t, fmt.Sprintf("the update goes on after the crash %v into it", pause), func() bool {
			a := state()
			return a.App.TasksRunning == 12 && len(a.App.Deployments) == 0
		})
		want := state().App.Version
		var tasks struct {
			Tasks []struct{ ID, Version, State string }
		}
		call(t, "GET", c.Marathon+"/v2/apps/job/tasks", "", &tasks)
		seen := map[string]bool{}
		for _, x := range tasks.Tasks {
			if x.Version != want || seen[x.ID] {
				t.Errorf("task %s of version %s, want %s", x.ID, x.Version, want)
			}
			seen[x.ID] = true
		}
		if len(seen) != 12 {
			t.Errorf("%d tasks", len(seen))
		}
		await(t, "12 processes, no more", func() bool {
			return processes(line(n+1)) == 12 && processes(line(n)) == 0
		})
	}
	call(t, "DELETE", c.Marathon+"/v2/apps/job", "", nil)
	await(t, "all processes have ended", func() bool { return processes(line(3)) == 0 })
}

// processes counts this machine's processes with a command line.
func processes(line string) int {
	n := 0
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		if err == nil && strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")) == line {
			n++
		}
	}
	return n
}

// TestVolumesStayAndGo: an app with a persistent volume keeps its data over a new version, and over scaling down and up;
// when it is removed nothing stays reserved.
func TestVolumesStayAndGo(t *testing.T) {
	c := startCluster(t, all)
	state := func() (a appState) {
		call(t, "GET", c.Marathon+"/v2/apps/prod/db", "", &a)
		return a
	}
	settled := func(n int) func() bool {
		return func() bool { a := state(); return a.App.TasksRunning == n && len(a.App.Deployments) == 0 }
	}
	volumes := func() map[string]bool {
		var list struct {
			Tasks []struct {
				LocalVolumes []struct{ PersistenceID string }
			}
		}
		call(t, "GET", c.Marathon+"/v2/apps/prod/db/tasks", "", &list)
		out := map[string]bool{}
		for _, x := range list.Tasks {
			for _, v := range x.LocalVolumes {
				out[v.PersistenceID] = true
			}
		}
		return out
	}
	app := `{"id":"/prod/db","cmd":"%s","role":"prod","cpus":0.1,"mem":32,"instances":2,"container":{"type":"MESOS","volumes":[{"containerPath":"data","persistent":{"size":10}}]}}`
	if s := call(t, "POST", c.Marathon+"/v2/apps", fmt.Sprintf(app, "touch data/mark; sleep 1000"), nil); s != 201 {
		t.Fatalf("create: %d", s)
	}
	await(t, "2 run", settled(2))
	before := volumes()
	if len(before) != 2 {
		t.Fatalf("volumes %v", before)
	}
	// The new version only runs where the old one's mark is.
	call(t, "PUT", c.Marathon+"/v2/apps/prod/db", `{"cmd":"test -e data/mark && sleep 2000"}`, nil)
	await(t, "2 of the new version run", settled(2))
	call(t, "PUT", c.Marathon+"/v2/apps/prod/db", `{"instances":1}`, nil)
	await(t, "1 runs", settled(1))
	call(t, "PUT", c.Marathon+"/v2/apps/prod/db", `{"instances":2}`, nil)
	await(t, "2 run again", settled(2))
	for v := range volumes() {
		if !before[v] {
			t.Errorf("volume %s is new", v)
		}
	}
	call(t, "DELETE", c.Marathon+"/v2/apps/prod/db", "", nil)
	await(t, "nothing is reserved", func() bool {
		var s struct {
			Slaves []struct {
				Reserved map[string]any `json:"reserved_resources"`
			}
		}
		call(t, "GET", c.Master+"/slaves", "", &s)
		return len(s.Slaves) == 1 && len(s.Slaves[0].Reserved) == 0
	})
}
