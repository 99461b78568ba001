package userns

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/orchestrator/orchestrator/internal/realpart"
	"golang.org/x/sys/unix"
)

// first is the host's id of root in these tests.
const first = 1_900_000_000

// become runs a program in a user namespace, and gives what it said and what Entry said of itself.
func become(t *testing.T, ns, mounts *os.File, program string, env []string, argv ...string) (out, said string) {
	t.Helper()
	exe, err := os.OpenFile(program, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	e, err := Enter(exe, ns, mounts)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	pipe := func() (*os.File, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	outR, outW := pipe()
	sayR, sayW := pipe()
	gateR, gateW := pipe()
	files := append([]uintptr{0, outW.Fd(), outW.Fd(), ^uintptr(0), sayW.Fd()}, e.Files(gateR)...)
	pid, err := syscall.ForkExec(e.Path, argv, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	outW.Close()
	sayW.Close()
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err != nil || strings.Contains(string(b), " Z ") {
		t.Errorf("it did not wait at the gate: %s %v", b, err)
	}
	if _, err := gateW.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(outR)
	s, _ := io.ReadAll(sayR)
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	return string(b), string(s)
}

// TestEnter: a program runs in the namespace as its root, with its own arguments and environment and no descriptor of ours.
func TestEnter(t *testing.T) {
	realpart.Root(t)
	ns, err := New(first)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	out, said := become(t, ns, nil, sh, []string{"A=1", "B=two words", "PATH=" + os.Getenv("PATH")}, "sh", "-c",
		`echo "$A $B $1 $2"; id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; readlink /proc/self/ns/user; grep CapEff /proc/self/status; ls /proc/self/fd | tr '\n' ' '`, "sh", "x y", "")
	lines := strings.Split(out, "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	mapped := "0 1900000000 65536"
	if said != "" || len(lines) != 8 || lines[0] != "1 two words x y" || lines[1] != "0" || lines[2] != "0" || lines[3] != mapped || lines[4] != mapped ||
		lines[5] != want || lines[6] == "CapEff: 0000000000000000" || lines[7] != "0 1 2 3 4" {
		t.Errorf("said %q, output:\n%s", said, out)
	}
	// Again: the namespace is the same.
	if out, _ := become(t, ns, nil, sh, nil, "sh", "-c", "readlink /proc/self/ns/user"); strings.TrimSpace(out) != want {
		t.Errorf("another namespace: %s, want %s", out, want)
	}
	// What can't be executed, and what can't be entered, is told.
	if _, said := become(t, ns, nil, "/etc/passwd", nil, "x"); said != string([]byte{byte(unix.EACCES)}) {
		t.Errorf("executing a file of text: %q", said)
	}
	if _, said := become(t, ns, ns, sh, nil, "x"); said != string([]byte{byte(unix.EINVAL)}) {
		t.Errorf("a user namespace instead of a mount namespace: %q", said)
	}
}

// TestIDMap: files belong to the namespace's ids, and what is made there to the same ids on the disk.
func TestIDMap(t *testing.T) {
	realpart.Root(t)
	dir, layers := t.TempDir(), t.TempDir()
	if err := Probe(dir, layers, first); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, layers} {
		if es, err := os.ReadDir(d); err != nil || len(es) > 0 {
			t.Errorf("left: %v %v", es, err)
		}
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(before, []byte(dir)) {
		t.Error("mounts are left")
	}
	// A file system of the kernel's own has no idmapped mounts.
	ns, err := New(first)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	proc, err := unix.Open("/proc", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	if fd, err := IDMap(proc, ns); err == nil || !strings.Contains(err.Error(), "idmapped") {
		t.Errorf("proc: %d %v", fd, err)
	}
}
