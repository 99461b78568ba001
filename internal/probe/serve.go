package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// refusal is a failure with the API's error code.
type refusal struct{ code, message, hint string }

func (r *refusal) Error() string { return r.message }

func refuse(code, format string, args ...any) error {
	return &refusal{code: code, message: fmt.Sprintf(format, args...)}
}

// verb is one thing that a monitor may ask for: which part of the policy it needs, on which kinds, and how it is done. The
// table is complete but for plugins' own: what is not in it is refused.
type verb struct {
	policy string   // "": reading what is shown anyway
	kinds  []string // nil: any
	run    func(p *Probe, ctx context.Context, req *probev1.Request, e *probev1.Entity, s *pipe.Pipe) (any, error)
}

func verbs() map[string]verb {
	container := []string{topology.KindContainer}
	return map[string]verb{
		"start":     {PolicyLifecycle, container, lifecycle("start")},
		"stop":      {PolicyLifecycle, container, lifecycle("stop")},
		"restart":   {PolicyLifecycle, container, lifecycle("restart")},
		"pause":     {PolicyLifecycle, container, lifecycle("pause")},
		"unpause":   {PolicyLifecycle, container, lifecycle("unpause")},
		"kill":      {PolicyLifecycle, container, killContainer},
		"remove":    {PolicyLifecycle, container, removeContainer},
		"signal":    {PolicyLifecycle, []string{topology.KindProcess}, signalProcess},
		"logs":      {PolicyLogs, container, (*Probe).logs},
		"exec":      {PolicyExec, container, (*Probe).exec},
		"attach":    {PolicyExec, container, (*Probe).attach},
		"files":     {PolicyExec, container, (*Probe).listFiles},
		"file":      {PolicyExec, container, (*Probe).readFile},
		"env":       {PolicyExec, []string{topology.KindContainer, topology.KindProcess}, (*Probe).environment},
		"inspect":   {PolicyExec, container, (*Probe).inspect},
		"host-exec": {PolicyHostExec, []string{topology.KindHost}, (*Probe).hostExec},
		"processes": {"", []string{topology.KindContainer, topology.KindHost, topology.KindProcess}, (*Probe).listProcesses},
		"sockets":   {"", []string{topology.KindContainer, topology.KindHost, topology.KindProcess}, (*Probe).listSockets},
	}
}

// serve does what a monitor asks for, if this probe's own policy allows it: the monitor's word is not enough.
func (p *Probe) serve(ctx context.Context, req *probev1.Request, s *pipe.Pipe) *probev1.Response {
	if req.DeadlineMs > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, time.UnixMilli(req.DeadlineMs))
		defer stop()
	}
	body, err := p.perform(ctx, req, s)
	if v, ok := verbs()[req.Verb]; !ok || v.policy != "" {
		p.log.Info("request served", "verb", req.Verb, "node", req.Node, "user", req.User, "err", err)
	}
	if err != nil {
		return failure(err)
	}
	resp := &probev1.Response{}
	if body != nil {
		if resp.Body, err = json.Marshal(body); err != nil {
			return failure(err)
		}
	}
	return resp
}

func failure(err error) *probev1.Response {
	var r *refusal
	var d *dockerError
	switch {
	case errors.As(err, &r):
		return &probev1.Response{Code: r.code, Message: r.message, Hint: r.hint}
	case errors.As(err, &d):
		code := "probe_failed"
		switch d.status {
		case http.StatusNotFound:
			code = "not_found"
		case http.StatusConflict, http.StatusNotModified:
			code = "conflict"
		}
		return &probev1.Response{Code: code, Message: "Docker: " + d.message}
	case errors.Is(err, context.DeadlineExceeded):
		return &probev1.Response{Code: "timeout", Message: "the runtime did not answer in time"}
	case errors.Is(err, os.ErrNotExist):
		return &probev1.Response{Code: "not_found", Message: err.Error()}
	case errors.Is(err, os.ErrPermission):
		return &probev1.Response{Code: "forbidden", Message: err.Error(), Hint: "the probe itself lacks the right: run it as root"}
	default:
		return &probev1.Response{Code: "probe_failed", Message: err.Error()}
	}
}

func (p *Probe) perform(ctx context.Context, req *probev1.Request, s *pipe.Pipe) (any, error) {
	v, ok := verbs()[req.Verb]
	if strings.Contains(req.Verb, "~") {
		v, ok = verb{PolicyPlugins, nil, pluginControlVerb}, true
	}
	if !ok {
		return nil, refuse("not_found", "this probe knows no control %q", topology.Clean(req.Verb, 64))
	}
	if v.policy != "" && !p.cfg.allowed(v.policy) {
		return nil, &refusal{
			"forbidden", fmt.Sprintf("the probe on %s allows: %s", p.cfg.Hostname, strings.Join(p.cfg.Policy, ", ")),
			"start the probe with --policy=…," + v.policy + " to allow it",
		}
	}
	e := p.hub.entity(req.Node)
	if e == nil {
		return nil, refuse("not_found", "%s is not on %s any more", topology.Clean(req.Node, 200), p.cfg.Hostname)
	}
	if v.kinds != nil && !slices.Contains(v.kinds, e.Kind) {
		return nil, refuse("bad_request", "%s is not for a %s", req.Verb, e.Kind)
	}
	return v.run(p, ctx, req, e, s)
}

