package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer/docker/engine"
	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/osthread"
	"github.com/orchestrator/orchestrator/internal/agent/supervisor"
)

// Limits of the conversation with Docker.
const (
	askTimeout = 10 * time.Second
	// outputWait is for what was written just before the end.
	outputWait = 2 * time.Second
	// killWait is for Docker to end a container that was killed.
	killWait = 20 * time.Second
	// goneWait is how long Docker may be away after the container's first process has ended: nobody else knows how it ended.
	goneWait = 2 * time.Minute
	// oomLate is how long after the end Docker may learn that memory was the reason: a moment, and longer on a host that is busy.
	oomLate = 2 * time.Second
)

// dockerBox is a container of Docker's that the helper stands beside: it starts it, keeps its output, and learns its end
// however often the Engine is restarted meanwhile.
type dockerBox struct {
	c   *supervisor.Container
	eng *engine.Client
	ref atomic.Pointer[string] // what Docker is told to mean the container: its name, and its ID as soon as that is known

	state  spec.DockerState
	about  about
	stop   string   // the image's stop signal
	tty    bool     // no frames in the output
	pidfd  *os.File // nil: the process is not to be seen from here
	killed atomic.Bool

	done chan struct{} // closed when it has ended
	end  end
}

// runDocker is the helper beside a container of Docker's.
func runDocker(c *supervisor.Container) error {
	d := c.Spec.Docker
	if d.Exec != nil {
		return runDockerExec(c)
	}
	b := &dockerBox{c: c, eng: &engine.Client{Socket: d.Socket}, done: make(chan struct{})}
	b.ref.Store(&d.Name)
	c.Remote(b.signalled)
	var drv *driver
	if c.Spec.Mode == spec.Command {
		if c.Spec.Link == nil {
			err := fmt.Errorf("%s: an executor without a link to the agent", c.Spec.ContainerID)
			c.Started(0, err)
			return err
		}
		drv = newDriver(c.Spec, true)
		if d.StopTimeout > 0 {
			drv.core.killGrace = d.StopTimeout
		}
		drv.back = &dockerTask{box: b, d: drv}
	}
	if err := b.start(); err != nil {
		c.Output.Complain("%v", err)
		c.Started(0, err)
		return err
	}
	c.Started(b.state.PID, nil)
	var ws *syscall.WaitStatus
	if drv != nil {
		drv.run(context.Background(), c.Killed)
		b.kill()
		zero := syscall.WaitStatus(0)
		ws = &zero // the executor did what it had to: what became of the task is in its updates
	} else {
		select {
		case <-b.done:
		case <-c.Killed:
			b.kill()
		}
		if b.ended() {
			ws = b.end.status
			if b.end.state != "" {
				c.Why = &spec.Why{State: b.end.state, Reason: b.end.reason, Message: b.end.message, Limitation: b.end.limitation}
			}
		}
	}
	return c.Finish(ws)
}

// start attaches to the container and starts it. A failure leaves it for the agent to remove.
func (b *dockerBox) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-b.c.Killed:
			cancel()
		case <-ctx.Done():
		}
	}()
	wantInput := b.c.Spec.Log.Attach
	stream, err := b.eng.Attach(context.Background(), *b.ref.Load(), wantInput)
	if err != nil {
		return fmt.Errorf("attach to the container: %w", err)
	}
	if err := b.eng.Start(ctx, *b.ref.Load()); err != nil {
		stream.Close()
		return fmt.Errorf("start the container: %w", err)
	}
	st, raw, err := b.eng.Inspect(ctx, *b.ref.Load())
	if err != nil {
		stream.Close()
		return fmt.Errorf("look at the started container: %w", err)
	}
	b.learn(st, raw)
	if err := spec.Write(b.c.Spec.Dir, spec.DockerFile, b.state); err != nil {
		stream.Close()
		return fmt.Errorf("write down the started container: %w", err)
	}
	var resize func(rows, columns uint16)
	if b.tty {
		resize = func(rows, columns uint16) {
			ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
			defer cancel()
			_ = b.eng.Resize(ctx, *b.ref.Load(), rows, columns) // a terminal of the wrong size is better than none
		}
		if w := b.c.Spec.Process.TTY; w != nil && w.Rows > 0 && w.Columns > 0 {
			resize(w.Rows, w.Columns)
		}
	}
	var stdin io.WriteCloser
	if wantInput {
		stdin = stream.Input()
	}
	cut := make(chan time.Time, 1)
	b.c.Output.Remote(stream, stdin, resize, func(stdout, stderr io.Writer) {
		defer stream.Close()
		b.copyAll(stream, stdout, stderr)
		cut <- time.Now()
		b.resume(stdout, stderr)
	})
	go b.follow(cut)
	return nil
}

