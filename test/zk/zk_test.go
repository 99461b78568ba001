// Package zk runs every `orchestrator zk` command as people and scripts do: the real binary against real servers.
package zk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

const auth = "digest:super:" + zktest.SuperPassword

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "zk-test")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "orchestrator")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/orchestrator").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := zktest.Tests{M: m}.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// result is what a command gave.
type result struct {
	code     int
	out, err string
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"zk"}, args...)...)
	cmd.Env = append(os.Environ(), "ORCHESTRATOR_ZK=", "ORCHESTRATOR_ZKSYNC=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Start()
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(6*time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// pair starts two ensembles.
func pair(t *testing.T) (a, b *zktest.Ensemble) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { a = zktest.Start(t, zktest.Options{}) })
	b = zktest.Start(t, zktest.Options{FirstID: 7})
	wg.Wait()
	return a, b
}

// check fails unless a command ended with code and said what it should. out and err are contained; "json" is valid JSON.
func check(t *testing.T, what string, r result, code int, out, err string) {
	t.Helper()
	ok := r.code == code && strings.Contains(r.err, err)
	if rest, isJSON := strings.CutPrefix(out, "json "); isJSON {
		ok = ok && json.Valid([]byte(r.out)) && strings.Contains(r.out, rest)
	} else {
		ok = ok && strings.Contains(r.out, out) && (out != "" || r.out == "")
	}
	if !ok || strings.Contains(r.err, "panic") || strings.Contains(r.err, "\033[") {
		t.Errorf("zk %s: exit %d\nstdout %.600q\nstderr %.600q\nwant %d, %q, %q", what, r.code, r.out, r.err, code, out, err)
	}
}

