package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	// The binary is built from it: without this, go test would keep a result that is older than the code.
	_ "github.com/orchestrator/orchestrator/internal/cli"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

const web = "../../web"

// need makes sure of the real parts: Node, the libraries of the lock file and, for browsers, Chromium. test/deps.sh installs them.
func need(t *testing.T, chromium bool) {
	t.Helper()
	// Reading them tells go test that the result depends on them.
	for _, dir := range []string{"src", "test", "public"} {
		tree(t, filepath.Join(web, dir))
	}
	version, err := exec.Command("node", "-p", "process.versions.node").Output()
	if err != nil {
		realpart.Missing(t, "node is not there: test/deps.sh installs it")
	}
	if major, _, _ := strings.Cut(string(version), "."); len(major) < 2 || major < "20" {
		realpart.Missing(t, "node %s is too old: the console's tools need 20.19 or later", bytes.TrimSpace(version))
	}
	lock, err := os.ReadFile(filepath.Join(web, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	// test/deps.sh notes which lock file it has installed.
	installed, _ := os.ReadFile(filepath.Join(web, "node_modules", ".installed"))
	if !strings.HasPrefix(string(installed), fmt.Sprintf("%x", sha256.Sum256(lock))) {
		realpart.Missing(t, "web/node_modules is not what the lock file says: run test/deps.sh")
	}
	if _, err := os.Stat("/usr/bin/chromium"); err != nil && chromium {
		realpart.Missing(t, "/usr/bin/chromium is not there: test/deps.sh installs it")
	}
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = web
	cmd.Env = append(os.Environ(), env...)
	// A runner that is ended takes its browser with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		files[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What is embedded is what the sources give, byte for byte.
func TestCommittedBuildIsTheSources(t *testing.T) {
	t.Parallel()
	need(t, false)
	out := t.TempDir()
	run(t, nil, "node_modules/.bin/tsc", "--noEmit")
	run(t, nil, "node_modules/.bin/vite", "build", "--outDir", out, "--emptyOutDir", "--logLevel", "error")
	built, committed := tree(t, out), tree(t, "../../internal/monitor/console/dist")
	if len(built) < 5 {
		t.Fatalf("the build gave %d files", len(built))
	}
	for name, b := range built {
		if committed[name] != b {
			t.Errorf("%s is not committed as it is built: run make console", name)
		}
	}
	size := 0
	for name, b := range committed {
		size += len(b)
		if _, ok := built[name]; !ok {
			t.Errorf("%s is committed and no longer built: run make console", name)
		}
	}
	if size > 1<<20 {
		t.Errorf("the console is %d KB large: it is carried in the binary", size>>10)
	}
}

// Names of hosts that packages came from would tell where they were installed, and break elsewhere.
func TestLockFileNamesNoRegistry(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(web, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(`"resolved"`)) {
		t.Error("package-lock.json has resolved fields: web/.npmrc turns them off")
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	need(t, false)
	if out := run(t, nil, "node_modules/.bin/vitest", "run"); !regexp.MustCompile(`Tests .*\d+ passed`).MatchString(out) {
		t.Fatalf("no test has run:\n%s", out)
	}
}

// binary builds the program once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "console-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "orchestrator")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/orchestrator")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// daemon is one running component.
type daemon struct {
	t   testing.TB
	cmd *exec.Cmd
	log *output
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func start(t testing.TB, args ...string) *daemon {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, cmd: exec.Command(path, args...), log: &output{}}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// One that a journey has killed is gone already.
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = d.cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			_ = d.cmd.Process.Kill()
			<-done
			t.Errorf("%s did not end\n%s", args[0], d.log)
		}
	})
	return d
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

var reLink = regexp.MustCompile(`http://[^\s]+/#token=\S+`)

// link is the address that logs in, as the component printed it.
func (d *daemon) link() string {
	d.t.Helper()
	found := ""
	eventually(d.t, "a link in what it prints", func() bool {
		found = reLink.FindString(d.log.String())
		return found != ""
	})
	return found
}

// monitor runs a monitor and, if hosts > 0, a probe that plays so many.
func monitor(t testing.TB, hosts int) (*daemon, string) {
	t.Helper()
	m := start(t, "monitor", "--listen=127.0.0.1:0", "--probe-token=between")
	link := m.link()
	address, _, _ := strings.Cut(strings.TrimPrefix(link, "http://"), "/")
	if hosts > 0 {
		start(t, "probe", "--monitors="+address, "--token=between", fmt.Sprintf("--simulate=%d", hosts))
		want := fmt.Sprintf(`"container":%d`, 10*hosts)
		eventually(t, "all simulated containers", func() bool { return strings.Contains(get(t, link, "/api/v1/status"), want) })
	}
	return m, link
}

func get(t testing.TB, link, path string) string {
	base, token, _ := strings.Cut(link, "/#token=")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// cluster runs `orchestrator up` with an app of two instances, and ends the tasks afterwards.
func cluster(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready.json")
	u := start(t, "up", "--data-dir", filepath.Join(dir, "data"), "--master-port=0", "--agent-port=0", "--marathon-port=0", "--monitor-port=0",
		"--resources=cpus:8;mem:2048;disk:1024;ports:[32200-32299]", "--ready-file", ready)
	var at struct{ Master, Marathon string }
	eventually(t, "the cluster", func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, &at) == nil
	})
	running := func() (n int) {
		resp, err := http.Get(at.Master + "/tasks")
		if err != nil {
			return -1
		}
		defer resp.Body.Close()
		var in struct{ Tasks []struct{ State string } }
		if json.NewDecoder(resp.Body).Decode(&in) != nil {
			return -1
		}
		for _, x := range in.Tasks {
			if x.State == "TASK_RUNNING" {
				n++
			}
		}
		return n
	}
	t.Cleanup(func() {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodDelete, at.Marathon+"/v2/groups?force=true", nil)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
		eventually(t, "the tasks' end", func() bool { return running() == 0 })
	})
	app := `{"id":"/shop/web","cmd":"while true; do echo hello from the shop; sleep 1; done","cpus":0.1,"mem":32,"instances":2}`
	resp, err := http.Post(at.Marathon+"/v2/apps", "application/json", strings.NewReader(app))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	eventually(t, "two tasks", func() bool { return running() == 2 })
	return u.link()
}