// copyAll copies a stream of output until it ends.
func (b *dockerBox) copyAll(from io.Reader, stdout, stderr io.Writer) {
	if b.tty {
		_, _ = io.Copy(stdout, from)
		return
	}
	_ = engine.Frames(from, func(stream byte, data []byte) {
		if stream == 2 {
			_, _ = stderr.Write(data)
		} else {
			_, _ = stdout.Write(data)
		}
	})
}

// resume goes on with the output of a container that outlives its Engine: each time a stream breaks off while the container
// runs, what Docker's own log holds since then is read on from there.
func (b *dockerBox) resume(stdout, stderr io.Writer) {
	since := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		select {
		case <-b.done:
			return
		case <-time.After(pause):
		}
		ctx, cancel := context.WithCancel(context.Background())
		var s *engine.Stream
		var err error
		if b.tty {
			s, err = b.eng.Attach(ctx, *b.ref.Load(), false)
		} else {
			s, err = b.eng.Logs(ctx, *b.ref.Load(), since)
		}
		if err != nil {
			cancel()
			continue
		}
		stop := context.AfterFunc(ctx, func() { s.Close() })
		go func() {
			select {
			case <-b.done:
				// The rest of a log that has an end comes by itself.
				select {
				case <-time.After(outputWait):
					cancel()
				case <-ctx.Done():
				}
			case <-ctx.Done():
			}
		}()
		if b.tty {
			b.copyAll(s, stdout, stderr)
		} else {
			_ = engine.Frames(s, func(stream byte, data []byte) {
				at, rest, ok := stamped(data)
				if !ok {
					rest = data
				} else {
					since = at.Add(1)
				}
				if stream == 2 {
					_, _ = stderr.Write(rest)
				} else {
					_, _ = stdout.Write(rest)
				}
			})
		}
		stop()
		cancel()
		s.Close()
	}
}

// stamped takes the time from the beginning of a frame of Docker's log.
func stamped(data []byte) (at time.Time, rest []byte, ok bool) {
	text := data[:min(len(data), 64)]
	i := slices.Index(text, ' ')
	if i < 0 {
		return at, nil, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(text[:i]))
	return at, data[i+1:], err == nil
}

// learn keeps what the Engine says of the container that has just been started.
func (b *dockerBox) learn(st *engine.State, raw json.RawMessage) {
	b.state = spec.DockerState{ID: st.ID}
	if st.ID != "" {
		b.ref.Store(&st.ID) // names can be changed by anybody
	}
	b.tty = st.Config.Tty
	b.stop = st.Config.StopSignal
	if b.stop == "" {
		b.stop = "SIGTERM"
	}
	for name, n := range st.NetworkSettings.Networks {
		for _, ip := range []string{n.IPAddress, n.GlobalIPv6Address} {
			if ip != "" {
				b.state.IPs = append(b.state.IPs, spec.IP{Network: name, Address: ip})
			}
		}
	}
	slices.SortFunc(b.state.IPs, func(x, y spec.IP) int { return strings.Compare(x.Network+x.Address, y.Network+y.Address) })
	b.about.data = tellable(raw, b.c.Spec.Docker.HiddenEnv)
	for _, ip := range b.state.IPs {
		if net.ParseIP(ip.Address).To4() != nil {
			b.about.labels = map[string]string{"Docker.NetworkSettings.IPAddress": ip.Address}
			break
		}
	}
	pid := st.State.Pid
	if pid <= 0 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	// The Engine may run in another PID namespace: what it calls pid is the container's only if the kernel agrees.
	groups, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil || !strings.Contains(string(groups), st.ID) {
		unix.Close(fd)
		return
	}
	b.state.PID, b.pidfd = pid, os.NewFile(uintptr(fd), "pidfd")
}

