package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// tracer is the loaded program and what reads its events.
type tracer struct {
	program *ebpf.Program
	started *ebpf.Map
	ring    *ebpf.Map
	link    bpflink.Link
	reader  *ringbuf.Reader
	done    sync.WaitGroup
}

// Layout of the record of the tracepoint sock/inet_sock_set_state (format file of the kernel; stable since 4.16), of which
// the program copies the part from the ports on.
const (
	tpSock     = 8
	tpOld      = 16
	tpNew      = 20
	tpPorts    = 24 // u16 sport, u16 dport, u16 family, u16 protocol, u8[4] saddr, daddr, u8[16] saddr_v6, daddr_v6
	tpProtocol = 30
	tpEnd      = 72
)

// A note of who connects: u64 pid, u64 cgroup, then the names of the process's control group and of those above it, innermost first.
const (
	noteNames  = 16
	nameLevels = 3
	nameSize   = 80 // the longest that matters is "cri-containerd-" and 64 digits
	noteSize   = noteNames + nameLevels*nameSize
)

// An event in the ring: the note, u32 old, u32 new, u64 network namespace, then the record from tpPorts on.
const (
	evStates = noteSize
	evNetns  = noteSize + 8
	evRecord = noteSize + 16
	// eventSize is the whole of it.
	eventSize = evRecord + tpEnd - tpPorts
)

// tracerProgram is the program. A connect is noted with its process and cgroup while that process runs; when the
// connection is established or fails, which happens in the network's own time, the note says whose it was. Server sides have
// no note. Without a layout of the kernel neither names nor namespaces are known.
func tracerProgram(started, ring *ebpf.Map, at *kernelLayout) asm.Instructions {
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, tpProtocol, asm.Half),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "exit"),
		asm.LoadMem(asm.R7, asm.R6, tpOld, asm.Word),
		asm.LoadMem(asm.R8, asm.R6, tpNew, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, tpSock, asm.DWord),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.JEq.Imm(asm.R8, tcpSynSent, "connect"),
		asm.JEq.Imm(asm.R8, tcpEstablished, "established"),
		asm.JNE.Imm(asm.R8, tcpClose, "exit"),
		asm.JEq.Imm(asm.R7, tcpSynSent, "emit"),
		asm.Ja.Label("exit"),
		asm.JEq.Imm(asm.R7, tcpSynSent, "emit").WithSymbol("established"),
		asm.JEq.Imm(asm.R7, tcpSynRecv, "emit"),
		asm.Ja.Label("exit"),

		asm.FnGetCurrentPidTgid.Call().WithSymbol("connect"),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.RFP, stackNote, asm.R0, asm.DWord),
		asm.FnGetCurrentCgroupId.Call(),
		asm.StoreMem(asm.RFP, stackNote+8, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, 0),
	}
	for off := int16(noteNames); off < noteSize; off += 8 {
		ins = append(ins, asm.StoreMem(asm.RFP, stackNote+off, asm.R1, asm.DWord))
	}
	if at != nil {
		ins = append(ins, at.names()...)
	}
	ins = append(
		ins,
		asm.LoadMapPtr(asm.R1, started.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, stackNote),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
		asm.Ja.Label("exit"),

		asm.LoadMapPtr(asm.R1, ring.FD()).WithSymbol("emit"),
		asm.Mov.Imm(asm.R2, eventSize),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.StoreMem(asm.R9, evStates, asm.R7, asm.Word),
		asm.StoreMem(asm.R9, evStates+4, asm.R8, asm.Word),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R9, evNetns, asm.R1, asm.DWord),
	)
	for off := int16(0); off < noteSize; off += 8 {
		ins = append(ins, asm.StoreMem(asm.R9, off, asm.R1, asm.DWord))
	}
	for off := int16(tpPorts); off < tpEnd; off += 8 {
		ins = append(ins, asm.LoadMem(asm.R1, asm.R6, off, asm.DWord), asm.StoreMem(asm.R9, evRecord+off-tpPorts, asm.R1, asm.DWord))
	}
	if at != nil {
		ins = append(ins, at.netns(evNetns)...)
	}
	ins = append(
		ins,
		asm.LoadMapPtr(asm.R1, started.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "submit"),
	)
	for off := int16(0); off < noteSize; off += 8 {
		ins = append(ins, asm.LoadMem(asm.R1, asm.R0, off, asm.DWord), asm.StoreMem(asm.R9, off, asm.R1, asm.DWord))
	}
	return append(
		ins,
		asm.LoadMapPtr(asm.R1, started.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.FnMapDeleteElem.Call(),
		asm.Mov.Reg(asm.R1, asm.R9).WithSymbol("submit"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
		asm.Return(),
	)
}

// loadTracer loads and attaches the program and calls push with every event until the tracer is closed.
func loadTracer(push func(netEvent), at *kernelLayout) (_ *tracer, err error) {
	t := &tracer{}
	defer func() {
		if err != nil {
			_ = t.Close()
			if errors.Is(err, unix.EPERM) {
				err = errors.New("may not load eBPF programs: run the probe as root (or with CAP_BPF and CAP_PERFMON)")
			}
		}
	}()
	if t.started, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 8, ValueSize: noteSize, MaxEntries: 8192}); err != nil {
		return nil, fmt.Errorf("make an eBPF map: %w", err)
	}
	if t.ring, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 1 << 20}); err != nil {
		return nil, fmt.Errorf("make an eBPF ring: %w", err)
	}
	t.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		// Offered under GPL-2.0-only too, which the kernel wants to hear of who reads its memory.
		Name: "set_state", Type: ebpf.TracePoint, License: "GPL", Instructions: tracerProgram(t.started, t.ring, at),
	})
	if err != nil {
		return nil, fmt.Errorf("load the eBPF program: %w", err)
	}
	if t.link, err = attachTracepoint(t.program); err != nil {
		return nil, err
	}
	if t.reader, err = ringbuf.NewReader(t.ring); err != nil {
		return nil, fmt.Errorf("read the eBPF ring: %w", err)
	}
	t.done.Go(func() {
		var rec ringbuf.Record
		for {
			if err := t.reader.ReadInto(&rec); err != nil {
				return // closed
			}
			if ev, ok := parseEvent(rec.RawSample); ok {
				push(ev)
			}
		}
	})
	return t, nil
}

