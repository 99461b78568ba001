package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/stages"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/switchboard"
	"github.com/orchestrator/orchestrator/internal/agent/fetcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// phase is where a container is. It only moves on: starting -> running -> ending -> gone; a failed start goes from
// starting to gone.
type phase int

const (
	starting phase = iota
	running
	ending
	gone
)

// container is one held container. Everything below cfg is guarded by the containerizer's lock unless it says otherwise.
type container struct {
	cfg      containerizer.Config
	dir      string
	name     string // in the Engine: its own, or that of the container which it is inside of
	engineID string // what the Engine calls it whoever renames it; empty: not known yet. See ref
	token    string
	phase    phase
	helper   *launcher.Helper
	group    *cgroup.Group // the helper's
	groups   []string      // the container's own control groups' directories, as far as they were seen
	volumes  []string      // the names of those that were made for it alone; nil: not known
	made     bool          // the Engine may have the container
	memory   int64         // the hard limit in bytes; it only rises
	updating bool
	abort    context.CancelCauseFunc
	destroy  bool          // asked for
	ended    chan struct{} // closed when gone
	term     containerizer.Termination
	endedAt  time.Time
	stages   stages.Log
}

// record is a container on disk. What else there is to know of it the agent has checkpointed.
type record struct {
	ID    ids.Container      `json:"id"`
	Kind  containerizer.Kind `json:"kind"`
	Name  string             `json:"name"`
	Token string             `json:"token,omitempty"`
}

const recordFile = "config"

// createLimit bounds how long the Engine may take to make a container.
const createLimit = 2 * time.Minute

var errDestroyed = errors.New("the container was destroyed while it was being launched")

// Supports implements containerizer.Containerizer.
func (c *Containerizer) Supports(cfg containerizer.Config) error {
	if err := validID(cfg.ID); err != nil {
		return err
	}
	if inside(cfg.Kind) {
		p, ok := containerizer.Parent(cfg.ID)
		if !ok {
			return errors.New("a nested container's ID must have its parent's before it")
		}
		up, err := c.find(p)
		switch {
		case err != nil:
			return fmt.Errorf("parent container: %w", err)
		case inside(up.cfg.Kind):
			return errors.New("a command inside a container can't hold another one")
		case cfg.Container.GetType() == mesosv1.ContainerInfo_DOCKER && cfg.Container != nil:
			return errors.New("a session runs in its parent's image: it can't have one of its own")
		}
		_, err = execOf(cfg)
		return err
	}
	if !Claims(cfg) {
		return errors.New("the docker containerizer runs containers of type DOCKER only")
	}
	switch cfg.Kind {
	case containerizer.CommandTask, containerizer.CustomExecutor:
	case containerizer.DefaultExecutor, containerizer.Nested:
		return errors.New("task groups and nested containers can't be DOCKER containers: use type MESOS with an image")
	default:
		return errors.New("standalone containers can't be DOCKER containers: use type MESOS with an image")
	}
	if len(cfg.Command.GetUris()) > 0 && c.fetcher == nil {
		return errors.New("URIs need a fetcher, which this agent has not")
	}
	_, err := c.plan(&cfg)
	return err
}

// failed makes the error of a launch.
func failed(msg string, err error) error {
	return &containerizer.LaunchError{Reason: mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, Message: msg, Err: err}
}

