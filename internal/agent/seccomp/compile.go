package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in the kernel's struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// x32Bit is set in the numbers of the x32 calls, which share x86-64's architecture.
const x32Bit = 0x40000000

var archNames = map[specs.Arch]string{
	specs.ArchX86_64: "x86_64", specs.ArchX86: "i386", specs.ArchAARCH64: "aarch64", specs.ArchARM: "arm",
}

// Compile makes the filter program of a resolved profile: first the architecture, then the number among those that the
// profile speaks of, in order, then the conditions of their rules. Calls of architectures that the profile does not name kill
// the process, as libseccomp does.
func Compile(p *specs.LinuxSeccomp) ([]bpf.RawInstruction, error) {
	def, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	infos := []*arch.Info{native}
	for _, a := range p.Architectures {
		name, ok := archNames[a]
		if !ok {
			continue // not one of this machine's that we know the calls of: it is killed
		}
		info, err := arch.GetInfo(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(infos, info) {
			infos = append(infos, info)
		}
	}
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: offArch, Size: 4}}
	for _, info := range infos {
		block, err := blockOf(p, info, def)
		if err != nil {
			return nil, err
		}
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1}, bpf.Jump{Skip: uint32(len(block))})
		prog = append(prog, block...)
	}
	prog = append(prog, bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS})
	if len(prog) > 4096 { // BPF_MAXINSNS
		return nil, fmt.Errorf("the profile makes %d instructions, the kernel takes 4096", len(prog))
	}
	return bpf.Assemble(prog)
}

// maxArgs bounds the conditions of a rule: a jump over all of them must fit in a byte.
const maxArgs = 12

// rule is one rule of one call.
type rule struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

func blockOf(p *specs.LinuxSeccomp, info *arch.Info, def uint32) ([]bpf.Instruction, error) {
	rules := make(map[int][]rule)
	for _, s := range p.Syscalls {
		act, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("syscalls %v: %w", s.Names, err)
		}
		if len(s.Args) > maxArgs {
			return nil, fmt.Errorf("syscalls %v: %d conditions, limit %d", s.Names, len(s.Args), maxArgs)
		}
		for _, a := range s.Args {
			if a.Index > 5 {
				return nil, fmt.Errorf("syscalls %v: argument %d: there are six", s.Names, a.Index)
			}
		}
		for _, name := range s.Names {
			if n, ok := info.SyscallNames[name]; ok { // a call that this architecture has not can't be made
				rules[n] = append(rules[n], rule{s.Args, act})
			}
		}
	}
	numbers := make([]int, 0, len(rules))
	for n, rs := range rules {
		numbers = append(numbers, n)
		// Where a rule has no conditions, what has some comes first.
		slices.SortStableFunc(rs, func(a, b rule) int {
			return map[bool]int{true: 1}[len(a.args) == 0] - map[bool]int{true: 1}[len(b.args) == 0]
		})
	}
	slices.Sort(numbers)
	out := []bpf.Instruction{bpf.LoadAbsolute{Off: offNumber, Size: 4}}
	if info == arch.X86_64 {
		out = append(out, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipFalse: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	for i := 0; i < len(numbers); {
		n := numbers[i]
		rs := rules[n]
		if len(rs[0].args) == 0 {
			// A run of neighbours with the same answer is one comparison.
			j := i + 1
			for j < len(numbers) && numbers[j] == numbers[j-1]+1 && len(rules[numbers[j]][0].args) == 0 && rules[numbers[j]][0].action == rs[0].action {
				j++
			}
			out = append(out,
				bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(n), SkipTrue: 2},
				bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(numbers[j-1]), SkipTrue: 1},
				bpf.RetConstant{Val: rs[0].action})
			i = j
			continue
		}
		var body []bpf.Instruction
		for _, r := range rs {
			one, err := ruleOf(r)
			if err != nil {
				return nil, err
			}
			body = append(body, one...)
		}
		body = append(body, bpf.RetConstant{Val: def})
		out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(n), SkipTrue: 1}, bpf.Jump{Skip: uint32(len(body))})
		out = append(out, body...)
		i++
	}
	return append(out, bpf.RetConstant{Val: def}), nil
}

// ruleOf ends in the rule's answer when all its conditions hold, and runs on behind itself when not.
func ruleOf(r rule) ([]bpf.Instruction, error) {
	out := []bpf.Instruction{bpf.RetConstant{Val: r.action}}
	// From the last condition to the first, each knows how far it is to the end.
	for i := len(r.args) - 1; i >= 0; i-- {
		c, err := condition(r.args[i], len(out))
		if err != nil {
			return nil, err
		}
		out = append(c, out...)
	}
	return out, nil
}

// condition compares one 64-bit argument in two halves. It runs on when it holds and skips the next rest instructions when
// it does not.
func condition(a specs.LinuxSeccompArg, rest int) ([]bpf.Instruction, error) {
	lo := uint32(offArgs + 8*a.Index) // little-endian: arch.GetInfo knows no other with calls
	hi := lo + 4
	load := func(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 4} }
	high, low := uint32(a.Value>>32), uint32(a.Value)
	fail := func(n int) uint8 { return uint8(n) } // at most maxArgs conditions of six instructions
	switch a.Op {
	case specs.OpEqualTo:
		return []bpf.Instruction{
			load(hi),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: high, SkipFalse: fail(rest + 2)},
			load(lo),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: low, SkipFalse: fail(rest)},
		}, nil
	case specs.OpNotEqual:
		return []bpf.Instruction{
			load(hi),
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: high, SkipTrue: 2},
			load(lo),
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: low, SkipFalse: fail(rest)},
		}, nil
	case specs.OpMaskedEqual:
		// (argument & Value) == ValueTwo
		return []bpf.Instruction{
			load(hi),
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: high},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ValueTwo >> 32), SkipFalse: fail(rest + 3)},
			load(lo),
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: low},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ValueTwo), SkipFalse: fail(rest)},
		}, nil
	case specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual:
		// Where the high halves differ they decide, else the low ones.
		beyond := bpf.JumpGreaterThan
		if a.Op == specs.OpLessThan || a.Op == specs.OpLessEqual {
			beyond = bpf.JumpLessThan
		}
		last := map[specs.LinuxSeccompOperator]bpf.JumpTest{
			specs.OpGreaterThan: bpf.JumpGreaterThan, specs.OpGreaterEqual: bpf.JumpGreaterOrEqual,
			specs.OpLessThan: bpf.JumpLessThan, specs.OpLessEqual: bpf.JumpLessOrEqual,
		}[a.Op]
		return []bpf.Instruction{
			load(hi),
			bpf.JumpIf{Cond: beyond, Val: high, SkipTrue: 3},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: high, SkipFalse: fail(rest + 2)},
			load(lo),
			bpf.JumpIf{Cond: last, Val: low, SkipFalse: fail(rest)},
		}, nil
	}
	return nil, fmt.Errorf("operator %q is not known", a.Op)
}

// action makes the kernel's answer of a profile's.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > 4095 {
			return 0, fmt.Errorf("errnoRet %d is no error number", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	}
	return 0, fmt.Errorf("action %q is not given by this containerizer", a)
}

// Bytes is a program as the kernel reads it: struct sock_filter after struct sock_filter.
func Bytes(prog []bpf.RawInstruction) []byte {
	out := make([]byte, 0, 8*len(prog))
	for _, i := range prog {
		out = binary.NativeEndian.AppendUint16(out, i.Op)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out
}
