package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func TestMain(m *testing.M) { os.Exit(zktest.Tests{M: m}.Run()) }

type zkResult struct {
	code     int
	out, err string
}

func runZK(stdin string, args ...string) zkResult {
	var out, errs bytes.Buffer
	code := Main(args, strings.NewReader(stdin), &out, &errs)
	return zkResult{code, out.String(), errs.String()}
}

func TestZKTools(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	server := strings.Join(e.Servers(), ",") + e.Base(t)
	zkRun := func(stdin string, args ...string) zkResult {
		return runZK(stdin, append([]string{"zk", "--server", server}, args...)...)
	}
	dir := t.TempDir()
	for _, c := range []struct {
		stdin, args string
		code        int
		out         string // exactly, unless it begins with ~: contains
		err         string // contains
	}{
		{"", "create /a one", 0, "/a\n", ""},
		{"", "create /a one", 1, "", "node exists"},
		{"", "create /x/y", 1, "", "-p makes the parents"},
		{"", "create -p /x/y z", 0, "/x/y\n", ""},
		{"", "create -s /x/s- z", 0, "/x/s-0000000001\n", ""},
		{"from stdin", "set /a -", 0, "", ""},
		{"", "get /a", 0, "from stdin\n", ""},
		{"", "get a", 2, "", "must start with /"},
		{"", "get /none", 1, "", "no such node"},
		{"", "set /a two --version 7", 1, "", "version is not the expected one"},
		{"", "set --create /deep/er v", 0, "", ""},
		{"", "ls", 0, "a\ndeep\nx\n", ""},
		{"", "ls -R /x", 0, "/x/s-0000000001\n/x/y\n", ""},
		{"", "ls -l /x", 0, "~VERSION", ""},
		{"", "-o json ls /", 0, "[\n  \"a\",\n  \"deep\",\n  \"x\"\n]\n", ""},
		{"", "tree", 0, "/\n├── a\n├── deep\n│   └── er\n└── x\n    ├── s-0000000001\n    └── y\n", ""},
		{"", "-o json tree --depth 1 /x", 0, `~"name": "s-0000000001"`, ""},
		{"", "stat /a", 0, "~version           1\n", ""},
		{"", "-o json stat /a", 0, `~"version": 1`, ""},
		{"", "du --depth 0", 0, "~7     13 /\n", ""},
		{"", "export /x --file " + dir + "/x.jsonl", 0, "", ""},
		{"", "import /copy --file " + dir + "/x.jsonl", 0, "", "3 nodes written"},
		{"", "import /copy --file " + dir + "/x.jsonl", 1, "", "nothing was written: --replace"},
		{"", "import /copy --replace --file " + dir + "/x.jsonl", 0, "", "3 of them were there"},
		{"", "get /copy/y", 0, "z\n", ""},
		{"", "rm /copy", 1, "", "-r deletes"},
		{"", "rm -r /copy", 0, "", ""},
		{"", "rm -r /", 2, "", "cannot be deleted"},
		{"", "ls /copy", 1, "", "no such node"},
		{"{broken", "import /b", 1, "", "reading node 1"},
		{"", "latency -n 3", 0, "~exists", ""},
		{"", "ensemble", 0, "~leader", ""},
		{"", "-o json status", 0, "[]\n", ""},
		{"", "-o xml ls", 2, "", "neither table nor json"},
		{"", "create --acl bad /q", 2, "", "scheme:id:perms"},
		{"", "nonsense", 2, "", ""},
	} {
		r := zkRun(c.stdin, strings.Fields(c.args)...)
		contains, part := strings.CutPrefix(c.out, "~")
		if r.code != c.code || !part && r.out != c.out || part && !strings.Contains(r.out, contains) || !strings.Contains(r.err, c.err) {
			t.Errorf("zk %s: exit %d\nstdout %q\nstderr %q\nwant %d, %q, %q", c.args, r.code, r.out, r.err, c.code, c.out, c.err)
		}
	}
	if r := runZK("", "zk", "--server", "127.0.0.1:1", "--timeout", "300ms", "ls"); r.code != 1 || !strings.Contains(r.err, "127.0.0.1:1") {
		t.Errorf("no server: %+v", r)
	}
	if r := runZK("", "zk", "--server", "", "ls"); r.code != 2 || !strings.Contains(r.err, "ORCHESTRATOR_ZK") {
		t.Errorf("no servers given: %+v", r)
	}
	// watch, while something changes.
	watched := make(chan zkResult)
	go func() { watched <- zkRun("", "watch", "/x", "--count", "2") }()
	zktest.Eventually(t, 20*time.Second, "the watch prints two changes", func() bool {
		zkRun("", "create", "-s", "/x/w-")
		select {
		case r := <-watched:
			if r.code != 0 || strings.Count(r.out, "created") != 2 {
				t.Errorf("watch: %+v", r)
			}
			return true
		default:
			return false
		}
	})
}