// Every command, in both output formats, with its exit code.
func TestCommands(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	server := e.Servers()[0] + e.Base(t)
	whole := e.Servers()[0]
	dir := t.TempDir()
	var snapshot string
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
		out   string
		err   string
	}{
		{args: []string{"create", "/a", "one"}, out: "/a\n"},
		{args: []string{"-o", "json", "create", "/b", "two"}, out: `json "path": "/b"`},
		{args: []string{"create", "-s", "-p", "/q/n-"}, out: "/q/n-0000000000\n"},
		{args: []string{"create", "--container", "/c"}, out: "/c\n"},
		{args: []string{"create", "--ttl", "1h", "/ttl"}, out: "/ttl\n"},
		{args: []string{"create", "/ümläut \"quoted\"", "x"}, out: "/ümläut"},
		{stdin: "from\x00stdin", args: []string{"set", "/a", "-"}},
		{args: []string{"-o", "json", "set", "/a", "1", "--version", "1"}, out: `json "version": 2`},
		{args: []string{"set", "/a", "1", "--version", "1"}, code: 1, err: "version is not the expected one"},
		{args: []string{"get", "/a"}, out: "1\n"},
		{args: []string{"-o", "json", "get", "/a"}, out: `json "data": "1"`},
		{args: []string{"stat", "/a"}, out: "version"},
		{args: []string{"-o", "json", "stat", "/a"}, out: `json "acl"`},
		{args: []string{"ls"}, out: "a\nb\nc\nq\nttl\nümläut \"quoted\"\n"},
		{args: []string{"-o", "json", "ls"}, out: `json "ümläut \"quoted\""`},
		{args: []string{"ls", "-l"}, out: "VERSION  SIZE  CHILDREN             MODIFIED  PATH\n"},
		{args: []string{"-o", "json", "ls", "-l"}, out: `json "version": 2`},
		{args: []string{"ls", "-R", "/q"}, out: "/q/n-0000000000\n"},
		{args: []string{"-o", "json", "ls", "-R"}, out: `json "/q/n-0000000000"`},
		{args: []string{"-o", "json", "ls", "-R", "/a"}, out: "json []"},
		{args: []string{"ls", "-R", "/q", "--server", whole}, code: 1, err: "no such node"},
		{args: []string{"tree"}, out: "├── q\n│   └── n-0000000000\n"},
		{args: []string{"-o", "json", "tree"}, out: `json "name": "n-0000000000"`},
		{args: []string{"du"}, out: "NODES"},
		{args: []string{"-o", "json", "du"}, out: `json "nodes": 8`},
		{args: []string{"export", "/"}, out: `{"path":"/q/n-0000000000"`},
		{args: []string{"export", "/q", "--file", dir + "/q.jsonl"}},
		{args: []string{"export", "/q", "--file", dir + "/q.jsonl"}, code: 1, err: "exists"},
		{args: []string{"export", "--no-acl", "/q"}, out: "{\"path\":\"\"}\n{\"path\":\"/n-0000000000\"}\n"},
		{args: []string{"export", "--snapshot", "/", "--server", whole}, out: "/q/n-0000000000\""},
		{args: []string{"ls", "-R", "--snapshot", "/", "--server", whole}, out: "/q/n-0000000000\n"},
		{args: []string{"import", "/copy", "--file", dir + "/q.jsonl"}, err: "2 nodes written"},
		{args: []string{"-o", "json", "import", "--replace", "/copy", "--file", dir + "/q.jsonl"}, out: `json "there_already": 2`},
		{args: []string{"import", "/copy", "--file", dir + "/q.jsonl"}, code: 1, err: "nothing was written"},
		{args: []string{"rm", "/copy"}, code: 1, err: "-r deletes all of it"},
		{args: []string{"-o", "json", "rm", "-r", "/copy"}, out: `json "nodes": 2`},
		{args: []string{"-o", "json", "rm", "/b"}, out: `json "nodes": 1`},
		{args: []string{"rm", "/b"}, code: 1, err: "no such node"},
		{args: []string{"backup", dir + "/backup", "--server", whole}, out: "snapshot."},
		{args: []string{"-o", "json", "backup", dir + "/backup2", "--server", whole}, out: `json "zxid"`},
		{args: []string{"restore", "SNAPSHOT", "--path", "/q", "--to", "/restored", "--server", whole}, code: 1, err: "holds no node /q"},
		{args: []string{"restore", "SNAPSHOT", "--path", server[strings.IndexByte(server, '/'):] + "/q", "--to", "/restored"}, err: "2 nodes restored"},
		{args: []string{"-o", "json", "restore", "SNAPSHOT", "--path", server[strings.IndexByte(server, '/'):] + "/q", "--to", "/restored2"}, out: `json "nodes": 2`},
		{args: []string{"restore", dir + "/q.jsonl", "--to", "/r3"}, code: 1, err: "snapshot"},
		{args: []string{"latency", "-n", "3"}, out: "P95"},
		{args: []string{"-o", "json", "latency", "-n", "3"}, out: `json "p95_ms"`},
		{args: []string{"ensemble"}, out: "leader"},
		{args: []string{"-o", "json", "ensemble"}, out: `json "leader"`},
		{args: []string{"status"}, out: "LINK"},
		{args: []string{"-o", "json", "status"}, out: "json []"},
		{args: []string{"stretch", "--to", e.Nodes[0].Member()}, out: "nothing to do"},
		{args: []string{"--help"}, out: "Available Commands"},
	} {
		args := append([]string{"--server", server}, c.args...)
		for i := range args {
			if args[i] == "SNAPSHOT" {
				args[i] = snapshot
			}
		}
		r := run(t, c.stdin, args...)
		check(t, strings.Join(c.args, " "), r, c.code, c.out, c.err)
		if c.args[0] == "backup" {
			snapshot, _, _ = strings.Cut(r.out, ":")
		}
	}
}

