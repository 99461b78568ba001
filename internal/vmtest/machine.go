package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/vmtest/paper"
)

// Inside is the variable that is set for tests in the machine.
const Inside = realpart.InVM

// Config says what a machine has and does.
type Config struct {
	// Tests are run one after the other.
	Tests []Test
	// Programs of the host that they call, beside a shell and the usual small ones.
	Programs []string
	// Trees are directories of the host that they need, such as plugins'.
	Trees []string
	// Modules of the kernel beside those for the devices of the machine.
	Modules []string
	// Disks are formatted anew and mounted.
	Disks []Disk
	// Delegated gives the tests a cgroup namespace, the root of which is a group that holds them: what an agent in a container sees.
	Delegated bool
	// Version1 gives them cgroups v1 instead of v2.
	Version1 bool
	// Limit bounds the run with KVM; 0: 5 minutes. Without it, it is ten times as long.
	Limit time.Duration
}

// Test is the test binary of one package, run in a directory that has its testdata.
type Test struct {
	Package string // import path below the module
	Args    []string
	Env     []string
	// RacedOutside says that the package's code, but for what another package does, runs in tests of the machine that builds as well. Then it is
	// not looked at for races in an emulated machine, where that takes twice the time.
	RacedOutside bool
}

// Disk is a disk of the machine.
type Disk struct {
	At      string
	Format  []string // such as mkfs.xfs, with its arguments: it must be among Programs
	Type    string
	Options string
	MB      int64
}

const modulePath = "github.com/orchestrator/orchestrator/"

// usual are the programs that every machine has.
var usual = []string{
	"busybox", "sh", "sleep", "cat", "cp", "mv", "rm", "ls", "ln", "mkdir", "rmdir", "mknod", "chmod", "chown", "touch", "head", "tail", "tr", "cut", "wc", "sort", "seq", "id", "env", "printf",
	"echo", "true", "false", "test", "stat", "df", "du", "dd", "grep", "sed", "hostname", "setsid", "readlink", "date", "tee", "yes", "mount", "umount", "ps", "kill", "uname", "expr", "nproc", "find", "awk", "sync", "pwd", "stty",
}

var baseModules = []string{"virtio_pci", "virtio_console", "virtio_blk", "overlay", "loop"}

// Run boots a machine, runs the tests in it, and gives each a subtest with its output. Where that is impossible the test is
// skipped, or fails when CI is set.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		realpart.Missing(t, "the machine is an x86-64 one")
	}
	qemu := realpart.Program(t, "qemu-system-x86_64", "qemu-system-x86")
	k, err := findKernel()
	if err != nil {
		realpart.Missing(t, "%v", err)
	}
	kvm := virtualization()
	if cfg.Limit == 0 {
		cfg.Limit = 5 * time.Minute
	}
	if !kvm {
		t.Log("there is no KVM here: the machine is emulated, which takes its time")
		cfg.Limit *= 10
	}
	initramfs := pack(t, k, cfg, kvm)
	defer initramfs.Close()

	limit := cfg.Limit + time.Minute
	if d, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(d)-5*time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	m := &machine{qemu: qemu, kvm: kvm, kernel: k.image, initramfs: initramfs, disks: cfg.Disks}
	var names []string
	for _, test := range cfg.Tests {
		names = append(names, test.Package)
	}
	begun := time.Now()
	r, err := m.run(ctx, len(names))
	if err != nil {
		for i, name := range names {
			if !r.ended[i] && r.output[i].Len() > 0 {
				t.Logf("%s, which had not ended:\n%s", name, r.output[i].String())
			}
		}
		t.Errorf("the machine: %v\nconsole:\n%s", err, r.console.String())
	}
	t.Logf("the machine ran for %.1f s and took %.1f s of processors (KVM: %v)", time.Since(begun).Seconds(), r.cpu.Seconds(), kvm)
	for i, name := range names {
		if !r.ended[i] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Logf("%.1f s\n%s", r.seconds[i], r.output[i].String())
			if r.exit[i] != 0 {
				t.Errorf("exit code %d; the kernel's last words:\n%s", r.exit[i], tail(r.console.String(), 2000))
			}
		})
	}
}

