package seccomp

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/agent/confine"
)

// ask runs a program on one call, as the kernel would.
func ask(t interface{ Fatal(...any) }, raw []bpf.RawInstruction, id arch.AuditArch, nr uint32, args [6]uint64) uint32 {
	insts, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("a raw instruction is not known")
	}
	vm, err := bpf.NewVM(insts)
	if err != nil {
		t.Fatal(err)
	}
	// The virtual machine reads big-endian words, the kernel its own: here every word is written so that it is read right.
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b[0:], nr)
	binary.BigEndian.PutUint32(b[4:], uint32(id))
	for i, a := range args {
		binary.BigEndian.PutUint32(b[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(b[20+8*i:], uint32(a>>32))
	}
	n, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// judge is the oracle: what the profile says, read slowly.
func judge(p *specs.LinuxSeccomp, name string, args [6]uint64) uint32 {
	holds := func(a specs.LinuxSeccompArg) bool {
		v := args[a.Index]
		switch a.Op {
		case specs.OpEqualTo:
			return v == a.Value
		case specs.OpNotEqual:
			return v != a.Value
		case specs.OpGreaterEqual:
			return v >= a.Value
		case specs.OpGreaterThan:
			return v > a.Value
		case specs.OpLessEqual:
			return v <= a.Value
		case specs.OpLessThan:
			return v < a.Value
		}
		return v&a.Value == a.ValueTwo
	}
	var plain *uint32
	for _, s := range p.Syscalls {
		act, _ := action(s.Action, s.ErrnoRet)
		for _, n := range s.Names {
			if n != name {
				continue
			}
			if len(s.Args) == 0 {
				if plain == nil {
					plain = &act
				}
				continue
			}
			all := true
			for _, a := range s.Args {
				all = all && holds(a)
			}
			if all {
				return act
			}
		}
	}
	if plain != nil {
		return *plain
	}
	def, _ := action(p.DefaultAction, p.DefaultErrnoRet)
	return def
}

// TestCompiledProgramsSayWhatTheProfileSays compares random profiles with the oracle, call by call.
func TestCompiledProgramsSayWhatTheProfileSays(t *testing.T) {
	t.Parallel()
	names := []string{"read", "write", "open", "close", "stat", "clone", "personality", "mount", "openat2", "setuid"}
	values := []uint64{0, 1, 0xffffffff, 1 << 32, 1<<32 | 1, 0x7e020000, 1<<63 | 5}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual}
	acts := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActLog, specs.ActKillProcess, specs.ActTrap}
	rapid.Check(t, func(t *rapid.T) {
		p := &specs.LinuxSeccomp{DefaultAction: rapid.SampledFrom(acts).Draw(t, "default"), Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86}}
		for range rapid.IntRange(0, 8).Draw(t, "rules") {
			s := specs.LinuxSyscall{Action: rapid.SampledFrom(acts).Draw(t, "action"), Names: rapid.SliceOfN(rapid.SampledFrom(names), 1, 4).Draw(t, "names")}
			for range rapid.IntRange(0, 3).Draw(t, "args") {
				s.Args = append(s.Args, specs.LinuxSeccompArg{
					Index: uint(rapid.IntRange(0, 5).Draw(t, "index")), Op: rapid.SampledFrom(ops).Draw(t, "op"),
					Value: rapid.SampledFrom(values).Draw(t, "value"), ValueTwo: rapid.SampledFrom(values).Draw(t, "two"),
				})
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		raw, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			name := rapid.SampledFrom(names).Draw(t, "call")
			var args [6]uint64
			for i := range args {
				args[i] = rapid.SampledFrom(values).Draw(t, "arg")
			}
			for _, info := range []*arch.Info{arch.X86_64, arch.I386} {
				if got, want := ask(t, raw, info.ID, uint32(info.SyscallNames[name]), args), judge(p, name, args); got != want {
					t.Fatalf("%s %s%x: %#x, want %#x", info.Name, name, args, got, want)
				}
			}
		}
	})
}

func TestDefaultProfile(t *testing.T) {
	t.Parallel()
	load := func(bounding []confine.Capability) []bpf.RawInstruction {
		p, err := Store{}.Load(confine.DefaultProfile, bounding)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	none, all := load([]confine.Capability{}), load(nil)
	t.Logf("%d instructions", len(none))
	x := arch.X86_64
	denied := uint32(unix.SECCOMP_RET_ERRNO | unix.EPERM)
	for _, c := range []struct {
		prog []bpf.RawInstruction
		call string
		args [6]uint64
		want uint32
	}{
		{none, "read", [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{none, "execve", [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{none, "mount", [6]uint64{}, denied},
		{all, "mount", [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{none, "clone", [6]uint64{unix.CLONE_VM}, unix.SECCOMP_RET_ALLOW},
		{none, "clone", [6]uint64{unix.CLONE_NEWNS}, denied},
		{none, "clone3", [6]uint64{}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{none, "kexec_load", [6]uint64{}, denied},
	} {
		if got := ask(t, c.prog, x.ID, uint32(x.SyscallNames[c.call]), c.args); got != c.want {
			t.Errorf("%s %x: %#x, want %#x", c.call, c.args, got, c.want)
		}
	}
	if got := ask(t, none, x.ID, x32Bit|1, [6]uint64{}); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
		t.Errorf("x32: %#x", got)
	}
	if got := ask(t, none, arch.PPC.ID, 1, [6]uint64{}); got != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("an unknown architecture: %#x", got)
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("good.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["uname"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}`)
	write("empty.json", `{}`)
	write("bad.json", `{`)
	write("big.json", strings.Repeat(" ", maxProfile+1))
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	s := Store{Dir: dir}
	p, err := s.Load("good.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := Compile(p); err != nil {
		t.Error(err)
	} else if got := ask(t, raw, arch.X86_64.ID, unix.SYS_UNAME, [6]uint64{}); got != unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) {
		t.Errorf("uname: %#x", got)
	}
	for name, want := range map[string]string{
		"missing.json": "no such file", "empty.json": "neither", "bad.json": "Decoding", "big.json": "larger", "link.json": "escapes", "../x": "escapes", "/etc/passwd": "relative",
	} {
		if _, err := s.Load(name, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for _, bad := range []*specs.LinuxSeccomp{
		{DefaultAction: "x"},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActNotify}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "x"}}}}},
	} {
		if _, err := Compile(bad); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