// Launch implements containerizer.Containerizer.
func (c *Containerizer) Launch(ctx context.Context, cfg containerizer.Config) error {
	if err := c.Supports(cfg); err != nil {
		return failed("The container can't be launched", err)
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	ct := &container{cfg: cfg, dir: c.dir(cfg.ID), name: namePrefix + string(cfg.ID), abort: abort, ended: make(chan struct{})}
	if cfg.Kind == containerizer.CommandTask {
		ct.token = containerizer.NewToken()
	}
	c.mu.Lock()
	refusal := error(nil)
	switch p, _ := containerizer.Parent(cfg.ID); {
	case c.closed:
		refusal = containerizer.ErrStopping
	case c.containers[cfg.ID] != nil:
		refusal = fmt.Errorf("%w: %s", containerizer.ErrExists, cfg.ID)
	case inside(cfg.Kind):
		if up := c.containers[p]; up == nil || up.phase != running {
			refusal = fmt.Errorf("its parent %s is not running", p)
		} else {
			ct.name = c.refLocked(up)
		}
	}
	if refusal != nil {
		c.mu.Unlock()
		return failed("The container can't be launched", refusal)
	}
	c.containers[cfg.ID] = ct
	c.wg.Add(1) // the launch itself
	c.mu.Unlock()
	defer c.wg.Done()
	c.metrics.held.Inc()
	defer c.stage(ct, "total")()
	helper, err := c.start(ctx, ct)
	c.mu.Lock()
	if err == nil && ct.destroy {
		err = errDestroyed
	}
	if err != nil {
		c.mu.Unlock()
		c.metrics.launches.WithLabelValues("failed").Inc()
		if helper != nil {
			helper.Kill()
			_ = helper.Wait(context.Background())
			helper.Close()
		}
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		c.release(ct)
		c.conclude(ct, containerizer.Termination{}, false)
		return failed("Failed to launch container", err)
	}
	ct.helper, ct.phase = helper, running
	c.follow(ct)
	c.mu.Unlock()
	c.metrics.launches.WithLabelValues("started").Inc()
	return nil
}

// start does the work of a launch, each stage timed.
func (c *Containerizer) start(ctx context.Context, ct *container) (*launcher.Helper, error) {
	waited := c.stage(ct, "queue")
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.slots }()
	waited()
	if err := os.Mkdir(ct.dir, 0o700); err != nil {
		if !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("make the runtime directory: %w", err)
		}
		// What an earlier container of the same id left; it is not held, so nothing of it runs.
		if err := errors.Join(os.RemoveAll(ct.dir), os.Mkdir(ct.dir, 0o700)); err != nil {
			return nil, fmt.Errorf("make the runtime directory: %w", err)
		}
	}
	if err := spec.Create(ct.dir, recordFile, record{ID: ct.cfg.ID, Kind: ct.cfg.Kind, Name: ct.name, Token: ct.token}); err != nil {
		return nil, fmt.Errorf("write down the container: %w", err)
	}
	s, err := c.paper(ct)
	if err != nil {
		return nil, err
	}
	req := launcher.Request{Spec: s}
	if !inside(ct.cfg.Kind) {
		if err := c.fetch(ctx, ct); err != nil {
			return nil, err
		}
		p, err := c.plan(&ct.cfg)
		if err != nil {
			return nil, err
		}
		s.Docker.HiddenEnv = p.hidden
		pulled := c.stage(ct, "pull")
		image, err := c.ensureImage(ctx, ct, p)
		if err != nil {
			return nil, err
		}
		pulled()
		// The Engine makes the container while the helper starts: the one hides the other.
		made, over := make(chan error, 1), make(chan struct{})
		req.Ready = made
		go func() {
			defer close(over)
			made <- c.create(ctx, ct, p, image)
		}()
		defer func() { <-over }() // whoever releases the container must know that it is not being made any more
	}
	defer c.stage(ct, "start")()
	if c.groups != nil {
		group, err := c.groups.Create(cgroup.Limits{CPUs: 0.1, MemLimit: cgroup.Unlimited}, string(ct.cfg.ID))
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		ct.group = group
		c.mu.Unlock()
	}
	req.Group = ct.group
	if os.Geteuid() == 0 {
		req.OOMScoreAdj = -999
	}
	return c.launch.Start(ctx, req)
}

