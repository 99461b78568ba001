package probe

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// kernelLayout is where things lie in the memory of the running kernel, as it says itself (BTF). With it the program that sees a connect
// reads the names of the process's control group and the socket's network namespace at that very moment: who lives for ten milliseconds has
// neither a line in /proc nor a control group left when anybody comes to look.
type kernelLayout struct {
	cgroups        uint32 // task_struct
	group          uint32 // css_set: the default hierarchy's group, or the state of a controller
	state          uint32 // cgroup_subsys_state: its group
	byController   bool
	node           uint32 // cgroup
	name, parent   uint32 // kernfs_node
	net, nsInumber uint32 // sock, net
}

// The program's stack: the socket (the key of the note) at -8, the note, and a word for what is read.
const (
	stackNote = -8 - noteSize
	stackWord = stackNote - 8
)

// findKernelLayout reads it. controller is the one of cgroups version 1 that names containers, "" where version 2 does.
func findKernelLayout(controller string) (*kernelLayout, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	f := layoutFinder{spec: spec}
	at := &kernelLayout{
		cgroups: f.offset("task_struct", "cgroups"), node: f.offset("cgroup", "kn"), name: f.offset("kernfs_node", "name"),
		net: f.offset("sock", "__sk_common", "skc_net", "net"), nsInumber: f.offset("net", "ns", "inum"),
	}
	if at.parent = f.offset("kernfs_node", "parent"); f.err != nil { // renamed in Linux 6.15
		f.err = nil
		at.parent = f.offset("kernfs_node", "__parent")
	}
	if controller == "" {
		at.group = f.offset("css_set", "dfl_cgrp")
	} else {
		at.byController = true
		at.group = f.offset("css_set", "subsys") + 8*f.value("cgroup_subsys_id", controller+"_cgrp_id")
		at.state = f.offset("cgroup_subsys_state", "cgroup")
	}
	return at, f.err
}

type layoutFinder struct {
	spec *btf.Spec
	err  error
}

// offset is where a member of a structure lies, in bytes.
func (f *layoutFinder) offset(name string, path ...string) (at uint32) {
	var s *btf.Struct
	if err := f.spec.TypeByName(name, &s); err != nil {
		f.err = fmt.Errorf("the kernel's %s: %w", name, err)
		return 0
	}
	var t btf.Type = s
	for _, want := range path {
		m, ok := member(t, want)
		if !ok {
			f.err = fmt.Errorf("the kernel's %s has no %s", name, want)
			return 0
		}
		at += m.Offset.Bytes()
		t = btf.UnderlyingType(m.Type)
	}
	return at
}

// member finds a member, also in structures and unions without a name.
func member(t btf.Type, name string) (btf.Member, bool) {
	var list []btf.Member
	switch t := t.(type) {
	case *btf.Struct:
		list = t.Members
	case *btf.Union:
		list = t.Members
	}
	for _, m := range list {
		if m.Name == name {
			return m, true
		}
		if m.Name == "" {
			if in, ok := member(btf.UnderlyingType(m.Type), name); ok {
				in.Offset += m.Offset
				return in, true
			}
		}
	}
	return btf.Member{}, false
}

// value is a constant of an enumeration.
func (f *layoutFinder) value(enum, name string) uint32 {
	var e *btf.Enum
	if err := f.spec.TypeByName(enum, &e); err != nil {
		f.err = fmt.Errorf("the kernel's %s: %w", enum, err)
		return 0
	}
	for _, v := range e.Values {
		if v.Name == name {
			return uint32(v.Value)
		}
	}
	f.err = fmt.Errorf("the kernel's %s has no %s", enum, name)
	return 0
}

// follow reads the word behind a pointer in R9 into R9. What can't be read is 0, and so is all that is read from there on.
func follow(offset uint32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, stackWord),
		asm.Mov.Imm(asm.R2, 8),
		asm.Mov.Reg(asm.R3, asm.R9), asm.Add.Imm(asm.R3, int32(offset)),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R9, asm.RFP, stackWord, asm.DWord),
	}
}

// names writes the names of the current process's control group, and of those above it, into the note. It uses R8 and R9.
func (at *kernelLayout) names() asm.Instructions {
	ins := asm.Instructions{
		asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(asm.R9, asm.R0),
	}
	ins = append(ins, follow(at.cgroups)...)
	ins = append(ins, follow(at.group)...)
	if at.byController {
		ins = append(ins, follow(at.state)...)
	}
	ins = append(ins, follow(at.node)...)
	for level := range int32(nameLevels) {
		ins = append(ins, asm.Mov.Reg(asm.R8, asm.R9))
		ins = append(ins, follow(at.name)...)
		ins = append(
			ins,
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, stackNote+noteNames+level*nameSize),
			asm.Mov.Imm(asm.R2, nameSize),
			asm.Mov.Reg(asm.R3, asm.R9),
			asm.FnProbeReadKernelStr.Call(),
			asm.Mov.Reg(asm.R9, asm.R8),
		)
		ins = append(ins, follow(at.parent)...)
	}
	return ins
}

// netns writes the number of the socket's network namespace into the event in R9. It uses R8.
func (at *kernelLayout) netns(offset int16) asm.Instructions {
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R8, asm.R9),
		asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
		asm.LoadMem(asm.R9, asm.RFP, -8, asm.DWord), // the socket
	}
	ins = append(ins, follow(at.net)...)
	return append(
		ins,
		asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, stackWord, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, stackWord),
		asm.Mov.Imm(asm.R2, 4),
		asm.Mov.Reg(asm.R3, asm.R9), asm.Add.Imm(asm.R3, int32(at.nsInumber)),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R1, asm.RFP, stackWord, asm.DWord),
		asm.Mov.Reg(asm.R9, asm.R8),
		asm.StoreMem(asm.R9, offset, asm.R1, asm.DWord),
	)
}
