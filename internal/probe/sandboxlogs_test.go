package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// A page that has lost its connection gets what a task has said meanwhile: all of it, and nothing twice, though the sandbox's files hold no times.
func TestTheLogOfASandboxGoesOnWhereItWasLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	say := func(stream, text string) {
		f, err := os.OpenFile(filepath.Join(dir, stream), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// read gives the lines, as "stream text", and the places behind the last ones.
	read := func(args ...string) (lines []string, after string, err error) {
		var there, here *pipe.Mux
		there = pipe.NewMux(func(m *probev1.Pipe) error { here.Handle(m); return nil })
		here = pipe.NewMux(func(m *probev1.Pipe) error { there.Handle(m); return nil })
		a, b := there.Open(1), here.Open(1)
		req := &probev1.Request{}
		for _, x := range args {
			k, v, _ := strings.Cut(x, "=")
			req.Args = append(req.Args, &probev1.Attr{Key: k, Value: v})
		}
		done := make(chan error, 1)
		go func() {
			err := new(Probe).sandboxLogs(t.Context(), req, &probev1.Entity{Label: "web"}, dir, a)
			a.Close()
			done <- err
		}()
		places := map[string]string{}
		for {
			stream, data, err := b.Recv(t.Context())
			if err != nil {
				break
			}
			name := map[uint32]string{pipe.Stdout: "stdout", pipe.Stderr: "stderr"}[stream]
			for l := range strings.Lines(string(data)) {
				at, text, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
				_, place, placed := strings.Cut(at, "@")
				if placed != slices.Contains(args, "places=1") {
					t.Errorf("%q", l)
				}
				lines, places[name] = append(lines, name+" "+text), place
			}
		}
		return lines, fmt.Sprintf("stdout=%s,stderr=%s", places["stdout"], places["stderr"]), <-done
	}
	same := func(what string, got []string, err error, want ...string) {
		t.Helper()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q %v, want %q", what, got, err, want)
		}
	}
	say("stdout", "0\n1\n2\n")
	say("stderr", "oops\n")
	lines, _, err := read("tail=2")
	same("without places", lines, err, "stdout 1", "stdout 2", "stderr oops")
	lines, after, err := read("tail=2", "places=1")
	same("at first", lines, err, "stdout 1", "stdout 2", "stderr oops")
	say("stdout", "3\n4\n")
	lines, again, err := read("tail=10000", "places=1", "since=1795687200500", "follow=0", "after="+after)
	same("what was said meanwhile", lines, err, "stdout 3", "stdout 4")
	stdout, _, _ := strings.Cut(again, ",")
	lines, _, err = read("tail=10000", "places=1", "after="+stdout)
	same("of one that had said nothing", lines, err, "stderr oops")
	lines, _, err = read("tail=1", "places=1", "after=stdout=0-0")
	same("of a file that is not there any more", lines, err, "stdout 4", "stderr oops")
	for _, bad := range []string{"stdout", "stdout=1", "stdout=1-", "stdout=1--2", "stdin=1-2", "stdout=1-2,,", "stdout=x-2"} {
		if lines, _, err := read("tail=1", "after="+bad); err == nil || !strings.Contains(err.Error(), "is no place in a log") {
			t.Errorf("after=%s: %q %v", bad, lines, err)
		}
	}
}