// create makes the container in the Engine.
func (c *Containerizer) create(ctx context.Context, ct *container, p *plan, image string) error {
	defer c.stage(ct, "create")()
	if err := p.prepare(ct.dir, c.owner(ct.cfg.User)); err != nil {
		return err
	}
	if err := c.pin(p); err != nil {
		return err
	}
	volumes := p.sign(p.wants, c.volumePrefix(), map[string]string{labelAgent: c.mark, labelContainer: string(ct.cfg.ID)})
	limit := p.options.HostConfig.Memory
	c.mu.Lock()
	ct.memory, ct.made, ct.volumes = limit, true, volumes
	c.mu.Unlock()
	if err := c.writeMemory(ct.dir, limit); err != nil {
		return err
	}
	opts := p.options
	opts.Name = ct.name
	// The Engine does not stop making a container because nobody waits for it: a launch that is given up must see it made
	// to remove it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createLimit)
	defer cancel()
	made, err := c.api.ContainerCreate(ctx, opts)
	if cerrdefs.IsConflict(err) {
		// The name is taken: by what an earlier attempt left behind, or by a stranger, who is left alone.
		there, ierr := c.identify(ctx, ct.cfg.ID, ct.name)
		if errors.Is(ierr, errStranger) {
			c.mu.Lock()
			ct.made = false
			c.mu.Unlock()
		}
		if ierr == nil && there != "" {
			ierr = c.putAway(&subject{container: ct.cfg.ID, id: there}, true)
		}
		if ierr != nil {
			return fmt.Errorf("create the container: its name is taken: %w", ierr)
		}
		made, err = c.api.ContainerCreate(ctx, opts)
	}
	if cerrdefs.IsNotFound(err) && p.image != "" {
		// Somebody removed the image since it was looked at.
		c.images.forget(image)
	}
	if err != nil {
		return c.engineError("create the container", err)
	}
	c.mu.Lock()
	ct.engineID = made.ID
	c.mu.Unlock()
	return c.ledger.add(made.ID, ct.cfg.ID)
}

// ref is what the Engine is told to mean a container: its ID as soon as it is known, because anybody may rename a container.
func (c *Containerizer) ref(ct *container) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refLocked(ct)
}

func (c *Containerizer) refLocked(ct *container) string {
	if ct.engineID == "" && !inside(ct.cfg.Kind) {
		var st spec.DockerState
		if spec.Read(ct.dir, spec.DockerFile, &st) == nil { // of an earlier agent process
			ct.engineID = st.ID
		}
	}
	if ct.engineID == "" {
		return ct.name
	}
	return ct.engineID
}

// subject is the container as something to put away.
func (c *Containerizer) subject(ct *container) *subject {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refLocked(ct)
	return &subject{container: ct.cfg.ID, name: ct.name, id: ct.engineID, groups: ct.groups, volumes: ct.volumes}
}

