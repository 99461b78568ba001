package monitoring

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/heldport"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// TestSoak plays what an estate goes through in a long time, for as long as MONITOR_SOAK says (30m is what the goals are stated
// for; go test needs a -timeout beyond it): MONITOR_SOAK_HOSTS simulated hosts (default 1,000) whose containers are stopped and started, a
// real probe of this host with processes that come and go, a monitor that is killed and one that is ended and started again, a load test next door
// (thousands of connections a second for a moment, in the last third) and a page that looks on. The monitor may have 400 MB resident. Memory and open files of the three programs, and the goroutines of the monitor, which alone tells them, are sampled, and must not
// grow, the monitor's but by what it says that the hour takes that fills; the real probe must be connected for 99.9 % of the time in which there is a monitor to be connected to, counted from 15 s after
// the monitor's start.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(realpart.Long(t, "MONITOR_SOAK"))
	if err != nil {
		t.Fatalf("MONITOR_SOAK: %v", err)
	}
	if length < 3*time.Minute {
		t.Fatalf("MONITOR_SOAK=%v is too short to tell anything: at least 3m", length)
	}
	hosts := 1000
	if n, err := strconv.Atoi(os.Getenv("MONITOR_SOAK_HOSTS")); err == nil && n > 0 {
		hosts = n
	}
	s := newSoak(t)
	s.startMonitor()
	simulated := s.program("simulated", "probe", "--monitors="+s.address, "--token=between", fmt.Sprintf("--simulate=%d", hosts), "--simulate-churn=1")
	real := s.program("probe", "probe", "--monitors="+s.address, "--token=between", "--hostname=soaked", "--docker-socket=off", "--runtime-sockets=off", "--plugins-dir=off")
	s.until("all hosts", func() bool { return s.entities("host") == hosts+1 })
	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan int)
	go func() { looked <- s.lookOn(ctx) }()
	churned := make(chan int)
	go func() { churned <- s.churn(ctx) }()

	programs := map[string]*program{"monitor": s.monitor, "probe": real, "simulated": simulated}
	samples := map[string][]sample{}
	var up, down time.Duration
	restarts, acted := 0, 0
	// The first third is for everything to reach its size (rings fill, maps grow to what they hold) and for the monitor's restarts: the
	// one of the last lives through the other two, which are compared.
	began := time.Now()
	nextRestart, nextSample := began.Add(length/12), began
	last, burst, burstOver := began, false, make(chan int, 1)
	for time.Since(began) < length {
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
		now := time.Now()
		connected := s.connected("soaked")
		if now.Sub(s.startedAt) > 15*time.Second {
			if connected {
				up += now.Sub(last)
			} else {
				down += now.Sub(last)
			}
		}
		last = now
		if s.act() {
			acted++
		}
		if now.After(nextSample) {
			nextSample = now.Add(5 * time.Second)
			for name, p := range programs {
				samples[name] = append(samples[name], p.sample(t, time.Since(began)))
			}
		}
		if !burst && now.Sub(began) > 2*length/3 {
			burst = true
			go func() { burstOver <- manyConnections(ctx, 20_000, 15*time.Second) }()
		}
		if now.After(nextRestart) && now.Sub(began) < length/3 {
			nextRestart = now.Add(length / 12)
			restarts++
			s.endMonitor(restarts%2 == 1)
			s.startMonitor()
			programs["monitor"] = s.monitor
			s.until("all probes are back", func() bool { return s.probes() == hosts+1 })
			t.Logf("restart %d: all probes back after %v, which took the monitor %.1f s of a processor", restarts, time.Since(s.startedAt).Round(100*time.Millisecond), s.monitor.sample(t, 0).cpu)
			last = time.Now()
		}
	}
	if made := <-burstOver; made < 10_000 {
		t.Errorf("the load test made %d connections only", made)
	}
	cancel()
	t.Logf("%d frames and diffs read by the page, %d processes came and went, %d controls, %d restarts of the monitor", <-looked, <-churned, acted, restarts)
	uptime := 100 * up.Seconds() / (up + down).Seconds()
	t.Logf("probe connected %.3f %% of %v", uptime, (up + down).Round(time.Second))
	if uptime < 99.9 {
		t.Errorf("the probe was connected %.3f %% of the time", uptime)
	}
	if restarts < 3 || acted == 0 {
		t.Errorf("%d restarts and %d controls: nothing was soaked", restarts, acted)
	}
	for _, name := range []string{"probe", "simulated", "monitor"} {
		report(t, name, samples[name])
	}
	if most := slices.MaxFunc(samples["monitor"], func(a, b sample) int { return cmp.Compare(a.rss, b.rss) }); hosts <= 1000 && most.rss > 400e6 {
		t.Errorf("the monitor had %.1f MB resident after %v, and may have 400 MB", most.rss/1e6, most.at.Round(time.Second))
	}
}