func attr(e *probev1.Entity, key string) string {
	for _, a := range e.Attrs {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

func arg(req *probev1.Request, key string) string {
	for _, a := range req.Args {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

// dockerID gives the Engine's id of a container that Docker runs.
func (p *Probe) dockerID(e *probev1.Entity) (string, bool) {
	id := attr(e, topology.AttrContainerID)
	return id, p.docker != nil && p.docker.containers()[id] != nil
}

func (p *Probe) dockerControls(c *containerInfo) (out []string) {
	if p.cfg.allowed(PolicyLogs) {
		out = append(out, "logs")
	}
	running := c.state == topology.StateRunning
	if p.cfg.allowed(PolicyExec) {
		if running {
			out = append(out, "exec", "attach")
		}
		out = append(out, "files")
	}
	if p.cfg.allowed(PolicyLifecycle) {
		switch {
		case running:
			out = append(out, "stop", "restart", "pause", "kill")
		case c.state == topology.StatePaused:
			out = append(out, "unpause")
		case c.state == topology.StateRestarting:
			out = append(out, "stop")
		default:
			out = append(out, "start", "remove")
		}
	}
	return out
}

// kernelControls are what can be done with a container of which only the kernel tells.
func (p *Probe) kernelControls() (out []string) {
	if p.cfg.allowed(PolicyLogs) && p.mesos != nil {
		out = append(out, "logs")
	}
	if os.Geteuid() != 0 {
		return out
	}
	if p.cfg.allowed(PolicyExec) {
		out = append(out, "exec", "files")
	}
	if p.cfg.allowed(PolicyLifecycle) {
		out = append(out, "kill")
	}
	return out
}

func dockerReasons(c *containerInfo) (out []*probev1.Reason) {
	switch {
	case c.oomKilled && c.state != topology.StateRunning:
		out = append(out, &probev1.Reason{Code: "oom_killed", Severity: 3, Text: "killed: out of memory"})
	case c.state == topology.StateExited && c.exitCode != 0:
		out = append(out, &probev1.Reason{Code: "exit_code", Severity: 2, Text: fmt.Sprintf("exited with code %d", c.exitCode)})
	case c.state == topology.StateDead:
		out = append(out, &probev1.Reason{Code: "dead", Severity: 3, Text: "dead: the Engine could not remove it"})
	case c.state == topology.StateRestarting:
		out = append(out, &probev1.Reason{Code: "restarting", Severity: 3, Text: fmt.Sprintf("keeps restarting (%d times)", c.restarts)})
	}
	if c.health == "unhealthy" {
		out = append(out, &probev1.Reason{Code: "unhealthy", Severity: 3, Text: "its own health check fails"})
	}
	return out
}

type done struct {
	Message string `json:"message"`
}

func lifecycle(action string) func(*Probe, context.Context, *probev1.Request, *probev1.Entity, *pipe.Pipe) (any, error) {
	past := map[string]string{"start": "started", "stop": "stopped", "restart": "restarted", "pause": "paused", "unpause": "unpaused"}[action]
	return func(p *Probe, ctx context.Context, req *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
		id, ok := p.dockerID(e)
		if !ok {
			return p.runtimeLifecycle(ctx, action, req, e)
		}
		query := url.Values{}
		if t := arg(req, "timeout"); t != "" {
			if _, err := strconv.ParseUint(t, 10, 16); err != nil {
				return nil, refuse("bad_request", "timeout %q is not a number of seconds", t)
			}
			query.Set("t", t)
		}
		began := time.Now()
		if err := p.docker.api.call(ctx, "POST", "/containers/"+id+"/"+action, query, nil, nil); err != nil {
			return nil, err
		}
		return done{fmt.Sprintf("%s in %d ms", past, time.Since(began).Milliseconds())}, nil
	}
}

var signals = map[string]syscall.Signal{
	"SIGHUP": unix.SIGHUP, "SIGINT": unix.SIGINT, "SIGQUIT": unix.SIGQUIT, "SIGKILL": unix.SIGKILL, "SIGUSR1": unix.SIGUSR1,
	"SIGUSR2": unix.SIGUSR2, "SIGTERM": unix.SIGTERM, "SIGSTOP": unix.SIGSTOP, "SIGCONT": unix.SIGCONT,
}

func signalArg(req *probev1.Request, otherwise string) (syscall.Signal, string, error) {
	name := strings.ToUpper(arg(req, "signal"))
	if name == "" {
		name = otherwise
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	sig, ok := signals[name]
	if !ok {
		return 0, "", refuse("bad_request", "signal %q is not one of HUP, INT, QUIT, KILL, USR1, USR2, TERM, STOP, CONT", topology.Clean(name, 32))
	}
	return sig, name, nil
}

func killContainer(p *Probe, ctx context.Context, req *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	sig, name, err := signalArg(req, "SIGKILL")
	if err != nil {
		return nil, err
	}
	if id, ok := p.dockerID(e); ok {
		if err := p.docker.api.call(ctx, "POST", "/containers/"+id+"/kill", url.Values{"signal": {name}}, nil, nil); err != nil {
			return nil, err
		}
		return done{"sent " + name}, nil
	}
	procs, err := p.processesOf(e)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, proc := range procs {
		if p.signal(proc, sig) == nil {
			n++
		}
	}
	if n == 0 {
		return nil, refuse("conflict", "%s has no process any more", e.Label)
	}
	return done{fmt.Sprintf("sent %s to %d processes", name, n)}, nil
}

// signal sends a signal through a pidfd, after making sure that the pid is still the process that was meant.
func (p *Probe) signal(proc liveProcess, sig syscall.Signal) error {
	if proc.Pid <= 1 || proc.Pid == os.Getpid() {
		return refuse("forbidden", "the probe does not signal process %d", proc.Pid)
	}
	fd, err := unix.PidfdOpen(proc.Pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", proc.Pid, err)
	}
	defer unix.Close(fd)
	b, err := os.ReadFile(filepath.Join(p.cfg.ProcRoot, strconv.Itoa(proc.Pid), "stat"))
	if err != nil {
		return fmt.Errorf("process %d: %w", proc.Pid, err)
	}
	if s, ok := parseStat(b); !ok || s.start != proc.start {
		return refuse("not_found", "process %d has ended", proc.Pid)
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

func signalProcess(p *Probe, _ context.Context, req *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	sig, name, err := signalArg(req, "SIGTERM")
	if err != nil {
		return nil, err
	}
	procs, err := p.processesOf(e)
	if err != nil {
		return nil, err
	}
	if err := p.signal(procs[0], sig); err != nil {
		return nil, err
	}
	return done{"sent " + name}, nil
}

func removeContainer(p *Probe, ctx context.Context, req *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	id, ok := p.dockerID(e)
	if !ok {
		return nil, refuse("conflict", "%s is not run by Docker", e.Label)
	}
	query := url.Values{}
	if arg(req, "force") == "true" {
		query.Set("force", "1")
	}
	if err := p.docker.api.call(ctx, "DELETE", "/containers/"+id, query, nil, nil); err != nil {
		return nil, err
	}
	return done{"removed"}, nil
}

// inspect gives the runtime's own document, with secrets masked.
func (p *Probe) inspect(ctx context.Context, _ *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	id, ok := p.dockerID(e)
	if !ok {
		return map[string]any{"runtime": attr(e, topology.AttrRuntime), "document": e}, nil
	}
	var raw json.RawMessage
	if err := p.docker.api.call(ctx, "GET", "/containers/"+id+"/json", nil, nil, &raw); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read Docker's answer: %w", err)
	}
	return map[string]any{"runtime": "docker", "document": maskDocument(doc)}, nil
}

// maskDocument masks every "NAME=value" of a list called Env, values under keys that name a secret, and command lines.
func maskDocument(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if list, ok := x.([]any); ok && strings.EqualFold(k, "env") {
				for i, s := range list {
					if s, ok := s.(string); ok {
						list[i] = maskVariable(s)
					}
				}
				continue
			}
			if s, ok := x.(string); ok && s != "" && topology.SecretKey(k) {
				v[k] = topology.Mask
				continue
			}
			v[k] = maskDocument(x)
		}
	case []any:
		for i := range v {
			v[i] = maskDocument(v[i])
		}
	case string:
		return topology.MaskCommand(v)
	}
	return v
}

func maskVariable(s string) string {
	if name, value, ok := strings.Cut(s, "="); ok && value != "" && topology.SecretKey(name) {
		return name + "=" + topology.Mask
	}
	return topology.MaskCommand(s)
}

type variable struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Masked bool   `json:"masked"`
}

// environment reads the variables of a process, or of a container's first one.
func (p *Probe) environment(ctx context.Context, _ *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	var list []string
	if id, ok := p.dockerID(e); ok && e.Kind == topology.KindContainer {
		var d dockerInspect
		if err := p.docker.api.call(ctx, "GET", "/containers/"+id+"/json", nil, nil, &d); err != nil {
			return nil, err
		}
		list = d.Config.Env
	} else {
		procs, err := p.processesOf(e)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(filepath.Join(p.cfg.ProcRoot, strconv.Itoa(procs[0].Pid), "environ"))
		if err != nil {
			return nil, fmt.Errorf("read the environment: %w", err)
		}
		defer f.Close()
		b := make([]byte, 256<<10)
		n, _ := f.Read(b)
		list = strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00")
	}
	out := make([]variable, 0, len(list))
	for _, s := range list[:min(len(list), 2000)] {
		name, value, _ := strings.Cut(s, "=")
		masked := maskVariable(s)
		v := variable{Name: topology.Clean(name, 256), Value: topology.Clean(value, 16<<10)}
		if masked != s {
			_, v.Value, _ = strings.Cut(masked, "=")
			v.Masked = true
		}
		out = append(out, v)
	}
	return map[string]any{"env": out}, nil
}
