package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/creack/pty"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/probe/logfile"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// needPipe refuses a request that was made without a stream.
func needPipe(s *pipe.Pipe) error {
	if s == nil {
		return refuse("bad_request", "this needs a stream")
	}
	return nil
}

// logs streams a container's log, with each line's time before it. Arguments: tail, since, until (ms), follow, stream.
func (p *Probe) logs(ctx context.Context, req *probev1.Request, e *probev1.Entity, s *pipe.Pipe) (any, error) {
	if err := needPipe(s); err != nil {
		return nil, err
	}
	ctx, stop := untilClosed(ctx, s)
	defer stop()
	id, ok := p.dockerID(e)
	if !ok {
		if dir := attr(e, "sandbox"); dir != "" {
			return nil, p.sandboxLogs(ctx, req, e, dir, s)
		}
		if r := p.runtimeOf(e); r != nil {
			return nil, p.runtimeLogs(ctx, req, e, r, s)
		}
		return nil, refuse("conflict", "the log of %s is kept by what started it: the probe knows those of Docker, containerd, CRI and Mesos agents (--mesos-agent)", e.Label)
	}
	query := url.Values{"stdout": {"1"}, "stderr": {"1"}, "timestamps": {"1"}}
	switch arg(req, "stream") {
	case "stdout":
		query.Del("stderr")
	case "stderr":
		query.Del("stdout")
	}
	if t := arg(req, "tail"); t != "" {
		query.Set("tail", t)
	}
	if arg(req, "follow") == "1" {
		query.Set("follow", "1")
	}
	for _, name := range []string{"since", "until"} {
		if ms, err := strconv.ParseInt(arg(req, name), 10, 64); err == nil && ms > 0 {
			query.Set(name, fmt.Sprintf("%d.%03d000000", ms/1000, ms%1000))
		}
	}
	var d struct{ Config struct{ Tty bool } }
	if err := p.docker.api.call(ctx, "GET", "/containers/"+id+"/json", nil, nil, &d); err != nil {
		return nil, err
	}
	resp, err := p.docker.api.open(ctx, "GET", "/containers/"+id+"/logs", query, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	send := func(stream uint32, data []byte) error { return s.Send(ctx, stream, data) }
	if d.Config.Tty {
		err = copyRaw(resp.Body, send)
	} else {
		err = demux(resp.Body, send)
	}
	return nil, ended(err)
}

// ended turns the ways in which a stream ends by itself, or because its reader has left, into success.
func ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, pipe.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno == syscall.EIO { // a terminal whose processes have ended
		return nil
	}
	return err
}

func copyRaw(r io.Reader, send func(uint32, []byte) error) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := send(pipe.Stdout, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// untilClosed gives a context that ends when the pipe does, and drains what the other side still sends.
func untilClosed(ctx context.Context, s *pipe.Pipe) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			if _, _, err := s.Recv(ctx); err != nil {
				cancel()
				return
			}
		}
	}()
	return ctx, cancel
}

// sandboxLogs reads stdout and stderr of a Mesos task out of its sandbox. The files hold no times, so each line gets the
// time at which it was read, or the file's when it was there before.
func (p *Probe) sandboxLogs(ctx context.Context, req *probev1.Request, e *probev1.Entity, dir string, s *pipe.Pipe) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the sandbox: %w", err)
	}
	defer root.Close()
	o, err := logOptions(req)
	if err != nil {
		return err
	}
	after, err := placesAfter(arg(req, "after"))
	if err != nil {
		return err
	}
	if !o.Since.IsZero() && arg(req, "follow") == "1" && len(after) == 0 {
		o.Lines = 0 // what came since can't be told from what was there before: somebody who has read up to about now goes on
	}
	var tails []*logfile.Tail
	for _, name := range []string{logfile.Stdout, logfile.Stderr} {
		if o.Stream != "" && o.Stream != name {
			continue
		}
		o.Plain, o.After = name, after[name]
		t, err := logfile.Open(root, name, o)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer t.Close()
		tails = append(tails, t)
	}
	if len(tails) == 0 {
		return refuse("not_found", "the sandbox of %s holds no stdout or stderr", e.Label)
	}
	return p.copyLogs(ctx, req, e, tails, s)
}