// plugins runs a monitor and a probe with the two example plugins and one that is none, and a process to act on.
func plugins(t testing.TB) (link string, sleeper int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugs") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "broken.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, link = monitor(t, 0)
	address, _, _ := strings.Cut(strings.TrimPrefix(link, "http://"), "/")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./examples/plugins/...")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	background := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		return cmd
	}
	for _, name := range []string{"tcpstats", "priority"} {
		background(filepath.Join(bin, name), "-dir", dir, "-host", "plugged")
	}
	sleeper = background("sleep", "3600").Process.Pid
	start(t, "probe", "--monitors="+address, "--token=between", "--hostname=plugged", "--plugins-dir="+dir, "--plugins-timeout=10secs", "--docker-socket=off",
		"--runtime-sockets=off", "--net-source=none", "--conntrack=off", "--max-processes=10000")
	eventually(t, "the plugins", func() bool {
		list := get(t, link, "/api/v1/plugins")
		return strings.Count(list, `"state":"ok"`) == 2 && strings.Contains(list, "is not a socket")
	})
	return link, sleeper
}

// replicas runs two monitors that know the same users and sessions, the first of which tells of the second. They have different
// names, so that a browser takes them for different sites: what one has set is not sent to the other.
func replicas(t testing.TB) (env []string) {
	t.Helper()
	one, two := t.TempDir(), t.TempDir()
	ready := filepath.Join(t.TempDir(), "ready.json")
	second := start(t, "monitor", "--listen=127.0.0.1:0", "--probe-token=between", "--data-dir="+two, "--replica-id=second").link()
	base, token, _ := strings.Cut(second, "/#token=")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+"/api/v1/users/vera", strings.NewReader(`{"role":"viewer","password":"correct horse"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	accounts, err := os.ReadFile(filepath.Join(two, "accounts.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(one, "accounts.json"), accounts, 0o600)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %s", err, resp.Status)
	}
	named := strings.Replace(base, "127.0.0.1", "localhost", 1)
	first := start(t, "monitor", "--listen=127.0.0.1:0", "--probe-token=between", "--data-dir="+one, "--replica-id=first", "--replicas="+named, "--ready-file="+ready)
	var at struct{ Monitor string }
	eventually(t, "the first monitor", func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, &at) == nil
	})
	start(t, "probe", "--monitors="+strings.TrimPrefix(at.Monitor, "http://")+","+strings.TrimPrefix(base, "http://"), "--token=between", "--simulate=3")
	for _, m := range []string{at.Monitor, base} {
		eventually(t, "all containers at both", func() bool { return strings.Contains(get(t, m+"/#token="+token, "/api/v1/status"), `"container":30`) })
	}
	return []string{"FIRST=" + at.Monitor + "/", fmt.Sprintf("FIRST_PID=%d", first.cmd.Process.Pid), "SECOND=" + named}
}

// Journeys of people through a real browser: web/test/browser/journeys.mjs.
func TestBrowser(t *testing.T) {
	t.Parallel()
	need(t, true)
	_, empty := monitor(t, 0)
	_, hosts := monitor(t, 20)
	dying, lost := monitor(t, 3)
	plugged, sleeper := plugins(t)
	_, grows := monitor(t, 0)
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	both := replicas(t)
	env := []string{
		"GROWS=" + grows, "PROGRAM=" + program,
		"PLUGINS=" + plugged, fmt.Sprintf("SLEEPER=%d", sleeper),
		"UP=" + cluster(t), "EMPTY=" + empty, "HOSTS=" + hosts, "LOST=" + lost, fmt.Sprintf("LOST_PID=%d", dying.cmd.Process.Pid), "PROFILES=" + t.TempDir(),
	}
	out := run(t, append(env, both...), "node", "test/browser/journeys.mjs")
	if !strings.Contains(out, "journeys done") {
		t.Fatalf("no journey was made:\n%s", out)
	}
	t.Log(out)
}

// BenchmarkConsole takes the page's figures with CONSOLE_BENCH_HOSTS simulated hosts (default 100; the goals are stated for 1,000)
// and prints them as JSON lines: web/test/browser/bench.mjs.
func BenchmarkConsole(b *testing.B) {
	hosts := 100
	if n, err := strconv.Atoi(os.Getenv("CONSOLE_BENCH_HOSTS")); err == nil && n > 0 {
		hosts = n
	}
	_, link := monitor(b, hosts)
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), "node", "test/browser/bench.mjs")
		cmd.Dir = web
		cmd.Env = append(os.Environ(), "HOSTS="+link, fmt.Sprintf("NODES=%d", 10*hosts), "PROFILES="+b.TempDir())
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}