// manyConnections makes n connections on loopback, each for a moment, spread over a time. It gives how many it has made.
func manyConnections(ctx context.Context, n int, over time.Duration) (made int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer l.Close()
	go hangUp(l)
	d := net.Dialer{Timeout: time.Second}
	began := time.Now()
	for i := 0; i < n && ctx.Err() == nil; i++ {
		if conn, err := d.DialContext(ctx, "tcp", l.Addr().String()); err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = conn.Read(make([]byte, 1)) // the other side ends it first
			conn.Close()
			made++
		}
		<-time.After(time.Until(began.Add(time.Duration(i) * over / time.Duration(n))))
	}
	return made
}

// sample is what one program uses at one time.
type sample struct {
	at                time.Duration
	rss, anon         float64 // anon is of rss what is no file's: the rest is how much of the program the kernel holds
	goroutines, files int
	history           float64 // of rss what a monitor keeps of the last hour, which takes longer to fill than the soak
	cpu               float64 // seconds
	program           int     // pid: a monitor that was started again is another
}

// report prints how a program did, and fails when it grew: the middle of the last third is compared with that of the third before.
func report(t *testing.T, name string, list []sample) {
	t.Helper()
	third := len(list) / 3
	if third < 3 {
		t.Fatalf("%s: %d samples", name, len(list))
	}
	middle := func(list []sample, f func(sample) float64) float64 {
		v := make([]float64, len(list))
		for i := range list {
			v[i] = f(list[i])
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	a, b := list[third:2*third], list[2*third:]
	rss := func(s sample) float64 { return s.rss }
	files := func(s sample) float64 { return float64(s.files) }
	goroutines := func(s sample) float64 { return float64(s.goroutines) }
	first, final := list[0], list[len(list)-1]
	cpu := 0.0
	for i := 1; i < len(list); i++ {
		if list[i].program == list[i-1].program {
			cpu += list[i].cpu - list[i-1].cpu
		}
	}
	t.Logf("%-9s resident %.1f MB in the first third, then %.1f MB and %.1f MB, at most %.1f MB; files %.0f, then %.0f; goroutines %.0f, then %.0f; %.2f %% of a core",
		name, middle(list[:third], rss)/1e6, middle(a, rss)/1e6, middle(b, rss)/1e6, slices.MaxFunc(list, func(a, b sample) int { return cmp.Compare(a.rss, b.rss) }).rss/1e6, middle(a, files), middle(b, files), middle(a, goroutines), middle(b, goroutines), 100*cpu/(final.at-first.at).Seconds())
	rest := func(s sample) float64 { return s.rss - s.history }
	if final.history > 0 {
		history := func(s sample) float64 { return s.history }
		t.Logf("%-9s of it the last hour %.1f MB in the first third, then %.1f MB and %.1f MB", name, middle(list[:third], history)/1e6, middle(a, history)/1e6, middle(b, history)/1e6)
	}
	// A tenth and a few MB are what the collector's pacing does.
	if x, y := middle(a, rest), middle(b, rest); y > x*1.1+4e6 {
		t.Errorf("%s grows: %.1f MB, then %.1f MB", name, x/1e6, y/1e6)
		for i := 0; i < len(list); i += max(1, len(list)/60) {
			t.Logf("%s after %v: %.1f MB resident, %.1f MB of it anonymous", name, list[i].at.Round(time.Second), list[i].rss/1e6, list[i].anon/1e6)
		}
	}
	if x, y := middle(a, files), middle(b, files); y > x*1.05+10 {
		t.Errorf("%s keeps files open: %.0f, then %.0f", name, x, y)
	}
	if x, y := middle(a, goroutines), middle(b, goroutines); y > x*1.05+20 {
		t.Errorf("%s keeps goroutines: %.0f, then %.0f", name, x, y)
	}
}

type soak struct {
	t         testing.TB
	binary    string
	dir       string
	address   string
	url       string
	token     string
	monitor   *program
	startedAt time.Time
	ids       []string
}

type program struct {
	cmd     *exec.Cmd
	metrics string // where it says how many goroutines it has
	token   string
}

func newSoak(t testing.TB) *soak {
	t.Helper()
	s := &soak{t: t, dir: t.TempDir()}
	s.binary = filepath.Join(s.dir, "orchestrator")
	build := exec.Command("go", "build", "-o", s.binary, "./cmd/orchestrator")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s.address = heldport.Address(t)
	s.url = "http://" + s.address
	return s
}

func (s *soak) program(name string, args ...string) *program {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	p := &program{cmd: exec.Command(s.binary, args...)}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.end(syscall.SIGTERM) })
	return p
}

func (p *program) end(sig os.Signal) {
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait()
}