// controlMessage is what travels on a terminal's control stream.
type controlMessage struct {
	Type   string `json:"type"`
	Cols   uint16 `json:"cols,omitempty"`
	Rows   uint16 `json:"rows,omitempty"`
	Signal string `json:"signal,omitempty"`
}

type exitBody struct {
	Code int `json:"code"`
}

// shells are tried in this order when no command is given.
var shells = []string{"sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; command -v ash >/dev/null 2>&1 && exec ash; exec sh"}

func size(req *probev1.Request) (cols, rows uint16) {
	c, _ := strconv.ParseUint(arg(req, "cols"), 10, 16)
	r, _ := strconv.ParseUint(arg(req, "rows"), 10, 16)
	if c == 0 || c > 1000 {
		c = 80
	}
	if r == 0 || r > 1000 {
		r = 24
	}
	return uint16(c), uint16(r)
}

// exec runs a command in a container: through Docker, or in the namespaces of its first process.
func (p *Probe) exec(ctx context.Context, req *probev1.Request, e *probev1.Entity, s *pipe.Pipe) (any, error) {
	if err := needPipe(s); err != nil {
		return nil, err
	}
	argv := req.Argv
	if len(argv) == 0 {
		argv = shells
	}
	if id, ok := p.dockerID(e); ok {
		return p.dockerExec(ctx, req, id, argv, s)
	}
	pid, err := p.firstPid(e)
	if err != nil {
		return nil, err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, refuse("probe_failed", "nsenter is not installed on this host (Debian: util-linux)")
	}
	cmd := append([]string{nsenter, "--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"}, argv...)
	return p.run(ctx, req, cmd, s)
}

// hostExec runs a shell, or a command, on the host itself.
func (p *Probe) hostExec(ctx context.Context, req *probev1.Request, _ *probev1.Entity, s *pipe.Pipe) (any, error) {
	if err := needPipe(s); err != nil {
		return nil, err
	}
	argv := req.Argv
	if len(argv) == 0 {
		argv = shells
	}
	return p.run(ctx, req, argv, s)
}

// run starts a process, with a terminal when wanted, and joins it with the pipe until it ends.
func (p *Probe) run(ctx context.Context, req *probev1.Request, argv []string, s *pipe.Pipe) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm-256color", "LANG=C.UTF-8"}
	cmd.WaitDelay = 2 * time.Second
	if arg(req, "tty") != "1" {
		return p.runPlain(ctx, cancel, cmd, s)
	}
	cols, rows := size(req)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: cols, Rows: rows})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	defer f.Close()
	go func() {
		defer cancel()
		for {
			stream, data, err := s.Recv(ctx)
			if err != nil {
				return
			}
			if stream == pipe.Control {
				var m controlMessage
				if json.Unmarshal(data, &m) == nil && m.Type == "resize" && m.Cols > 0 && m.Rows > 0 {
					_ = pty.Setsize(f, &pty.Winsize{Cols: m.Cols, Rows: m.Rows})
				}
				continue
			}
			if _, err := f.Write(data); err != nil {
				return
			}
		}
	}()
	err = copyRaw(f, func(stream uint32, data []byte) error { return s.Send(ctx, stream, data) })
	if ended(err) != nil {
		cancel()
	}
	return exitOf(cmd.Wait())
}

func (p *Probe) runPlain(ctx context.Context, cancel context.CancelFunc, cmd *exec.Cmd, s *pipe.Pipe) (any, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = pipeWriter{ctx, s, pipe.Stdout}, pipeWriter{ctx, s, pipe.Stderr}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() {
		for {
			stream, data, err := s.Recv(ctx)
			if err != nil {
				cancel()
				return
			}
			if stream == pipe.Control {
				var m controlMessage
				if json.Unmarshal(data, &m) == nil && m.Type == "eof" {
					_ = stdin.Close()
				}
				continue
			}
			if _, err := stdin.Write(data); err != nil {
				continue // the process does not read any more; its output is still wanted
			}
		}
	}()
	return exitOf(cmd.Wait())
}

type pipeWriter struct {
	ctx    context.Context //nolint:containedctx // a Writer has no other way to end with its request
	pipe   *pipe.Pipe
	stream uint32
}

