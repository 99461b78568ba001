package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// deviceRule is one line of a device whitelist.
type deviceRule struct {
	kind         byte // 'a': both
	major, minor int64
	access       int32
}

// The kernel's numbers (linux/bpf.h: BPF_DEVCG_*).
const (
	devBlock, devChar           = 1, 2
	accMknod, accRead, accWrite = 1, 2, 4
	accAll                      = accMknod | accRead | accWrite
)

func parseRule(s string) (deviceRule, error) {
	bad := fmt.Errorf("device rule %q is not of the form 'c 1:3 rwm'", s)
	f := strings.Fields(s)
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("abc", f[0]) {
		return deviceRule{}, bad
	}
	r := deviceRule{kind: f[0][0]}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok {
		return r, bad
	}
	for _, x := range []struct {
		text string
		to   *int64
	}{{major, &r.major}, {minor, &r.minor}} {
		if *x.to = -1; x.text == "*" {
			continue
		}
		n, err := strconv.ParseUint(x.text, 10, 31)
		if err != nil {
			return r, bad
		}
		*x.to = int64(n)
	}
	for _, c := range f[2] {
		switch c {
		case 'r':
			r.access |= accRead
		case 'w':
			r.access |= accWrite
		case 'm':
			r.access |= accMknod
		default:
			return r, bad
		}
	}
	return r, nil
}

// deviceProgram allows what one of the rules allows and nothing else. R1 points to struct bpf_cgroup_dev_ctx: access_type
// (access << 16 | kind), major, minor.
func deviceProgram(rules []string) (asm.Instructions, error) {
	p := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.Mov.Reg32(asm.R3, asm.R2),
		asm.And.Imm32(asm.R2, 0xffff), // kind
		asm.RSh.Imm32(asm.R3, 16),     // access
		asm.LoadMem(asm.R4, asm.R1, 4, asm.Word),
		asm.LoadMem(asm.R5, asm.R1, 8, asm.Word),
	}
	for i, text := range rules {
		r, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		begin, next := len(p), fmt.Sprintf("rule%d", i+1)
		switch r.kind {
		case 'c':
			p = append(p, asm.JNE.Imm32(asm.R2, devChar, next))
		case 'b':
			p = append(p, asm.JNE.Imm32(asm.R2, devBlock, next))
		}
		if r.access != accAll {
			// What is asked for beyond the rule's access is not this rule's to allow.
			p = append(p, asm.Mov.Reg32(asm.R0, asm.R3), asm.And.Imm32(asm.R0, ^r.access&accAll), asm.JNE.Imm32(asm.R0, 0, next))
		}
		if r.major >= 0 {
			p = append(p, asm.JNE.Imm32(asm.R4, int32(r.major), next))
		}
		if r.minor >= 0 {
			p = append(p, asm.JNE.Imm32(asm.R5, int32(r.minor), next))
		}
		all := len(p) == begin // no condition: what follows would never be reached, which the kernel refuses
		p = append(p, asm.Mov.Imm(asm.R0, 1), asm.Return())
		if i > 0 {
			p[begin] = p[begin].WithSymbol(fmt.Sprintf("rule%d", i))
		}
		if all {
			return p, nil
		}
	}
	end := asm.Mov.Imm(asm.R0, 0)
	if len(rules) > 0 {
		end = end.WithSymbol(fmt.Sprintf("rule%d", len(rules)))
	}
	return append(p, end, asm.Return()), nil
}

// limitDevices2 attaches the whitelist to a v2 group. It lives as long as the group.
func (g *Group) limitDevices2(rules []string) error {
	insns, err := deviceProgram(rules)
	if err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "devices", Type: ebpf.CGroupDevice, Instructions: insns, License: "Apache"})
	if err != nil {
		return fmt.Errorf("load the device whitelist: %w", err)
	}
	defer prog.Close()
	dir, err := os.Open(g.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: prog, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI,
	}); err != nil {
		return fmt.Errorf("attach the device whitelist: %w", err)
	}
	return nil
}
