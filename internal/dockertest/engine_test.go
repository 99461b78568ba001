package dockertest

import "testing"

func TestEngine(t *testing.T) {
	e := Start(t, Options{Bridge: true})
	e.Import("box:1", nil)
	if out := e.Docker("run", "--rm", "--net", "host", "box:1", "echo", "hello"); out != "hello" {
		t.Errorf("said %q", out)
	}
	if out := e.Docker("run", "--rm", "box:1", "hostname"); len(out) != 12 {
		t.Errorf("said %q", out)
	}
	e.Docker("run", "-d", "--name", "up", "box:1", "sleep", "1000")
	if v := e.Veths(); len(v) != 1 {
		t.Errorf("veths of one container: %q", v)
	}
	e.Docker("rm", "-f", "up")
	if v := e.Veths(); len(v) != 0 {
		t.Errorf("veths of no container: %q", v)
	}
	if left := append(e.Processes(), e.Cgroups()...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
