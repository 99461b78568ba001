package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/userns"
)

// A container in a user namespace: its processes are in it, the helper is not, and neither do the container's other namespaces
// belong to it. So its root is nobody to the helper, to the host's files and to all that is mounted; what it is to have of
// them is shown to it under its own ids.

// view is how the container sees files; without ns as they are.
type view struct {
	ns  *os.File
	ids *spec.IDs
}

// makeUser makes the container's user namespace, if it has one and does not join another's.
func (c *Container) makeUser() error {
	ids := c.Spec.IDs
	if ids == nil || slices.ContainsFunc(c.join, func(n Namespace) bool { return n.kind == "user" }) {
		return nil
	}
	made, err := userns.New(ids.First)
	if err != nil {
		return err
	}
	err = unix.Dup3(int(made.Fd()), spec.UserFD, unix.O_CLOEXEC)
	made.Close()
	if err != nil {
		return os.NewSyscallError("dup3", err)
	}
	ns := os.NewFile(spec.UserFD, "user")
	c.view = view{ns: ns, ids: ids}
	c.join = append(c.join, Namespace{"user", unix.CLONE_NEWUSER, ns})
	if !ids.OpenNetwork {
		return nil
	}
	for name, value := range map[string]string{"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4", name), []byte(value), 0); err != nil {
			return fmt.Errorf("open the container's network to its users: %w", err)
		}
	}
	return nil
}

// become makes the calling thread, which must be one of osthread's, root of the container's user namespace as far as files are
// concerned: what it makes belongs to that. It keeps what it may do.
func (v *view) become() error {
	if v.ns == nil {
		return nil
	}
	id := v.ids.Host(0)
	if err := unix.Setfsgid(id); err != nil {
		return os.NewSyscallError("setfsgid", err)
	}
	if err := unix.Setfsuid(id); err != nil {
		return os.NewSyscallError("setfsuid", err)
	}
	return raise(nil)
}

// owned makes the root of a tmpfs with these options the container's.
func (v *view) owned(options string) string {
	if v.ns == nil {
		return options
	}
	id := strconv.Itoa(v.ids.Host(0))
	if options != "" {
		options += ","
	}
	return options + "uid=" + id + ",gid=" + id
}

// shown reports whether what is at a descriptor is shown under the container's ids already: it lies in its sandbox.
func (v *view) shown(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && int(st.Uid) >= v.ids.Host(0) && int(st.Uid) < v.ids.Host(userns.Count)
}

// bind shows what is at a descriptor at another one's place.
func (v *view) bind(source, at int) error {
	m, err := userns.IDMap(source, v.ns)
	if err != nil {
		return err
	}
	defer unix.Close(m)
	return userns.Attach(m, at)
}

// startInUser starts a process that has to enter a user namespace, by way of ExecSubcommand in it. What it has to take on before
// that, for which rights of the host are needed, is the calling thread's or done here while it waits.
func (r *Reaper) startInUser(plan execPlan, attr *syscall.ProcAttr, user, mounts *os.File, saying *os.File) (*Proc, *os.File, error) {
	limits := plan.Process.Rlimits
	p := *plan.Process
	p.Rlimits = nil
	plan.Process = &p
	file, err := planFile(plan)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	self, err := os.OpenFile("/proc/self/exe", unix.O_PATH, 0)
	if err != nil {
		return nil, nil, err
	}
	defer self.Close()
	entry, err := userns.Enter(self, user, mounts)
	if err != nil {
		return nil, nil, err
	}
	defer entry.Close()
	gate, opens, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer gate.Close()
	attr.Files = append(append(attr.Files, file.Fd(), saying.Fd()), entry.Files(gate)...)
	argv := []string{"orchestrator-executor", ExecSubcommand, strconv.Itoa(userns.SayFD - 1)}
	pid, done, err := r.start(func() (int, error) { return syscall.ForkExec(entry.Path, argv, attr) })
	if err != nil {
		opens.Close()
		return nil, nil, fmt.Errorf("enter the user namespace: %w", err)
	}
	proc := &Proc{PID: pid, Done: done}
	for _, l := range limits {
		if err = unix.Prlimit(pid, l.Resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			err = fmt.Errorf("set resource limit %d to %d:%d: %w", l.Resource, l.Soft, l.Hard, err)
			break
		}
	}
	if err != nil {
		_ = r.Kill(pid, syscall.SIGKILL)
		<-done
		opens.Close()
		return nil, nil, err
	}
	return proc, opens, nil
}

// heard reads what a stage before the process says when it can't become it; nil: it has become it.
func heard(said io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(said, maxSaid))
	switch {
	case err != nil || len(text) == 0:
		return nil
	case len(text) == 1: // of package userns
		return fmt.Errorf("enter the user namespace: %w", syscall.Errno(text[0]))
	}
	return errors.New(string(text))
}