func TestZKBackupAndRestore(t *testing.T) {
	t.Parallel()
	e := zktest.Start(t, zktest.Options{})
	server := e.Servers()[0]
	e.Churn(t, e.Base(t), 5, 300)
	dir := filepath.Join(t.TempDir(), "backup")
	r := runZK("", "zk", "--server", server, "backup", dir, "--epoch-ahead", "1000")
	if r.code != 0 {
		t.Fatal(r.err)
	}
	file, _, _ := strings.Cut(r.out, ":")
	auth := "digest:super:" + zktest.SuperPassword
	r = runZK("", "zk", "--server", server, "--auth", auth, "restore", file, "--path", "/TestZKBackupAndRestore", "--to", "/restored")
	if r.code != 0 || !strings.Contains(r.err, "nodes restored") {
		t.Fatal(r.err)
	}
	a := runZK("", "zk", "--server", server, "--auth", auth, "-o", "json", "ls", "-R", "/TestZKBackupAndRestore")
	b := runZK("", "zk", "--server", server, "--auth", auth, "-o", "json", "ls", "-R", "/restored")
	if n, m := strings.Count(a.out, `"path"`), strings.Count(b.out, `"path"`); n != m || n < 20 {
		t.Errorf("%d nodes became %d", n, m)
	}
	if r := runZK("", "zk", "--server", server, "restore", file, "--path", "/", "--to", "/restored"); r.code != 1 || !strings.Contains(r.err, "there already") {
		t.Errorf("restoring over something: %+v", r)
	}
	for _, f := range []string{"currentEpoch", "acceptedEpoch"} {
		if b, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(b) == "1" {
			t.Errorf("%s: %q %v", f, b, err)
		}
	}
}

