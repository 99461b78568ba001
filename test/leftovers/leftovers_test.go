package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// selfEnv makes this binary the program that is tested.
const selfEnv = "LEFTOVERS_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(selfEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// leftovers runs the program around a shell's script.
func leftovers(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-strict", "-patience=10s"}, args...)...)
	cmd.Env = append(os.Environ(), selfEnv+"=1", "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestWhatIsLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		code   int
		says   []string // none: nothing is said
	}{
		"nothing":                  {"echo hi >$TMPDIR/x; rm $TMPDIR/x; sleep 0.01 & wait", 0, nil},
		"the command's own code":   {"exit 3", 3, nil},
		"a process that soon ends": {"(setsid sleep 0.3 &)", 0, nil},
		"a file":                   {"echo hi >$TMPDIR/thing", 1, []string{"/thing"}},
		"a daemon":                 {"(setsid sh -c 'sleep 7654; true' </dev/null >/dev/null 2>&1 &); exit 4", 4, []string{"process", "sleep 7654"}},
		"one that does not hear":   {`(setsid sh -c 'trap "" TERM HUP; sleep 7653' >/dev/null 2>&1 &)`, 1, []string{"sleep 7653"}},
		"ended by a signal":        {"kill -KILL $$", 128 + 9, []string{"signal: killed"}},
		"a run within a run":       {os.Args[0] + " -strict -patience=10s sh -c 'echo >$TMPDIR/inner'", 1, []string{"/inner"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, said := leftovers(t, "sh", "-c", c.script)
			if code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, said)
			}
			for _, s := range c.says {
				if !strings.Contains(said, s) {
					t.Errorf("%q does not say %q", said, s)
				}
			}
			if len(c.says) == 0 && said != "" {
				t.Errorf("it says %q", said)
			}
		})
	}
}

// TestFilesAreTold: without -strict a file is no failure.
func TestFilesAreTold(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "sh", "-c", "echo hi >$TMPDIR/thing")
	cmd.Env = append(os.Environ(), selfEnv+"=1", "TMPDIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "/thing") {
		t.Errorf("%v %s", err, out)
	}
}

// TestEndsWithItsParent: the command does not outlive a run that is killed, and a signal reaches it.
func TestEndsWithItsParent(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]unix.Signal{"killed": unix.SIGKILL, "told to end": unix.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "pid")
			cmd := exec.Command(os.Args[0], "sh", "-c", "echo $$ >"+file+".new; mv "+file+".new "+file+"; exec sleep 1000")
			cmd.Env = append(os.Environ(), selfEnv+"=1", "TMPDIR="+dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var child string
			poll(t, "the command runs", func() bool {
				b, err := os.ReadFile(file)
				child = strings.TrimSpace(string(b))
				return err == nil
			})
			if err := unix.Kill(cmd.Process.Pid, sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			poll(t, "the command ends", func() bool {
				b, err := os.ReadFile("/proc/" + child + "/stat")
				return err != nil || strings.Contains(string(b), ") Z ")
			})
		})
	}
}

func poll(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