// What is wrong with the input, the address or the rights is said, and in the exit code.
func TestBadInput(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	server := e.Servers()[0]
	base := e.Base(t)
	c := e.Client(t, zk.Config{})
	secret := []zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: zk.DigestID("u", "p")}}
	readable := []zk.ACL{{Perms: zk.PermRead, Scheme: "world", ID: "anyone"}, secret[0]}
	for path, acl := range map[string][]zk.ACL{base + "/secret": secret, base + "/readable": readable} {
		if _, err := c.Create(t.Context(), path, []byte("x"), acl, zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	nobody := []string{"--server", "127.0.0.1:1", "--timeout", "2s"}
	there := []string{"--server", server}
	for _, c := range []struct {
		at   []string
		args []string
		code int
		err  string
	}{
		// Wrong usage is found before any server is asked.
		{nobody, []string{"get", "a"}, 2, "must start with /"},
		{nobody, []string{"get", "/a/"}, 2, "must not end with /"},
		{nobody, []string{"get", "/a//b"}, 2, "empty name"},
		{nobody, []string{"get", "/a/../b"}, 2, "relative"},
		{nobody, []string{"get", "/a\x01"}, 2, "U+0001"},
		{nobody, []string{"set", "/a\nb", "x"}, 2, "U+000A"},
		{nobody, []string{"rm", "/\x1b[31m"}, 2, "U+001B"},
		{nobody, []string{"ls", "/\xff"}, 2, "not UTF-8"},
		{nobody, []string{"rm", "-r", "/"}, 2, "cannot be deleted"},
		{nobody, []string{"get"}, 2, "arg(s)"},
		{nobody, []string{"get", "/a", "/b"}, 2, "arg(s)"},
		{nobody, []string{"get", "/a", "--nosuch"}, 2, "unknown flag"},
		{nobody, []string{"gett", "/a"}, 2, "gett"},
		{nobody, []string{"-o", "yaml", "ls"}, 2, "neither table nor json"},
		{nobody, []string{"--auth", "nonsense", "ls"}, 2, "scheme:data"},
		{nobody, []string{"--sasl", "nonsense", "ls"}, 2, "user:password"},
		{nobody, []string{"--tls", "/nonexistent.pem", "ls"}, 2, "/nonexistent.pem"},
		{nobody, []string{"create", "/x", "--acl", "bad"}, 2, "scheme:id:perms"},
		{nobody, []string{"create", "/x", "--acl", "world:anyone:q"}, 2, "unknown permission"},
		{nobody, []string{"create", "/x", "--container", "--ttl", "1h"}, 2, "--container"},
		{nobody, []string{"stretch"}, 2, "--to"},
		{nobody, []string{"stretch", "--to", "server.1=x"}, 2, "server.1=x"},
		{nobody, []string{"flip", "/a", "sideways", "--engine", "http://127.0.0.1:1"}, 2, "source or target"},
		{nobody, []string{"resolve", "/a", "home"}, 2, "--engine"},
		{nobody, []string{"sync"}, 2, "--source"},
		{nobody, []string{"sync", "--source", "127.0.0.1:1", "--target", "127.0.0.1:1", "--home", "nowhere"}, 2, "nowhere"},
		{nil, []string{"ls"}, 2, "ORCHESTRATOR_ZK"},
		// Nobody there.
		{nobody, []string{"ls"}, 1, "127.0.0.1:1"},
		{nobody, []string{"get", "/a"}, 1, "connection refused"},
		{[]string{"--server", "no.such.host.invalid:2181", "--timeout", "1s"}, []string{"ls"}, 1, "no.such.host.invalid"},
		{nobody, []string{"diff", server, "127.0.0.1:1", "--timeout", "5s"}, 2, "127.0.0.1:1"},
		{nobody, []string{"verify", "--repair", "127.0.0.1:1", server}, 2, "127.0.0.1:1"},
		{nobody, []string{"diff", "a"}, 2, "arg(s)"},
		{nobody, []string{"diff", "--path", "a", server, server}, 2, "must start with /"},
		{nobody, []string{"flip", "/a", "source", "--engine", "http://127.0.0.1:1"}, 1, "connection refused"},
		// No right to.
		{there, []string{"get", base + "/secret"}, 1, "not permitted by the node's ACL"},
		{there, []string{"--auth", "digest:u:wrong", "get", base + "/secret"}, 1, "not permitted by the node's ACL"},
		{there, []string{"--auth", "digest:u:wrong", "set", base + "/secret", "y"}, 1, "not permitted by the node's ACL"},
		{there, []string{"--auth", "nosuchscheme:x", "get", base + "/secret"}, 1, "authentication failed"},
		{there, []string{"export", base}, 1, "would have holes"},
		{there, []string{"export", base + "/readable"}, 1, "hides the digests"},
		{there, []string{"ls", "-R", "-l", base}, 0, "do not let us read them whole"},
		{there, []string{"--auth", "digest:u:p", "export", base}, 0, ""},
		// What the server refuses.
		{there, []string{"get", base + "/none"}, 1, "no such node"},
		{there, []string{"create", base + "/none/x"}, 1, "-p makes the parents"},
		{there, []string{"watch", base + "/x", "--count", "x"}, 2, "invalid"},
		{there, []string{"restore", "/nonexistent"}, 1, "no such file"},
		{there, []string{"import", base + "/i", "--file", "/nonexistent"}, 1, "no such file"},
		{there, []string{"backup", t.TempDir(), "--quorum", "127.0.0.1:1"}, 1, "127.0.0.1:1"},
		{there, []string{"ls", "-R", "--snapshot", "--quorum", "127.0.0.1:1"}, 1, "127.0.0.1:1"},
	} {
		r := run(t, "", append(append([]string{}, c.at...), c.args...)...)
		if r.code != c.code || !strings.Contains(r.err, c.err) || strings.Contains(r.err, "panic") || strings.Contains(r.err, "\033") {
			t.Errorf("zk %q: exit %d, stderr %.500q; want %d, %q", c.args, r.code, r.err, c.code, c.err)
		}
	}
	r := run(t, strings.Repeat("x", 2<<20), "--server", server, "set", base+"/readable", "-")
	check(t, "set, two megabytes", r, 1, "", "jute.maxbuffer")
	r = run(t, "{\"path\":\"\"}\n{\"path\":\"/../x\"}\n", "--server", server, "import", base+"/i2")
	check(t, "import of a bad path", r, 1, "", "reading node 2")
}

// engine runs `zk sync` until the returned function is called, which asks it to stop and returns its exit code.
func engine(t *testing.T, args ...string) (address string, stop func() int) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	cmd := command(t, append([]string{"sync", "--ready-file", ready, "--listen", "127.0.0.1:0"}, args...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	stop = sync.OnceValue(func() int {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(3 * time.Minute):
			_ = cmd.Process.Kill()
			<-exited
		}
		return cmd.ProcessState.ExitCode()
	})
	t.Cleanup(func() { stop() })
	var info struct{ HTTP string }
	zktest.Eventually(t, 2*time.Minute, "the engine is ready", func() bool {
		select {
		case <-exited:
			t.Fatalf("zk sync %q ended: %s", args, log.String())
		default:
		}
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &info) == nil
	})
	return info.HTTP, stop
}