// tellable is the Engine's account of a container as Mesos puts it into TASK_RUNNING: an array of one, without secrets.
func tellable(raw json.RawMessage, hidden []string) []byte {
	if len(hidden) > 0 {
		var m map[string]any
		if json.Unmarshal(raw, &m) != nil {
			return nil
		}
		cfg, _ := m["Config"].(map[string]any)
		env, _ := cfg["Env"].([]any)
		env = slices.DeleteFunc(env, func(v any) bool {
			s, _ := v.(string)
			name, _, _ := strings.Cut(s, "=")
			return slices.Contains(hidden, name)
		})
		if cfg != nil {
			cfg["Env"] = env
		}
		var err error
		if raw, err = json.Marshal(m); err != nil {
			return nil
		}
	}
	return append(append([]byte{'['}, raw...), ']')
}

// follow learns how the container ends.
func (b *dockerBox) follow(cut <-chan time.Time) {
	code, known, said := b.wait()
	// Docker closes the output when it has passed on everything.
	if known {
		select {
		case <-cut:
		case <-time.After(outputWait):
		}
	}
	b.end = end{said: said}
	if known {
		ws := syscall.WaitStatus(code & 0xff << 8)
		b.end.status = &ws
	}
	if known && code != 0 && !b.killed.Load() && b.exhausted(code) {
		var m spec.Memory
		if spec.Read(b.c.Spec.Dir, spec.MemoryFile, &m) != nil || m.Message == "" {
			m.Message = "Memory limit exceeded"
		}
		b.end.state, b.end.reason, b.end.message, b.end.limitation = "TASK_FAILED", "REASON_CONTAINER_LIMITATION_MEMORY", m.Message, m.Limitation
	}
	b.c.Ended()
	close(b.done)
}

// wait returns when the container has ended, or is not there any more, or its end can't be known.
func (b *dockerBox) wait() (code int, known bool, said string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var goneSince time.Time
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		asking, enough := context.WithCancel(ctx)
		go b.lose(asking, enough)
		code, err := b.eng.Wait(asking, *b.ref.Load())
		enough()
		if err == nil {
			return code, true, fmt.Sprintf("Container exited with status %d", code)
		}
		// The Engine has gone away, or the container has.
		ask, done := context.WithTimeout(ctx, askTimeout)
		st, _, err := b.eng.Inspect(ask, *b.ref.Load())
		done()
		switch {
		case engine.IsStatus(err, engine.NotFound):
			return 0, false, "The container was removed from Docker by somebody else; its exit status is unknown"
		case err == nil && !st.State.Running:
			return st.State.ExitCode, true, fmt.Sprintf("Container exited with status %d", st.State.ExitCode)
		case err == nil:
			goneSince = time.Time{}
		case b.gone():
			if goneSince.IsZero() {
				goneSince = time.Now()
			}
			if b.killed.Load() || time.Since(goneSince) > goneWait {
				return 0, false, "The container has ended while Docker did not answer; its exit status is unknown"
			}
		}
		time.Sleep(pause)
	}
}

// lose ends a question that an Engine which stands still would never answer: the container's first process has ended for some
// time.
func (b *dockerBox) lose(asking context.Context, enough context.CancelFunc) {
	if b.pidfd == nil {
		return
	}
	look := time.NewTicker(2 * askTimeout / 5)
	defer look.Stop()
	for since := (time.Time{}); ; {
		select {
		case <-asking.Done():
			return
		case <-look.C:
		}
		switch {
		case !b.gone():
		case since.IsZero():
			since = time.Now()
		case b.killed.Load() || time.Since(since) > goneWait:
			enough()
			return
		}
	}
}

// gone reports whether the container's first process has certainly ended.
func (b *dockerBox) gone() bool {
	return b.pidfd != nil && unix.PidfdSendSignal(int(b.pidfd.Fd()), 0, nil, 0) == unix.ESRCH
}