// virtualization reports whether the processor can run the machine. A /dev/kvm alone does not say so: there are KVMs that need
// no support of the processor, inside of other virtual machines, and can run kernels only that were made for them.
func virtualization() bool {
	if !exists("/sys/module/kvm_intel") && !exists("/sys/module/kvm_amd") {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// memory gives a file that is nowhere but in memory.
func memory(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// pack builds what the machine runs and makes the initramfs of it.
func pack(t *testing.T, k *kernel, cfg Config, kvm bool) *os.File {
	t.Helper()
	dir := t.TempDir()
	f, err := memory("initramfs", 0)
	if err != nil {
		t.Fatal(err)
	}
	a := newArchive(f)
	build(t, filepath.Join(dir, "init"), false, "build", "-o", filepath.Join(dir, "init"), modulePath+"internal/vmtest/guest")
	a.file("/init", filepath.Join(dir, "init"))
	build(t, filepath.Join(dir, "executor"), false, "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "executor"), modulePath+"cmd/executor")
	a.file("/tests/executor", filepath.Join(dir, "executor"))
	p := paper.Paper{Limit: cfg.Limit, Delegated: cfg.Delegated, Version1: cfg.Version1}
	for i, test := range cfg.Tests {
		bin := filepath.Join(dir, fmt.Sprintf("%d.test", i))
		build(t, bin, race && (kvm || !test.RacedOutside), "test", "-c", "-o", bin, modulePath+test.Package)
		at := path.Join("/tests", test.Package)
		a.dir(at)
		a.file(path.Join(at, "run.test"), bin)
		a.libraries(bin)
		if data := filepath.Join("..", "..", test.Package, "testdata"); exists(data) {
			a.tree(path.Join(at, "testdata"), data, false)
		}
		p.Commands = append(p.Commands, paper.Command{
			Name: test.Package, Dir: at, Argv: append([]string{path.Join(at, "run.test")}, test.Args...),
			Env: append([]string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", Inside + "=1", "CI=true",
				"ORCHESTRATOR_TEST_HELPER=/tests/executor",
			}, test.Env...),
		})
	}
	for _, d := range []string{"/bin", "/sbin", "/lib", "/lib64", "/root"} {
		a.dir(d)
	}
	for _, name := range append(append([]string(nil), usual...), cfg.Programs...) {
		a.program(name)
	}
	for _, d := range cfg.Trees {
		a.tree(d, d, true)
	}
	for _, file := range []string{"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/protocols", "/etc/services", "/etc/iproute2/rt_tables"} {
		if exists(file) {
			a.copy(file)
		}
	}
	a.content("/etc/hosts", 0o644, "127.0.0.1 localhost vmtest\n")
	a.content("/etc/hostname", 0o644, "vmtest\n")
	a.content("/etc/resolv.conf", 0o644, "")
	modules, err := k.load(append(append([]string(nil), baseModules...), cfg.Modules...))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		file := "/modules/" + m.name + ".ko"
		a.content(file, 0o644, string(m.code))
		p.Modules = append(p.Modules, file)
	}
	for i, d := range cfg.Disks {
		p.Disks = append(p.Disks, paper.Disk{Device: "/dev/vd" + string(rune('a'+i)), Format: d.Format, Type: d.Type, Options: d.Options, At: d.At})
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	a.content(paper.File, 0o644, string(b))
	if err := a.close(); err != nil {
		t.Fatalf("make the initramfs: %v", err)
	}
	return f
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// build runs the go command. A program that looks for races is linked with the C library, the others stand alone.
func build(t *testing.T, out string, race bool, args ...string) {
	t.Helper()
	cgo := "CGO_ENABLED=0"
	if race {
		args = append([]string{args[0], "-race"}, args[1:]...)
		cgo = "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), cgo)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, b)
	}
	if !exists(out) {
		t.Fatalf("go %s made nothing: has the package tests?", strings.Join(args, " "))
	}
}

// machine is one virtual machine.
type machine struct {
	qemu, kernel string
	kvm          bool
	initramfs    *os.File
	disks        []Disk
}

// result is what came out of it.
type result struct {
	output  []bytes.Buffer
	ended   []bool
	exit    []int
	seconds []float64
	console bytes.Buffer
	cpu     time.Duration
}

// run runs the machine until it stops or ctx ends.
func (m *machine) run(ctx context.Context, commands int) (*result, error) {
	r := &result{output: make([]bytes.Buffer, commands), ended: make([]bool, commands), exit: make([]int, commands), seconds: make([]float64, commands)}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "3072", "-smp", "2", "-kernel", m.kernel, "-initrd", "/proc/self/fd/3",
		"-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on nokaslr init_on_alloc=0 transparent_hugepage=always",
		"-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "file,id=out,path=/dev/stdout", "-device", "virtserialport,chardev=out,name=" + paper.Port,
	}
	if m.kvm {
		args = append(args, "-machine", "q35,accel=kvm", "-cpu", "host,arch-capabilities=off") // a nested KVM may show that one without taking it
	} else {
		args = append(args, "-machine", "q35,accel=tcg", "-cpu", "max,la57=off") // a page table of five levels costs a tenth of all
	}
	files := []*os.File{m.initramfs}
	for i, d := range m.disks {
		f, err := memory("disk", d.MB<<20)
		if err != nil {
			return r, err
		}
		defer f.Close()
		files = append(files, f)
		args = append(args, "-drive", fmt.Sprintf("file=/proc/self/fd/%d,format=raw,if=virtio,cache=unsafe,id=disk%d,discard=unmap", 3+len(files)-1, i))
	}
	cmd := exec.CommandContext(ctx, m.qemu, args...)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Stderr = &r.console
	out, w, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer out.Close()
	cmd.Stdout = w
	read := make(chan error, 1)
	go func() { read <- r.read(out) }()
	// The kernel's promise that the machine ends with us is one about the thread that started it: it must not end before.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	err = <-done
	if p := cmd.ProcessState; p != nil {
		r.cpu = p.UserTime() + p.SystemTime()
	}
	w.Close()
	rerr := <-read
	if ctx.Err() != nil {
		return r, fmt.Errorf("it was given up: %w", ctx.Err())
	}
	return r, errors.Join(rerr, err)
}

// read takes the messages out of the machine until the last.
func (r *result) read(f io.Reader) error {
	dec := json.NewDecoder(f)
	done := false
	for {
		var m paper.Message
		if err := dec.Decode(&m); err != nil {
			if errors.Is(err, io.EOF) && done {
				return nil
			}
			return fmt.Errorf("it stopped before its time (%w)", err)
		}
		switch {
		case m.Error != "":
			return errors.New(m.Error)
		case m.Done:
			done = true
		case m.Command < 0 || m.Command >= len(r.ended):
			return fmt.Errorf("it speaks of command %d", m.Command)
		case m.Ended:
			r.ended[m.Command], r.exit[m.Command], r.seconds[m.Command] = true, m.Exit, m.Seconds
		default:
			r.output[m.Command].Write(m.Output)
		}
	}
}