// diff, verify --repair and status against a pair of ensembles, without an engine and with one.
func TestRepair(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	A, B := a.Servers()[0], b.Servers()[0]
	put := func(server string, args ...string) {
		t.Helper()
		check(t, strings.Join(args, " "), run(t, "", append([]string{"--server", server, "--auth", auth, "set", "--create"}, args...)...), 0, "", "")
	}
	diff := func(verb string, more ...string) result {
		t.Helper()
		return run(t, "", append([]string{verb, A, B, "--auth", auth}, more...)...)
	}
	// A is ahead of B in everything.
	put(B, "/r/x", "old")
	put(A, "/r/x", "old")
	put(A, "/r/x", "new")
	put(A, "/r/y", "2")
	check(t, "diff", diff("diff", "--path", "/r"), 1, "/r/x", "4 differences")
	check(t, "diff json", diff("diff", "--path", "/r", "-o", "json"), 1, `json "what": "missing"`, "")
	check(t, "verify", diff("verify", "--path", "/r"), 1, "/r/y", "by snapshots")
	check(t, "verify --repair", diff("verify", "--path", "/r", "--repair"), 0, "", "repaired: /r/x data")
	check(t, "diff after the repair", diff("diff", "--path", "/r"), 0, "", "0 differences")
	check(t, "a repair of what is equal", diff("verify", "--path", "/r", "--repair", "-o", "json"), 0, `json "exact": true`, "")
	check(t, "status after the repair", run(t, "", "--server", B, "-o", "json", "status"), 0, "json []", "")
	put(B, "/r/foreign", "x")
	check(t, "verify --repair of what somebody made", diff("verify", "--path", "/r", "--repair"), 0, "", "repaired: /r/foreign extra")
	// What belongs to a session of B's own stays while that lives.
	session := b.Client(t, zk.Config{})
	if _, err := session.Create(t.Context(), "/r/mine", nil, zk.OpenACL(), zk.Ephemeral); err != nil {
		t.Fatal(err)
	}
	check(t, "verify --repair of what cannot be mended", diff("verify", "--path", "/r", "--repair"), 1, "/r/mine", "")
	session.Close()
	check(t, "verify --repair when it can be", diff("verify", "--path", "/r", "--repair"), 0, "", "0 differences")
	// Without the right to write there it cannot be done, and says so.
	put(A, "/p/x", "1")
	put(B, "/p/x", "2")
	secret := []zk.ACL{{Perms: zk.PermAll, Scheme: "digest", ID: "u:x"}}
	cb := b.Client(t, zk.Config{Auth: []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}})
	for _, p := range []string{"/p/x", "/p"} {
		if _, err := cb.SetACL(t.Context(), p, secret, zk.AnyVersion); err != nil {
			t.Fatal(err)
		}
	}
	check(t, "verify --repair without rights", run(t, "", "verify", A, B, "--path", "/p", "--repair"), 2, "", "must be super in the target")
	check(t, "the source is untouched", run(t, "", "--server", A, "ls", "-R", "/"), 0, "/r/y\n", "")

	// With an engine, which does it.
	put(A, "/s/x", "1")
	_, stop := engine(t, "--source", A, "--target", B, "--target-auth", auth, "--path", "/s", "--name", "s")
	check(t, "status", run(t, "", "--server", B, "status"), 0, "/s", "")
	check(t, "status json", run(t, "", "--server", B, "-o", "json", "status"), 0, `json "seeded": true`, "")
	put(A, "/s/x", "2")
	check(t, "diff at a barrier", diff("diff", "--path", "/s", "--name", "s"), 0, "", "at the barrier")
	put(B, "/s/x", "foreign")
	check(t, "diff of what somebody changed", diff("diff", "--path", "/s", "--name", "s"), 1, "/s/x", "at the barrier")
	// The node is made anew, because its version cannot be lowered; its parent's counter tells.
	check(t, "verify --repair by the engine", diff("verify", "--path", "/s", "--name", "s", "--repair"), 1, "counter", "repaired: /s/x version")
	check(t, "diff after the engine's repair", diff("diff", "--path", "/s", "--name", "s"), 1, "counter", "1 differences")
	check(t, "the copy", run(t, "", "--server", B, "get", "/s/x"), 0, "2\n", "")
	if code := stop(); code != 0 {
		t.Errorf("the engine ended with %d after SIGTERM", code)
	}
	put(A, "/s/x", "3")
	check(t, "diff with the engine stopped", diff("diff", "--path", "/s", "--name", "s"), 1, `"3"`, "by snapshots")
}