func (s *soak) startMonitor() {
	s.t.Helper()
	s.monitor = s.program("monitor", "monitor", "--listen="+s.address, "--probe-token=between", "--data-dir="+filepath.Join(s.dir, "data"))
	s.monitor.metrics = s.url + "/metrics"
	s.until("the monitor", func() bool { return s.get("/healthz", nil) })
	s.startedAt = time.Now()
	if s.token == "" { // the first start prints it, and later ones know it
		log, err := os.ReadFile(filepath.Join(s.dir, "monitor.log"))
		if err != nil {
			s.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(log), "#token=")
		if f := strings.Fields(rest); len(f) > 0 {
			s.token = f[0]
		}
	}
	s.monitor.token = s.token
}

func (s *soak) endMonitor(kill bool) {
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	s.monitor.end(sig)
}

func (s *soak) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "monitor.log"))
			s.t.Fatalf("waited for: %s\n%s", what, log[max(0, len(log)-2000):])
		}
		<-time.After(100 * time.Millisecond)
	}
}

var soakClient = &http.Client{Timeout: 20 * time.Second}

func (s *soak) get(path string, into any) bool {
	req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := soakClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if into == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == http.StatusOK
	}
	return resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(into) == nil
}

type soakStatus struct {
	Entities, Probes map[string]int
}

func (s *soak) entities(kind string) int {
	var st soakStatus
	s.get("/api/v1/status", &st)
	return st.Entities[kind]
}

func (s *soak) probes() int {
	var st soakStatus
	s.get("/api/v1/status", &st)
	return st.Probes["connected"]
}

// connected asks for the state of one host, and takes no answer for a no.
func (s *soak) connected(host string) bool {
	var n struct {
		Stale bool
		Probe struct{ State string }
	}
	return s.get("/api/v1/nodes/"+url.PathEscape("host;"+host), &n) && n.Probe.State == "connected" && !n.Stale
}

// act stops a container, or starts one that was stopped.
func (s *soak) act() bool {
	if len(s.ids) == 0 {
		var hits struct{ Results []struct{ ID string } }
		if !s.get("/api/v1/search?limit=500&q="+url.QueryEscape("kind:container host:sim-"), &hits) {
			return false
		}
		for _, h := range hits.Results {
			s.ids = append(s.ids, h.ID)
		}
		if len(s.ids) == 0 {
			return false
		}
	}
	i := rand.IntN(len(s.ids))
	verb := []string{"stop", "start"}[rand.IntN(2)]
	req, err := http.NewRequest(http.MethodPost, s.url+"/api/v1/nodes/"+url.PathEscape(s.ids[i])+"/controls/"+verb, strings.NewReader("{}"))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := soakClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// lookOn is a page: it holds a picture, and opens it again when the monitor has gone.
func (s *soak) lookOn(ctx context.Context) (messages int) {
	for ctx.Err() == nil {
		r := &rig{t: s.t, url: s.url}
		conn, _, err := r.dial(ctx, "/api/v1/live", s.token)
		if err == nil {
			if conn.Write(ctx, 1, []byte(`{"type":"subscribe","sub":1,"view":"containers","options":{"group":"none","metric":"cpu","flows":true}}`)) == nil {
				for {
					if _, _, err := conn.Read(ctx); err != nil {
						break
					}
					messages++
				}
			}
			conn.CloseNow()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return messages
}

// churn lets processes come and go on this host, with connections of their own.
func (s *soak) churn(ctx context.Context) (n int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer l.Close()
	go hangUp(l)
	for ctx.Err() == nil {
		_ = exec.CommandContext(ctx, "sleep", "0.3").Run()
		for range 20 {
			if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
				c.Close()
			}
		}
		n++
	}
	return n
}

// sample reads what the kernel says of the program.
func (p *program) sample(t testing.TB, at time.Duration) sample {
	t.Helper()
	pid := p.cmd.Process.Pid
	s := sample{at: at, program: pid}
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatalf("a program of the soak has ended: %v", err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		key, v, _ := strings.Cut(in.Text(), ":")
		kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
		switch key {
		case "VmRSS":
			s.rss = kb * 1024
		case "RssAnon":
			s.anon = kb * 1024
		}
	}
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.files = len(fds)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		user, _ := strconv.ParseFloat(f[11], 64)
		system, _ := strconv.ParseFloat(f[12], 64)
		s.cpu = (user + system) / 100
	}
	if p.metrics != "" {
		req, _ := http.NewRequest(http.MethodGet, p.metrics, nil)
		req.Header.Set("Authorization", "Bearer "+p.token)
		if resp, err := soakClient.Do(req); err == nil {
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			gauge := func(name string) float64 {
				_, rest, _ := strings.Cut(string(b), "\n"+name+" ")
				line, _, _ := strings.Cut(rest, "\n")
				v, err := strconv.ParseFloat(line, 64)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				return v
			}
			s.goroutines = int(gauge("orchestrator_monitor_goroutines"))
			// The heap is collected when it is 1.3 times what lives.
			s.history = 1.3 * (gauge("orchestrator_monitor_series_bytes") + gauge("orchestrator_monitor_replay_bytes"))
		}
	}
	return s
}