func (w pipeWriter) Write(b []byte) (int, error) {
	if err := w.pipe.Send(w.ctx, w.stream, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func exitOf(err error) (any, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return exitBody{0}, nil
	case errors.As(err, &exit):
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return exitBody{128 + int(st.Signal())}, nil
		}
		return exitBody{exit.ExitCode()}, nil
	case errors.Is(err, exec.ErrWaitDelay), ended(err) == nil:
		return exitBody{-1}, nil
	default:
		return nil, err
	}
}

// dockerExec runs a command through the Engine.
func (p *Probe) dockerExec(ctx context.Context, req *probev1.Request, id string, argv []string, s *pipe.Pipe) (any, error) {
	tty := arg(req, "tty") == "1"
	var made struct {
		ID string `json:"Id"`
	}
	body := map[string]any{"AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": tty, "Cmd": argv}
	if tty {
		body["Env"] = []string{"TERM=xterm-256color"}
	}
	if err := p.docker.api.call(ctx, "POST", "/containers/"+id+"/exec", nil, body, &made); err != nil {
		return nil, err
	}
	path := "/exec/" + url.PathEscape(made.ID)
	if err := p.dockerStream(ctx, path+"/start", map[string]any{"Detach": false, "Tty": tty}, path+"/resize", tty, req, s); err != nil {
		return nil, err
	}
	var state struct {
		ExitCode *int
		Running  bool
	}
	asked, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if err := p.docker.api.call(asked, "GET", path+"/json", nil, nil, &state); err != nil || state.ExitCode == nil {
		return exitBody{-1}, nil //nolint:nilerr // the command ran; only its code is not known
	}
	return exitBody{*state.ExitCode}, nil
}

// attach joins the terminal or the streams of a container's own first process.
func (p *Probe) attach(ctx context.Context, req *probev1.Request, e *probev1.Entity, s *pipe.Pipe) (any, error) {
	if err := needPipe(s); err != nil {
		return nil, err
	}
	id, ok := p.dockerID(e)
	if !ok {
		return nil, refuse("conflict", "%s is not run by Docker: there is nothing to attach to; use exec", e.Label)
	}
	var d struct{ Config struct{ Tty bool } }
	if err := p.docker.api.call(ctx, "GET", "/containers/"+id+"/json", nil, nil, &d); err != nil {
		return nil, err
	}
	path := "/containers/" + id
	err := p.dockerStream(ctx, path+"/attach?stream=1&stdin=1&stdout=1&stderr=1", struct{}{}, path+"/resize", d.Config.Tty, req, s)
	return exitBody{0}, err
}

// dockerStream opens a raw stream and joins it with the pipe until either ends.
func (p *Probe) dockerStream(ctx context.Context, path string, body any, resize string, tty bool, req *probev1.Request, s *pipe.Pipe) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, r, err := p.docker.api.hijack(ctx, path, body)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	setSize := func(cols, rows uint16) {
		query := url.Values{"w": {strconv.Itoa(int(cols))}, "h": {strconv.Itoa(int(rows))}}
		_ = p.docker.api.call(ctx, "POST", resize, query, nil, nil)
	}
	if tty {
		setSize(size(req))
	}
	go func() {
		defer cancel()
		for {
			stream, data, err := s.Recv(ctx)
			if err != nil {
				return
			}
			if stream == pipe.Control {
				var m controlMessage
				if json.Unmarshal(data, &m) != nil {
					continue
				}
				switch m.Type {
				case "resize":
					setSize(m.Cols, m.Rows)
				case "eof":
					if half, ok := conn.(interface{ CloseWrite() error }); ok {
						_ = half.CloseWrite()
					}
				}
				continue
			}
			if _, err := conn.Write(data); err != nil {
				return
			}
		}
	}()
	send := func(stream uint32, data []byte) error { return s.Send(ctx, stream, data) }
	if tty {
		err = copyRaw(r, send)
	} else {
		err = demux(r, send)
	}
	if ctx.Err() != nil {
		return nil
	}
	return ended(err)
}

// rootOf opens a container's own root directory. Links in it can't lead out.
func (p *Probe) rootOf(e *probev1.Entity) (*os.Root, error) {
	pid, err := p.firstPid(e)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Join(p.cfg.ProcRoot, strconv.Itoa(pid), "root"))
	if err != nil {
		return nil, fmt.Errorf("open the container's files: %w", err)
	}
	return root, nil
}