// engineError says what failed, and what to do when nobody answered at all.
func (c *Containerizer) engineError(what string, err error) error {
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) || cerrdefs.IsInvalidArgument(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	c.doubt() // what it has done of what it was asked is not known
	if client.IsErrConnectionFailed(err) {
		return fmt.Errorf("%s: the Docker Engine does not answer on %s: is it running? (%w)", what, c.cfg.Socket, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// paper writes what the helper is told.
func (c *Containerizer) paper(ct *container) (*spec.Spec, error) {
	cfg := &ct.cfg
	who := c.owner(cfg.User)
	s := &spec.Spec{
		Mode: spec.Supervise, ContainerID: string(cfg.ID), Mark: string(cfg.ID) + "@" + c.mark, Dir: ct.dir, Sandbox: cfg.Directory,
		Process: spec.Process{Switch: who.change, UID: uint32(who.uid), GID: uint32(who.gid)},
		Log:     spec.Log{MaxBytes: c.cfg.LogMaxBytes, Keep: c.cfg.LogKeep},
		Docker:  &spec.Docker{Socket: c.cfg.Socket, Name: ct.name, StopTimeout: c.cfg.StopTimeout},
	}
	if t := cfg.Container.GetTtyInfo(); t != nil {
		s.Process.TTY = &spec.Window{Rows: switchboard.Window(t.GetWindowSize().GetRows()), Columns: switchboard.Window(t.GetWindowSize().GetColumns())}
		s.Log.Attach = true
	}
	switch cfg.Kind {
	case containerizer.CommandTask:
		s.Mode = spec.Command
		s.Link = &spec.Link{
			Socket: c.cfg.LinkSocket, Token: ct.token, FrameworkID: string(cfg.FrameworkID), ExecutorID: string(cfg.ExecutorID),
			Checkpoint: cfg.Checkpoint, Recovery: c.cfg.RecoveryTimeout, Grace: c.cfg.ShutdownGrace,
		}
		if g := cfg.Executor.GetShutdownGracePeriod(); g != nil {
			s.Link.Grace = time.Duration(g.GetNanoseconds())
		}
		for _, k := range cfg.FrameworkCapabilities {
			s.Link.TaskKilling = s.Link.TaskKilling || k == mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE
		}
	case containerizer.Session, containerizer.Check:
		var err error
		if s.Docker.Exec, err = execOf(*cfg); err != nil {
			return nil, err
		}
		s.Log.Session = cfg.Kind == containerizer.Session
		s.Log.Attach = s.Log.Session
		s.Log.Discard = !s.Log.Session
		s.Leash = s.Log.Session
		s.Sandbox = ct.dir
	}
	return s, nil
}

// execOf makes the command of a session or a check.
func execOf(cfg containerizer.Config) (*spec.DockerExec, error) {
	cmd := cfg.Command
	x := &spec.DockerExec{User: cmd.GetUser()}
	switch {
	case cmd == nil:
		return nil, errors.New("the container has no command")
	case cmd.GetShell() && cmd.Value == nil:
		return nil, errors.New("the command has no value, which a shell command needs")
	case cmd.GetShell():
		x.Cmd = []string{"/bin/sh", "-c", cmd.GetValue()}
	case cmd.GetValue() == "":
		return nil, errors.New("the command has no value: it must name a program of the image")
	default:
		x.Cmd = []string{cmd.GetValue()}
		if len(cmd.GetArguments()) > 1 {
			x.Cmd = append(x.Cmd, cmd.GetArguments()[1:]...) // the first is argv[0], which Docker does not let one choose
		}
	}
	for _, v := range cmd.GetEnvironment().GetVariables() {
		if v.GetType() == mesosv1.Environment_Variable_SECRET {
			continue
		}
		x.Env = append(x.Env, v.GetName()+"="+v.GetValue())
	}
	return x, nil
}

// fetch brings the command's URIs into the sandbox.
func (c *Containerizer) fetch(ctx context.Context, ct *container) error {
	uris := ct.cfg.Command.GetUris()
	if len(uris) == 0 {
		return nil
	}
	defer c.stage(ct, "fetch")()
	r := fetcher.Request{Directory: ct.cfg.Directory, User: ct.cfg.User, UID: -1, GID: -1, URIs: uris}
	if who := c.owner(ct.cfg.User); who.change {
		r.UID, r.GID = who.uid, who.gid
	}
	return c.fetcher.Fetch(ctx, r)
}

// Wait implements containerizer.Containerizer.
func (c *Containerizer) Wait(ctx context.Context, id ids.Container) (containerizer.Termination, error) {
	ct, err := c.find(id)
	if err != nil {
		return containerizer.Termination{}, err
	}
	select {
	case <-ct.ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		return ct.term, nil
	case <-ctx.Done():
		return containerizer.Termination{}, ctx.Err()
	}
}

// Signal implements containerizer.Containerizer.
func (c *Containerizer) Signal(id ids.Container, sig syscall.Signal) error {
	ct, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	p := ct.phase
	c.mu.Unlock()
	if p != running {
		return fmt.Errorf("container %s is not running", id)
	}
	return switchboard.Ask(ct.dir, control.Signal, []byte{byte(sig)})
}

// Attach implements containerizer.Containerizer.
func (c *Containerizer) Attach(ctx context.Context, id ids.Container) (containerizer.Attachment, error) {
	ct, err := c.find(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	cfg, p := ct.cfg, ct.phase
	c.mu.Unlock()
	return switchboard.Attach(ctx, cfg, ct.dir, p == starting, p == gone)
}