// exhausted asks whether the container ended for want of memory. The Engine may learn that a moment after the end.
func (b *dockerBox) exhausted(code int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	for deadline := time.Now().Add(oomLate); ; {
		st, _, err := b.eng.Inspect(ctx, *b.ref.Load())
		if err != nil || st.State.OOMKilled {
			return err == nil
		}
		if code != 128+int(syscall.SIGKILL) || time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (b *dockerBox) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// signalled is the agent's wish for a signal.
func (b *dockerBox) signalled(sig syscall.Signal) error {
	if b.ended() {
		return syscall.ESRCH
	}
	return b.signal(strconv.Itoa(int(sig)), sig)
}

// signal goes through the Engine, and past it when it does not answer.
func (b *dockerBox) signal(name string, sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		b.killed.Store(true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout/2)
	defer cancel()
	err := b.eng.Kill(ctx, *b.ref.Load(), name)
	if err == nil || engine.IsStatus(err, engine.NotFound) || engine.IsStatus(err, engine.Conflict) {
		return nil // it is told, or there is nobody to tell
	}
	if b.pidfd == nil {
		return err
	}
	if kerr := unix.PidfdSendSignal(int(b.pidfd.Fd()), sig, nil, 0); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
		return errors.Join(err, kerr)
	}
	return nil
}

// kill ends the container, and returns when it has ended or the agent has to see to it.
func (b *dockerBox) kill() {
	if b.ended() {
		return
	}
	_ = b.signal("KILL", syscall.SIGKILL) // if it can't be told, the agent removes the container
	select {
	case <-b.done:
	case <-time.After(killWait):
	}
}

// dial connects from the container's network.
func (b *dockerBox) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if b.state.PID == 0 {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(b.state.PID) + "/ns/net")
	if err == nil && b.gone() {
		ns.Close()
		err = errors.New("it has ended") // and its number may be another's
	}
	if err != nil {
		return nil, fmt.Errorf("enter the container's network: %w", err)
	}
	defer ns.Close()
	var conn net.Conn
	osthread.Run(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	return conn, err
}

// dockerTask is the backend of the command executor for a task whose container Docker runs.
type dockerTask struct {
	box *dockerBox
	d   *driver
}

func (t *dockerTask) start(m message.Task) {
	ctx := t.d.ctx
	go func() {
		t.d.tell(ctx, evStarted{taskID: m.ID, about: t.box.about})
		<-t.box.done
		t.box.c.Output.Drain()
		t.d.tell(ctx, evEnded{m.ID, t.box.end})
	}()
}

func (t *dockerTask) signal(_ string, sig syscall.Signal) {
	name := strconv.Itoa(int(sig))
	if sig == syscall.SIGTERM {
		name = t.box.stop
	}
	go func() {
		if err := t.box.signal(name, sig); err != nil {
			fmt.Fprintf(os.Stderr, "signal the container: %v\n", err)
		}
	}()
}

func (t *dockerTask) place() place { return place{run: t.run, dial: t.box.dial} }

// run runs a check's command inside the container.
func (t *dockerTask) run(ctx context.Context, _ string, c *message.Command) (int32, error) {
	cmd := append([]string{c.Value}, c.Arguments...)
	if c.Shell {
		cmd = []string{"/bin/sh", "-c", c.Value}
	}
	p, err := startDockerExec(ctx, t.box.eng, *t.box.ref.Load(), engine.Command{Cmd: cmd, Env: c.Env, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, err
	}
	defer p.close()
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(killed); p.kill() })
	defer func() {
		if !stop() {
			<-killed // half of a kill would leave it stopped
		}
	}()
	_, _ = io.Copy(io.Discard, p.stream)
	if ctx.Err() != nil {
		return 0, fmt.Errorf("the check's command did not end in time: %w", ctx.Err())
	}
	code, err := p.exit(ctx)
	if err != nil {
		p.kill() // the Engine does not know of it any more, or it has let go of its output and runs on
	}
	return int32(code), err
}
