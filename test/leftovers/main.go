package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	host := flag.Bool("host", false, "look at the whole host too: control groups, network interfaces, packet filter, loop devices, shared memory; only tells of what is left there")
	patience := flag.Duration("patience", 30*time.Second, "how long what was told to end may take for it when the command has ended")
	strict := flag.Bool("strict", false, "fail also because of files, and of what is new on the host")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: leftovers [-host] COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	code, left, told, err := run(flag.Args(), *host, *patience)
	if err != nil {
		fmt.Fprintln(os.Stderr, "leftovers:", err)
		os.Exit(2)
	}
	if *strict {
		left, told = append(left, told...), nil
	}
	dir, _ := os.Getwd()
	if len(told) > 0 {
		fmt.Fprintf(os.Stderr, "leftovers: new since %s in %s began (on the host perhaps somebody else's), and no failure:\n\t%s\n", flag.Arg(0), dir, strings.Join(told, "\n\t"))
	}
	if len(left) > 0 {
		fmt.Fprintf(os.Stderr, "leftovers: %s in %s has left behind:\n\t%s\n", flag.Arg(0), dir, strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	os.Exit(code)
}

// run runs a command. It gives its exit code, what it has left, and what is only to be told: files, and what is new on the host.
func run(argv []string, host bool, patience time.Duration) (code int, left, told []string, err error) {
	tmp, err := temporary()
	if err != nil {
		return 0, nil, nil, err
	}
	var before map[string]bool
	if host {
		if before, err = lookAtHost(); err != nil {
			return 0, nil, nil, err
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, nil, nil, fmt.Errorf("become the reaper of orphans: %w", err)
	}
	runtime.LockOSThread() // the command is to die with this process: the kernel's promise is one about the thread
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, nil, nil, errors.Join(err, os.RemoveAll(tmp))
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	code = reap(cmd.Process.Pid)
	left, told = settle(tmp, patience)
	if host {
		told = append(told, settleHost(before, patience)...)
	}
	return code, left, told, nil
}

// temporary makes a directory for temporary files. Its name is short, because paths of sockets must be: inside of another run's
// two more letters.
func temporary() (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	parent, n := os.TempDir(), 0
	prefix := "left"
	if strings.HasPrefix(filepath.Base(parent), prefix) {
		prefix = ""
	}
	for {
		now := time.Now().UnixNano()/1000 + int64(os.Getpid())*7919
		name := prefix + string(letters[now%36]) + string(letters[now/36%36]) + string(letters[now/1296%36])
		dir := filepath.Join(parent, name)
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			return dir, os.Chmod(dir, 0o777|os.ModeSticky) // as /tmp: tests have other users
		}
		if n++; !errors.Is(err, os.ErrExist) || n > 1000 {
			return "", err
		}
	}
}

// reap waits for a process, and for the orphans that end meanwhile.
func reap(pid int) (code int) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1
		case got != pid:
		case status.Signaled():
			fmt.Fprintf(os.Stderr, "leftovers: ended by signal: %s\n", status.Signal())
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}

// settle gives what is left of processes and mounts, and of files, when they have had their time, and puts it away.
func settle(tmp string, patience time.Duration) (left, files []string) {
	deadline := time.Now().Add(patience)
	pause := time.Millisecond
	for len(descendants()) > 0 && time.Now().Before(deadline) {
		reapEnded()
		time.Sleep(pause) // others' processes end, which nothing tells but asking
		pause = min(2*pause, 50*time.Millisecond)
	}
	for round := 0; round < 100; round++ {
		// One that is ended may leave children, which are ours then.
		all := descendants()
		if len(all) == 0 {
			break
		}
		for _, p := range all {
			if text := "process " + p.String(); !slices.Contains(left, text) {
				left = append(left, text)
			}
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond) // as above
		reapEnded()
	}
	for _, m := range mountsBelow(tmp) {
		left = append(left, "mount "+m)
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	es, err := os.ReadDir(tmp)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, e := range es {
		files = append(files, "file "+filepath.Join(tmp, e.Name()))
	}
	if err := os.RemoveAll(tmp); err != nil {
		left = append(left, err.Error())
	}
	return left, files
}

func reapEnded() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}