// flip and resolve, and watch meanwhile.
func TestTwoWay(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	A, B := a.Servers()[0], b.Servers()[0]
	set := func(server, path, data string) {
		t.Helper()
		check(t, "set "+path, run(t, "", "--server", server, "--auth", auth, "set", "--create", path, data), 0, "", "")
	}
	holds := func(server, path, data string) {
		t.Helper()
		zktest.Eventually(t, time.Minute, server+path+" is "+data, func() bool { return run(t, "", "--server", server, "get", path).out == data+"\n" })
	}
	set(A, "/app/x", "1")
	at, stop := engine(t, "--two-way", "--conflicts", "manual", "--source", A, "--target", B, "--source-auth", auth, "--target-auth", auth)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := command(t, "--server", B, "watch", "/app", "--count", "2", "-o", "json")
	// A file, because it is read while it is written.
	file, err := os.Create(filepath.Join(t.TempDir(), "watch"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	watch.Stdout = file
	seen := func() string {
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	defer context.AfterFunc(ctx, func() { _ = watch.Process.Kill() })()
	holds(B, "/app/x", "1")
	check(t, "flip", run(t, "", "flip", "/app", "target", "--engine", at), 0, `json "/app": "target"`, "")
	set(B, "/app/x", "2")
	holds(A, "/app/x", "2")
	set(A, "/app/x", "foreign")
	zktest.Eventually(t, time.Minute, "there is a conflict to resolve", func() bool {
		return run(t, "", "resolve", "/app/x", "home", "--engine", at).code == 0
	})
	holds(A, "/app/x", "2")
	check(t, "resolve again", run(t, "", "resolve", "/app/x", "home", "--engine", at), 1, "", "no conflict")
	check(t, "flip below", run(t, "", "flip", "/app/x", "source", "--engine", at), 1, "", "overlaps")
	check(t, "flip back", run(t, "", "flip", "/app", "source", "--engine", at), 0, "json {", "") // the default home needs no entry
	for i := range 200 {                                                                         // until the watch, which began at some moment, has seen two
		set(A, "/app/x", fmt.Sprint(i))
		if strings.Count(seen(), "\n") >= 2 {
			break
		}
	}
	if err := watch.Wait(); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(seen()) {
		if !json.Valid([]byte(line)) || !strings.Contains(line, `"path":"/app`) {
			t.Errorf("watch said %q", line)
		}
	}
	if code := stop(); code != 0 {
		t.Errorf("the engine ended with %d after SIGTERM", code)
	}
}

// A target that was started from a seed is nearly equal already: the engine writes what has changed since, and keeps it equal.
func TestSeedByFile(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	A, B := a.Servers()[0], b.Servers()[0]
	base := a.Base(t)
	a.Churn(t, base, 9, 400)
	session := a.Client(t, zk.Config{})
	for _, p := range []string{"/eph", "/eph2"} {
		if _, err := session.Create(t.Context(), p, []byte("mine"), zk.OpenACL(), zk.Ephemeral); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(b.Nodes[0].Dir, "data", "version-2")
	b.Nodes[0].Kill()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	check(t, "backup --seed", run(t, "", "--server", A, "backup", "--seed", data), 0, "snapshot.", "")
	check(t, "set", run(t, "", "--server", A, "set", "--create", "/after/x", "1"), 0, "", "")
	if err := session.Delete(t.Context(), "/eph2", zk.AnyVersion); err != nil {
		t.Fatal(err)
	}
	if err := b.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	b.Nodes[0].Await(t)
	at, stop := engine(t, "--source", A, "--target", B, "--target-auth", auth, "--overwrite")
	check(t, "diff", run(t, "", "diff", A, B, "--auth", auth), 0, "", "0 differences")
	resp, err := http.Get(at + "/api/v1/sync/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status struct{ Operations, Nodes int }
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil || status.Nodes < 50 || status.Operations > 10 {
		t.Errorf("%d operations for %d nodes, %v", status.Operations, status.Nodes, err)
	}
	check(t, "the mirror", run(t, "", "--server", B, "get", "/eph"), 0, "mine\n", "")
	session.Close()
	a.Churn(t, base, 10, 200)
	check(t, "diff after more", run(t, "", "diff", A, B, "--auth", auth), 0, "", "at the barrier")
	check(t, "the mirror of a session that ended", run(t, "", "--server", B, "get", "/eph"), 1, "", "no such node")
	if code := stop(); code != 0 {
		t.Errorf("the engine ended with %d after SIGTERM", code)
	}
}
