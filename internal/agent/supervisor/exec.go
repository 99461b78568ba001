package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
)

// ExecSubcommand is the helper's mode that sets resource limits, capabilities, the user and a seccomp filter, then becomes
// the process. They can't be set on a child from outside before it runs, and the helper must not set them on itself.
const ExecSubcommand = "__exec"

// execPlan is what ExecSubcommand is told.
type execPlan struct {
	Path    string        `json:"path"`
	Argv    []string      `json:"argv"`
	Process *spec.Process `json:"process"`
	// Mounts is the descriptor of a mount namespace to enter, and Dir the directory in it; 0: none.
	Mounts int    `json:"mounts,omitempty"`
	Dir    string `json:"dir,omitempty"`
}

// planFile puts a plan into memory that the child inherits: it may be longer than an argument can be.
func planFile(plan execPlan) (*os.File, error) {
	p := *plan.Process
	p.Env, p.Argv = nil, nil // inherited, and beside it
	plan.Process = &p
	b, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Exec runs ExecSubcommand: it does not return unless something failed, and then it has told the helper why. arg is the
// descriptor of the plan; the next one is where to tell.
func Exec(arg string) error {
	fd, err := strconv.Atoi(arg)
	if err != nil || fd < 3 {
		return fmt.Errorf("%q is no descriptor of a plan", arg)
	}
	syscall.CloseOnExec(fd)
	syscall.CloseOnExec(fd + 1)
	err = become(fd)
	_, _ = os.NewFile(uintptr(fd+1), "saying").WriteString(err.Error()) // if the helper is there to read it
	return err
}

// become becomes the process of a plan. All of it belongs to one thread, which becomes the process's only one when it
// executes.
func become(fd int) error {
	runtime.LockOSThread()
	b, err := io.ReadAll(os.NewFile(uintptr(fd), "plan"))
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	var plan execPlan
	if err := json.Unmarshal(b, &plan); err != nil {
		return err
	}
	p := plan.Process
	if plan.Mounts > 0 {
		if err := enterMounts(plan.Mounts); err != nil {
			return err
		}
	}
	if plan.Dir != "" {
		if err := unix.Chdir(plan.Dir); err != nil {
			return fmt.Errorf("chdir %s: %w", plan.Dir, err)
		}
	}
	for _, l := range p.Rlimits {
		lim := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if err := unix.Prlimit(0, l.Resource, &lim, nil); err != nil {
			return fmt.Errorf("set resource limit %d to %d:%d: %w", l.Resource, l.Soft, l.Hard, err)
		}
	}
	if err := becomeUser(p); err != nil {
		return err
	}
	// Nothing but the execve follows the filter: it may allow no more than that.
	env := os.Environ()
	if err := installFilter(p.Seccomp); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", plan.Path, syscall.Exec(plan.Path, plan.Argv, env))
}

// enterMounts takes this thread into a mount namespace.
func enterMounts(fd int) error {
	syscall.CloseOnExec(fd)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare CLONE_FS", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mnt namespace: %w", err)
	}
	return nil
}

// becomeUser changes user and capabilities. What the process shall have in the end is put where execve takes it from: the
// ambient set for every user, and the bounding set, which is all that root's is cut down to. What this thread holds above that
// (it may still need it for the filter) is lost in execve.
func becomeUser(p *spec.Process) error {
	caps := p.Capabilities
	if caps != nil {
		if p.Switch && p.UID != 0 {
			if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
				return os.NewSyscallError("prctl PR_SET_KEEPCAPS", err)
			}
		}
		for c := range uint(64) {
			if caps.Bounding&(1<<c) != 0 {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err == unix.EINVAL {
				break // the kernel knows no more
			} else if err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	uid := uint32(os.Geteuid())
	if p.Switch {
		uid = p.UID
		groups := make([]int, len(p.Groups))
		for i, g := range p.Groups {
			groups[i] = int(g)
		}
		if err := unix.Setgroups(groups); err != nil {
			return fmt.Errorf("become user %d: %w", p.UID, os.NewSyscallError("setgroups", err))
		}
		// This thread alone: the others end with execve, and their ways to change all would give up what was kept.
		_, _, e1 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID))
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID))
		if e1 != 0 || e2 != 0 {
			return fmt.Errorf("become user %d: %w", p.UID, errors.Join(errnoOf(e1), errnoOf(e2)))
		}
	}
	if caps == nil {
		return nil
	}
	var effective uint64
	if caps.Effective != nil {
		effective = *caps.Effective
	}
	if err := raise(&effective); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", err)
	}
	for c := range uint(64) {
		if effective&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("give capability %d: %w (the agent itself may not have it)", c, err)
		}
	}
	if uid == 0 && caps.Effective != nil && effective != caps.Bounding {
		// Else execve would give root all of the bounding set.
		const noroot = 1<<0 | 1<<1 // SECBIT_NOROOT, and locked
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noroot, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl PR_SET_SECUREBITS", err)
		}
	}
	return nil
}

func errnoOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// installFilter loads a seccomp program for this thread.
func installFilter(prog []byte) error {
	if len(prog) == 0 {
		return nil
	}
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(prog)%size != 0 || len(prog)/size > 4096 {
		return fmt.Errorf("a seccomp program of %d bytes is none", len(prog))
	}
	filter := make([]unix.SockFilter, len(prog)/size)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&filter[0])), len(prog)), prog)
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		return fmt.Errorf("load the seccomp filter: %w", e)
	}
	runtime.KeepAlive(filter)
	return nil
}

// raise makes all that this thread may have effective. With inheritable those of it that are in that set are what programs inherit.
func raise(inheritable *uint64) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
		if inheritable != nil {
			data[i].Inheritable = uint32(*inheritable>>(32*i)) & data[i].Permitted
		}
	}
	return os.NewSyscallError("capset", unix.Capset(&hdr, &data[0]))
}
