package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer/docker/engine"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/proctree"
	"github.com/orchestrator/orchestrator/internal/agent/supervisor"
)

// dockerProcess is a command that runs inside a container of Docker's.
type dockerProcess struct {
	eng    *engine.Client
	id     string
	stream *engine.Stream // nil: the start has failed
	// An Engine that is restarted forgets the commands which it has started inside of containers, and they run on. So the process is
	// looked up as soon as it is there.
	met     chan struct{} // closed when that has been done
	command spec.DockerCommand
	pidfd   *os.File // nil: it has ended before, or is not to be seen from here
}

// startLate is how long after a start that got no answer the command may still come.
const startLate = 2 * time.Second

// startDockerExec starts a command inside a container. ctx is for the start alone.
func startDockerExec(ctx context.Context, eng *engine.Client, name string, cmd engine.Command) (*dockerProcess, error) {
	id, err := eng.ExecCreate(ctx, name, cmd)
	if err != nil {
		return nil, fmt.Errorf("prepare a command in the container: %w", err)
	}
	p := &dockerProcess{eng: eng, id: id, met: make(chan struct{})}
	if p.stream, err = eng.ExecStart(context.WithoutCancel(ctx), id, cmd); err != nil {
		var answer *engine.Error
		if !errors.As(err, &answer) {
			// Whether it was started is not known. Nobody would ever hear of it.
			p.meet(startLate)
			p.kill()
			p.close()
		}
		return nil, fmt.Errorf("start a command in the container: %w", err)
	}
	go p.meet(askTimeout)
	return p, nil
}

// meet looks the command's process up.
func (p *dockerProcess) meet(limit time.Duration) {
	defer close(p.met)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	st, err := p.eng.ExecInspect(ctx, p.id)
	for err == nil && st.ExitCode == nil && (!st.Running || st.Pid <= 0) {
		// It is only just starting: Docker has taken it on and has no process yet.
		select {
		case <-time.After(5 * time.Millisecond):
			st, err = p.eng.ExecInspect(ctx, p.id)
		case <-ctx.Done():
			return
		}
	}
	if err != nil || !st.Running || st.Pid <= 0 {
		return
	}
	fd, err := unix.PidfdOpen(st.Pid, 0)
	if err != nil {
		return
	}
	// Only a process that the kernel says is of this container is the one that Docker means.
	groups, err := os.ReadFile("/proc/" + strconv.Itoa(st.Pid) + "/cgroup")
	start, serr := proctree.StartTime(st.Pid)
	if err != nil || serr != nil || !strings.Contains(string(groups), st.ContainerID) {
		unix.Close(fd)
		return
	}
	p.command = spec.DockerCommand{ContainerID: st.ContainerID, PID: st.Pid, StartTime: start}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
}

// close forgets the command.
func (p *dockerProcess) close() {
	if p.stream != nil {
		p.stream.Close()
	}
	<-p.met
	if p.pidfd != nil {
		p.pidfd.Close()
	}
}

// exit gives the exit code of a command whose output has ended.
func (p *dockerProcess) exit(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		st, err := p.eng.ExecInspect(ctx, p.id)
		switch {
		case err != nil:
			return 0, fmt.Errorf("ask how the command ended: %w", err)
		case !st.Running && st.ExitCode != nil:
			return *st.ExitCode, nil
		}
		select {
		case <-time.After(pause): // it has closed its output and goes on, or is not known to have ended yet
		case <-ctx.Done():
			return 0, fmt.Errorf("ask how the command ended: %w", ctx.Err())
		}
	}
}

// kill kills the command and what it has started: for Docker itself a command can't be ended.
func (p *dockerProcess) kill() {
	if p.stream != nil {
		defer p.stream.Close()
	}
	if <-p.met; p.pidfd != nil {
		_ = proctree.End(int(p.pidfd.Fd()), p.command.PID)
	}
}

// signal sends a signal to the command.
func (p *dockerProcess) signal(sig syscall.Signal) error {
	<-p.met
	if p.pidfd == nil {
		return errors.New("the command has ended, or its process is not to be seen from here")
	}
	return unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
}

// runDockerExec is the helper beside a command in a container: a session, or a check that the agent's API asked for.
func runDockerExec(c *supervisor.Container) error {
	d := c.Spec.Docker
	eng := &engine.Client{Socket: d.Socket}
	w := c.Spec.Process.TTY
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := engine.Command{
		Cmd: d.Exec.Cmd, Env: d.Exec.Env, User: d.Exec.User, Tty: w != nil, AttachStdin: c.Spec.Log.Attach, AttachStdout: true, AttachStderr: true,
	}
	if w != nil && w.Rows > 0 && w.Columns > 0 {
		cmd.ConsoleSize = &[2]uint{uint(w.Rows), uint(w.Columns)}
	}
	p, err := startDockerExec(ctx, eng, d.Name, cmd)
	cancel()
	if err != nil {
		c.Started(0, err)
		return err
	}
	// If this helper is killed the agent ends the command.
	if <-p.met; p.pidfd != nil {
		if err := spec.Write(c.Spec.Dir, spec.ExecFile, p.command); err != nil {
			p.kill()
			c.Started(0, err)
			return err
		}
	}
	var resize func(rows, columns uint16)
	if w != nil {
		resize = func(rows, columns uint16) {
			ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
			defer cancel()
			// A command that is only just starting has no terminal yet. One of the wrong size is better than none.
			for range 20 {
				if eng.ExecResize(ctx, p.id, rows, columns) == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		if w.Rows > 0 && w.Columns > 0 {
			resize(w.Rows, w.Columns)
		}
	}
	c.Remote(p.signal)
	over := make(chan struct{})
	var stdin io.WriteCloser
	if c.Spec.Log.Attach {
		stdin = p.stream.Input()
	}
	c.Output.Remote(p.stream, stdin, resize, func(stdout, stderr io.Writer) {
		defer close(over)
		if w != nil {
			_, _ = io.Copy(stdout, p.stream)
			return
		}
		_ = engine.Frames(p.stream, func(stream byte, data []byte) {
			if stream == 2 {
				_, _ = stderr.Write(data)
			} else {
				_, _ = stdout.Write(data)
			}
		})
	})
	c.Started(0, nil)
	select {
	case <-over:
	case <-c.Killed:
		p.kill()
		select {
		case <-over:
		case <-time.After(outputWait):
		}
	}
	var ws *syscall.WaitStatus
	if code, err := p.exit(context.Background()); err == nil {
		s := syscall.WaitStatus(code & 0xff << 8)
		ws = &s
	} else {
		p.kill() // the Engine does not know of it any more, or it has let go of its output and runs on
	}
	return c.Finish(ws)
}