// The contract for scripts: sync with a ready file, diff's exit codes, status.
func TestZKSync(t *testing.T) {
	t.Parallel()
	a, b := zktest.Start(t, zktest.Options{}), zktest.Start(t, zktest.Options{FirstID: 7})
	base := a.Base(t)
	a.Churn(t, base, 6, 200)
	auth := "digest:super:" + zktest.SuperPassword
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready.json")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := newRoot()
	var logs bytes.Buffer
	root.SetErr(&logs)
	root.SetArgs([]string{
		"zk", "sync", "--source", a.Servers()[0], "--target", b.Servers()[0], "--target-auth", auth, "--path", base,
		"--ready-file", ready, "--listen", "127.0.0.1:0",
	})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	zktest.Eventually(t, 60*time.Second, "the ready file is there", func() bool {
		select {
		case err := <-done:
			t.Fatal(err, logs.String())
		default:
		}
		_, err := os.Stat(ready)
		return err == nil
	})
	var info struct{ HTTP, Position string }
	text, err := os.ReadFile(ready)
	if err != nil || json.Unmarshal(text, &info) != nil || !strings.HasPrefix(info.HTTP, "http://127.0.0.1:") || info.Position == "" {
		t.Errorf("ready file %q, %v", text, err)
	}
	a.Churn(t, base, 7, 300)
	diff := func() zkResult {
		return runZK("", "zk", "--auth", auth, "diff", a.Servers()[0], b.Servers()[0], "--path", base)
	}
	if r := diff(); r.code != 0 || !strings.Contains(r.err, "at the barrier") {
		t.Errorf("diff: %+v", r)
	}
	if r := runZK("", "zk", "--server", b.Servers()[0], "status"); r.code != 0 || !strings.Contains(r.out, base) || !strings.Contains(r.out, "true") {
		t.Errorf("status: %+v", r)
	}
	tgt := b.Client(t, zk.Config{Auth: []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}})
	if _, err := tgt.Create(t.Context(), base+"/foreign", nil, zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	if r := diff(); r.code != 1 || !strings.Contains(r.out, "foreign") || !strings.Contains(r.out, "extra") {
		t.Errorf("diff with a foreign node: %+v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if r := runZK("", "zk", "--timeout", "300ms", "diff", a.Servers()[0], "127.0.0.1:1"); r.code != 2 {
		t.Errorf("diff with nobody: %+v", r)
	}
	for _, args := range []string{"sync", "sync --source h --target h --home nowhere", "sync --sorce h", "diff a", "sync --source h/x --target h"} {
		if r := runZK("", append([]string{"zk"}, strings.Fields(args)...)...); r.code != 2 {
			t.Errorf("zk %s: %+v", args, r)
		}
	}
}

// Two-way from the command line: homes, a flip through the engine, and a conflict settled by a person.
func TestZKTwoWay(t *testing.T) {
	t.Parallel()
	a, b := zktest.Start(t, zktest.Options{}), zktest.Start(t, zktest.Options{FirstID: 7})
	super := []zk.Auth{{Scheme: "digest", Data: []byte("super:" + zktest.SuperPassword)}}
	ca, cb := a.Client(t, zk.Config{Auth: super}), b.Client(t, zk.Config{Auth: super})
	for _, p := range []string{"/app", "/app/x"} {
		if _, err := ca.Create(t.Context(), p, []byte("first"), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	auth := "digest:super:" + zktest.SuperPassword
	ready := filepath.Join(t.TempDir(), "ready.json")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := newRoot()
	root.SetErr(&bytes.Buffer{})
	root.SetArgs([]string{
		"zk", "sync", "--two-way", "--conflicts", "manual", "--source", a.Servers()[0], "--target", b.Servers()[0],
		"--source-auth", auth, "--target-auth", auth, "--ready-file", ready, "--listen", "127.0.0.1:0",
	})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	var info struct{ HTTP string }
	zktest.Eventually(t, 60*time.Second, "the ready file is there", func() bool {
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &info) == nil
	})
	both := func(want string) {
		t.Helper()
		zktest.Eventually(t, 20*time.Second, "both sides hold "+want, func() bool {
			x, _, _ := ca.Get(t.Context(), "/app/x")
			y, _, _ := cb.Get(t.Context(), "/app/x")
			return string(x) == want && string(y) == want
		})
	}
	both("first")
	if r := runZK("", "zk", "flip", "--engine", info.HTTP, "/app", "target"); r.code != 0 || !strings.Contains(r.out, `"/app": "target"`) {
		t.Fatalf("flip: %+v", r)
	}
	if _, err := cb.Set(t.Context(), "/app/x", []byte("second"), -1); err != nil {
		t.Fatal(err)
	}
	both("second")
	if _, err := ca.Set(t.Context(), "/app/x", []byte("foreign"), -1); err != nil {
		t.Fatal(err)
	}
	zktest.Eventually(t, 20*time.Second, "the conflict can be resolved", func() bool {
		return runZK("", "zk", "resolve", "--engine", info.HTTP, "/app/x", "copy").code == 0
	})
	both("foreign")
	for _, c := range []struct {
		args string
		code int
		err  string
	}{
		{"flip --engine " + info.HTTP + " /app/x source", 1, "overlaps"},
		{"flip --engine " + info.HTTP + " /app nowhere", 2, "source or target"},
		{"flip /app source", 2, "--engine"},
		{"resolve --engine " + info.HTTP + " /app/x home", 1, "no conflict"},
	} {
		if r := runZK("", append([]string{"zk"}, strings.Fields(c.args)...)...); r.code != c.code || !strings.Contains(r.err, c.err) {
			t.Errorf("zk %s: %+v", c.args, r)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestZKStretch(t *testing.T) {
	t.Parallel()
	e := zktest.Start(t, zktest.Options{HeapMB: 128})
	n := e.Join(t, 9)
	args := []string{"zk", "stretch", "--server", e.Servers()[0], "--to", n.Member(), "--auth", "digest:super:" + zktest.SuperPassword}
	if r := runZK("", args...); r.code != 0 || !strings.Contains(r.out, " 1. join     server.9") || !strings.Contains(r.out, " 3. remove   server.1") || !strings.Contains(r.out, "--yes") {
		t.Errorf("plan: %+v", r)
	}
	noRight := append([]string{}, args[:6]...)
	if r := runZK("", append(noRight, "--yes")...); r.code != 1 || !strings.Contains(r.err, "super") {
		t.Errorf("without the right: %+v", r)
	}
	if r := runZK("", append(args, "--yes")...); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	e.Nodes[0].Kill()
	zktest.Eventually(t, 30*time.Second, "the new server serves alone", func() bool {
		return runZK("", "zk", "--server", n.Client, "--timeout", "1s", "set", "--create", "/x", "y").code == 0
	})
	if r := runZK("", "zk", "stretch", "--server", n.Client, "--to", n.Member()); r.code != 0 || !strings.Contains(r.out, "nothing to do") {
		t.Errorf("again: %+v", r)
	}
	for _, bad := range []string{"zk stretch --server h:1", "zk stretch --server h:1 --to x"} {
		if r := runZK("", strings.Fields(bad)...); r.code != 2 {
			t.Errorf("%s: %+v", bad, r)
		}
	}
}
