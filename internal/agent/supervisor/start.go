package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/osthread"
)

// Proc is a started process.
type Proc struct {
	PID  int
	Done <-chan syscall.WaitStatus // gets the wait status once
}

// Stdio are the process's first three descriptors. The caller closes its copies.
type Stdio struct {
	In, Out, Err *os.File
	// Terminal: In is a terminal that becomes the controlling one.
	Terminal bool
}

// Start starts the process in a session of its own. What the process must inherit and the helper must not have (the file
// mode mask, no-new-privileges, entered namespaces) belongs to a thread: one thread takes it on, forks, and ends.
//
// A process that has more to take on goes through ExecSubcommand, which enters the mount namespace itself: in the
// container's own root there need be nothing that this program can be executed with.
func (r *Reaper) Start(p *spec.Process, join []Namespace, stdio Stdio) (*Proc, error) {
	path, err := findProgram(p, join)
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir:   p.Dir,
		Env:   p.Env,
		Files: []uintptr{stdio.In.Fd(), stdio.Out.Fd(), stdio.Err.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: stdio.Terminal},
	}
	argv := p.Argv
	if len(argv) == 0 {
		argv = []string{path}
	}
	user, join := take(join, "user")
	if user == nil && len(p.Rlimits) == 0 && p.Capabilities == nil && len(p.Seccomp) == 0 {
		if p.Switch {
			attr.Sys.Credential = &syscall.Credential{Uid: p.UID, Gid: p.GID, Groups: p.Groups}
		}
		return r.fork(p, join, func() (*Proc, error) { return r.exec(path, argv, attr) })
	}
	plan := execPlan{Path: path, Argv: argv, Process: p}
	mounts, join := take(join, "mnt")
	if mounts != nil {
		attr.Dir, plan.Dir = "/", p.Dir
	}
	said, saying, err := os.Pipe() // the stage in between says here why it could not become the process
	if err != nil {
		return nil, err
	}
	defer said.Close()
	defer saying.Close()
	var proc *Proc
	if user != nil {
		var opens *os.File
		proc, err = r.fork(p, join, func() (proc *Proc, err error) {
			proc, opens, err = r.startInUser(plan, attr, user, mounts, saying)
			return proc, err
		})
		if err == nil {
			_, err = opens.Write([]byte{'g'})
			opens.Close()
		}
	} else {
		if mounts != nil {
			plan.Mounts = len(attr.Files)
			attr.Files = append(attr.Files, mounts.Fd())
		}
		var file *os.File
		if file, err = planFile(plan); err != nil {
			return nil, err
		}
		defer file.Close()
		stage := []string{"orchestrator-executor", ExecSubcommand, strconv.Itoa(len(attr.Files))}
		attr.Files = append(attr.Files, file.Fd(), saying.Fd())
		proc, err = r.fork(p, join, func() (*Proc, error) { return r.exec("/proc/self/exe", stage, attr) })
	}
	if err != nil {
		return nil, err
	}
	saying.Close() // ours: the other one goes with execve
	if err := heard(said); err != nil {
		<-proc.Done
		return nil, err
	}
	return proc, nil
}

// take gives the last namespace of a kind, and the others.
func take(join []Namespace, kind string) (*os.File, []Namespace) {
	var file *os.File
	rest := make([]Namespace, 0, len(join))
	for _, n := range join {
		if n.kind == kind {
			file = n.file
		} else {
			rest = append(rest, n)
		}
	}
	return file, rest
}

// fork runs start on a thread that has what the process shall inherit.
func (r *Reaper) fork(p *spec.Process, join []Namespace, start func() (*Proc, error)) (proc *Proc, err error) {
	osthread.Run(func() {
		var restore func()
		if restore, err = prepareThread(p, join); err != nil {
			return
		}
		defer restore()
		proc, err = start()
	})
	return proc, err
}

func (r *Reaper) exec(path string, argv []string, attr *syscall.ProcAttr) (*Proc, error) {
	pid, done, err := r.start(func() (int, error) { return syscall.ForkExec(path, argv, attr) })
	if err != nil {
		return nil, fmt.Errorf("execute %s: %w", path, err)
	}
	return &Proc{PID: pid, Done: done}, nil
}

// findProgram finds the process's program in the mount namespace that it will be in.
func findProgram(p *spec.Process, join []Namespace) (path string, err error) {
	mnt := views(join)
	if len(mnt) == 0 {
		return lookPath(p.Path, p.Env, p.Dir)
	}
	osthread.Run(func() {
		if _, err = prepareThread(&spec.Process{}, mnt); err == nil {
			path, err = lookPath(p.Path, p.Env, p.Dir)
		}
	})
	return path, err
}

// maxSaid bounds what the stage in between says.
const maxSaid = 4096

// Namespace is an open namespace for processes to enter.
type Namespace struct {
	kind string
	flag int
	file *os.File
}

// openNamespaces opens what processes will enter. That has to be before anything is mounted: the paths name processes that
// a /proc of the container's own does not show.
func openNamespaces(list []spec.Namespace) ([]Namespace, error) {
	flags := map[string]int{
		"pid": unix.CLONE_NEWPID, "mnt": unix.CLONE_NEWNS, "net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS,
		"user": unix.CLONE_NEWUSER,
	}
	var out []Namespace
	for _, ns := range list {
		f, err := os.Open(ns.Path)
		if err != nil {
			return nil, fmt.Errorf("open %s namespace: %w", ns.Kind, err)
		}
		out = append(out, Namespace{ns.Kind, flags[ns.Kind], f})
	}
	return out, nil
}

// prepareThread gives the calling thread what the child shall inherit.
func prepareThread(p *spec.Process, join []Namespace) (restore func(), err error) {
	restore = func() {}
	if p.Umask != nil || len(join) > 0 {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return nil, os.NewSyscallError("unshare CLONE_FS", err)
		}
	}
	for _, ns := range join {
		if err := unix.Setns(int(ns.file.Fd()), ns.flag); err != nil {
			return nil, fmt.Errorf("enter %s namespace: %w", ns.kind, err)
		}
	}
	if p.Umask != nil {
		unix.Umask(*p.Umask)
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
		}
	}
	if p.OOMScoreAdj != nil {
		// The score belongs to the process: the helper bears its child's for the moment of the fork.
		own, err := os.ReadFile("/proc/self/oom_score_adj")
		if err == nil && os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*p.OOMScoreAdj)), 0) == nil {
			restore = func() { _ = os.WriteFile("/proc/self/oom_score_adj", own, 0) }
		}
	}
	return restore, nil
}

// lookPath finds a program as execvp would: on the PATH of the environment it will get, relative to its directory.
func lookPath(name string, env []string, dir string) (string, error) {
	if name == "" {
		return "", errors.New("no program to execute was given")
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		full := filepath.Join(d, name)
		if fi, err := os.Stat(full); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("%s: executable file not found in PATH", name)
}
