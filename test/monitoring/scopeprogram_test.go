package monitoring

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// scopeProgram builds Weave Scope v1.13.2's own program as its Makefile does: out of its unmodified source with the files that
// are generated beside it (its reports' encoder, by ugorji's codecgen; of the web page, which a probe has no use for, nothing).
func scopeProgram(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/include/pcap.h"); err != nil {
		realpart.Missing(t, "libpcap's headers are needed (Debian: libpcap-dev)")
	}
	module, err := filepath.Abs("../scopeclients")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(in string, env []string, program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = in, append(os.Environ(), env...)
		var diag bytes.Buffer
		cmd.Stderr = &diag
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, diag.String())
		}
		return strings.TrimSpace(string(out))
	}
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	run(module, nil, "go", "mod", "download")
	// Copies, because the module cache is not for writing.
	for name, path := range map[string]string{"scope": "github.com/weaveworks/scope", "ugorji": "github.com/ugorji/go"} {
		from := run(module, nil, "go", "list", "-m", "-f", "{{.Dir}}", path)
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
		run(dir, nil, "chmod", "-R", "u+w", name)
	}
	for _, page := range []string{"staticui", "externalui"} {
		write("scope/prog/"+page+"/none.go", "package "+page+"\n\nimport \"net/http\"\n\n// FS has nothing.\nfunc FS(bool) http.FileSystem { return http.Dir(\"/nonexistent\") }\n", 0o600)
	}
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(module, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(mod), "=> ../scopereaders/lru", "=> "+filepath.Join(module, "..", "scopereaders", "lru"), 1) + "\nreplace github.com/weaveworks/scope => " + filepath.Join(dir, "scope") + "\n"
	write("build.mod", text, 0o600)
	write("build.sum", string(sum), 0o600)
	// codecgen is older than modules and than a check in Go's base64: it imports the package it works on as ".", and has an alphabet
	// with a letter twice, neither of which concerns what it writes. It is not part of Scope.
	gen := filepath.Join(dir, "ugorji", "codec", "gen.go")
	source, err := os.ReadFile(gen)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(source, []byte(`0123456789__"`)) {
		t.Fatal("codecgen is another than was expected")
	}
	if err := os.WriteFile(gen, bytes.Replace(source, []byte(`0123456789__"`), []byte(`0123456789_\x7f"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	write("ugorji/go.mod", "module github.com/ugorji/go\n", 0o600)
	write("gen.mod", text+"replace github.com/ugorji/go => "+filepath.Join(dir, "ugorji")+"\n", 0o600)
	write("gen.sum", string(sum), 0o600)
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("bin/go", "#!/bin/sh\nsed -i 's|\"\\.\"|\"github.com/weaveworks/scope/report\"|' codecgen-main-*.generated.go\nPATH=\"$REAL_PATH\" exec go \"$@\"\n", 0o700)
	run(module, nil, "go", "build", "-o", filepath.Join(dir, "codecgen"), "github.com/ugorji/go/codec/codecgen")
	sources, err := filepath.Glob(filepath.Join(dir, "scope", "report", "*.go"))
	if err != nil || len(sources) == 0 {
		t.Fatal(sources, err)
	}
	args := []string{"-rt", "netgo", "-u", "-o", "report.codecgen.go"}
	for _, s := range sources {
		if !strings.HasSuffix(s, "_test.go") {
			args = append(args, filepath.Base(s))
		}
	}
	run(filepath.Join(dir, "scope", "report"), []string{
		"REAL_PATH=" + os.Getenv("PATH"), "PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "GOFLAGS=-mod=mod -modfile=" + filepath.Join(dir, "gen.mod"),
	}, filepath.Join(dir, "codecgen"), args...)
	program := filepath.Join(dir, "scope-program")
	run(module, nil, "go", "build", "-trimpath", "-mod=mod", "-modfile", filepath.Join(dir, "build.mod"), "-o", program, "github.com/weaveworks/scope/prog")
	return program
}

// scopeProbe runs the program as a probe of a rig's monitor until the test ends, or stop is called.
func (r *rig) scopeProbe(program, host, token string, env []string, args ...string) (stop func()) {
	r.t.Helper()
	args = append([]string{
		"--mode=probe", "--no-app", "--weave=false", "--probe.docker=true", "--probe.token=" + token, "--probe.ebpf.connections=false", "--probe.conntrack=false", "--probe.docker.bridge=",
		"--probe.plugins.root=", strings.TrimPrefix(r.url, "http://"),
	}, args...)
	cmd := exec.Command(program, args...)
	// It asks its maker for newer versions otherwise.
	cmd.Env = append(append(os.Environ(), "SCOPE_HOSTNAME="+host, "CHECKPOINT_DISABLE=1"), env...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if r.t.Failed() {
			b := log.Bytes()
			r.t.Logf("scope: %s", b[max(0, len(b)-4000):])
		}
	}
	r.t.Cleanup(stop)
	return stop
}