// attachTracepoint attaches to the tracepoint. Its number stands in tracefs; where that is not mounted, it is mounted for one
// thread only, which ends afterwards: the host's mounts stay as they are.
func attachTracepoint(prog *ebpf.Program) (l bpflink.Link, err error) {
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(dir + "/events/sock/inet_sock_set_state"); err == nil {
			return bpflink.Tracepoint("sock", "inet_sock_set_state", prog, nil)
		}
	}
	onOwnThread(func() {
		err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}
		if err != nil {
			err = fmt.Errorf("tracefs is not mounted at /sys/kernel/tracing and can't be: %w", err)
			return
		}
		l, err = bpflink.Tracepoint("sock", "inet_sock_set_state", prog, nil)
	})
	return l, err
}

func parseEvent(b []byte) (ev netEvent, ok bool) {
	if len(b) < eventSize {
		return ev, false
	}
	ne := binary.NativeEndian
	old, now := ne.Uint32(b[evStates:]), ne.Uint32(b[evStates+4:])
	ev.pid, ev.cgroup, ev.netns = int(ne.Uint64(b)), ne.Uint64(b[8:]), ne.Uint64(b[evNetns:])
	for level := range nameLevels {
		name, _, _ := bytes.Cut(b[noteNames+level*nameSize:][:nameSize], []byte{0})
		if len(name) == 0 || len(name) == 1 && name[0] == '/' {
			break
		}
		ev.path = "/" + string(name) + ev.path
	}
	ev.failed = now == tcpClose
	ev.accepted = old == tcpSynRecv
	r := b[evRecord:]
	sport, dport := ne.Uint16(r), ne.Uint16(r[2:])
	if ne.Uint16(r[4:]) == unix.AF_INET {
		ev.local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(r[8:12])), sport)
		ev.remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(r[12:16])), dport)
	} else {
		ev.local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(r[16:32])).Unmap(), sport)
		ev.remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(r[32:48])).Unmap(), dport)
	}
	return ev, dport != 0
}

// Close detaches and unloads everything.
func (t *tracer) Close() error {
	var errs []error
	if t.reader != nil {
		errs = append(errs, t.reader.Close())
	}
	t.done.Wait()
	if t.link != nil {
		errs = append(errs, t.link.Close())
	}
	if t.program != nil {
		errs = append(errs, t.program.Close())
	}
	if t.started != nil {
		errs = append(errs, t.started.Close())
	}
	if t.ring != nil {
		errs = append(errs, t.ring.Close())
	}
	return errors.Join(errs...)
}
