package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/stages"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/switchboard"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/network"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// phase is where a container is. It only moves on: starting -> running -> ending -> gone; a failed start goes from
// starting to gone.
type phase int

const (
	starting phase = iota
	running
	ending_
	gone
)

// container is one held container. Everything below cfg is guarded by the containerizer's lock unless it says otherwise.
type container struct {
	cfg      containerizer.Config
	dir      string
	token    string
	phase    phase
	helper   *launcher.Helper
	group    *cgroup.Group // its own, or that of the container it is nested in
	ownGroup bool
	volumes  map[string]spec.Mount // by path in the sandbox
	network  bool                  // it has networks of its own, or had begun to join them
	joined   *network.Join         // what they gave it
	abort    context.CancelCauseFunc
	destroy  bool // asked for
	why      *containerizer.Termination
	ended    chan struct{} // closed when gone
	started  chan struct{} // closed when its launch has succeeded; nil of a container that was found again
	term     containerizer.Termination
	diskUsed uint64
	endedAt  time.Time
	stages   stages.Log
	// Images: that of its root, those of its volumes in order, and the layers of all, which are held until releases are called.
	root         *image.Image
	imageVolumes []*image.Image
	layers       []string
	releases     []func()
	users        uint32 // the first of its host ids; 0: it has the host's users
	gpus         []uint32
	devices      []confine.Device // beside the harmless ones
	stuck        bool             // something of it could not be ended
}

var errDestroyed = errors.New("the container was destroyed while it was being launched")

// Supports implements containerizer.Containerizer.
func (c *Containerizer) Supports(cfg containerizer.Config) error {
	if err := validID(cfg.ID); err != nil {
		return err
	}
	info := cfg.Container
	if info.GetType() == mesosv1.ContainerInfo_DOCKER && info != nil {
		return errors.New("DOCKER containers need the docker containerizer")
	}
	if img := info.GetMesos().GetImage(); img != nil && !isInside(cfg.Kind) {
		if err := c.checkImage(img); err != nil {
			return err
		}
		if cfg.Kind == containerizer.DefaultExecutor {
			return errors.New("the default executor has no image of its own: name one in each task's container")
		}
		if _, nested := containerizer.Parent(cfg.ID); nested && info.GetLinuxInfo().GetSharePidNamespace() {
			return errors.New("share_pid_namespace: a nested container with an image has its own PID namespace")
		}
	}
	if err := c.checkGPUs(cfg.Resources); err != nil {
		return err
	}
	for _, v := range info.GetVolumes() {
		if err := c.checkVolume(v); err != nil {
			return err
		}
	}
	if len(cfg.Command.GetUris()) > 0 && c.fetcher == nil {
		return errors.New("URIs need a fetcher, which this agent has not")
	}
	var up *container
	if p, ok := containerizer.Parent(cfg.ID); ok {
		var err error
		if up, err = c.find(p); err != nil {
			return fmt.Errorf("parent container: %w", err)
		}
		if up.cfg.ID == "" {
			return fmt.Errorf("parent container %s is not known", p)
		}
	} else if cfg.Kind == containerizer.Nested || cfg.Kind == containerizer.Session || cfg.Kind == containerizer.Check {
		return errors.New("a nested container's ID must have its parent's before it")
	}
	settings, err := c.settingsOf(&cfg, up)
	if err != nil {
		return err
	}
	if settings.Network == confine.New {
		return c.networks.Check(settings.Networks)
	}
	return nil
}

// failed makes the error of a launch.
func failed(msg string, err error) error {
	return &containerizer.LaunchError{Reason: mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, Message: msg, Err: err}
}

// Launch implements containerizer.Containerizer.
func (c *Containerizer) Launch(ctx context.Context, cfg containerizer.Config) (err error) {
	if err := c.Supports(cfg); err != nil {
		return failed("The container can't be launched", err)
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	ct := &container{cfg: cfg, dir: c.dir(cfg.ID), abort: abort, ended: make(chan struct{}), started: make(chan struct{}), phase: starting}
	if cfg.Kind == containerizer.CommandTask || cfg.Kind == containerizer.DefaultExecutor {
		ct.token = containerizer.NewToken()
	}
	c.mu.Lock()
	up, err := c.parentOf(ctx, cfg.ID)
	if err != nil {
		c.mu.Unlock()
		return failed("The container can't be launched", err)
	}
	if c.closed {
		c.mu.Unlock()
		return failed("The container can't be launched", containerizer.ErrStopping)
	}
	if c.containers[cfg.ID] != nil {
		c.mu.Unlock()
		return failed("The container can't be launched", fmt.Errorf("%w: %s", containerizer.ErrExists, cfg.ID))
	}
	c.containers[cfg.ID] = ct
	c.wg.Add(1) // the launch itself
	c.mu.Unlock()
	c.metrics.held.Inc()
	defer c.wg.Done()

	defer c.stage(ct, "total")()
	helper, err := c.start(ctx, ct, up)
	c.mu.Lock()
	if err == nil && ct.destroy {
		err = errDestroyed
	}
	if err != nil {
		c.mu.Unlock()
		c.metrics.launches.WithLabelValues("failed").Inc()
		if helper != nil {
			c.killAndWait(ct, helper)
			helper.Close()
		}
		c.release(ct)
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			err = cause
		}
		c.conclude(ct, containerizer.Termination{
			State: mesosv1.TaskState_TASK_FAILED.Enum(), Reason: mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED.Enum(),
			Message: "Failed to launch container: " + err.Error(),
		}, false)
		return failed("Failed to launch container", err)
	}
	ct.helper, ct.phase = helper, running
	close(ct.started)
	c.follow(ct)
	c.mu.Unlock()
	c.metrics.launches.WithLabelValues("started").Inc()
	return nil
}

// parentOf gives the running container that a new one is nested in; nil for a root container. An executor may ask for its first
// nested container before the launch of its own has returned here: that is waited for. The lock is held, and let go meanwhile.
func (c *Containerizer) parentOf(ctx context.Context, id ids.Container) (*container, error) {
	p, ok := containerizer.Parent(id)
	if !ok {
		return nil, nil
	}
	up := c.containers[p]
	for ; up != nil && up.phase == starting; up = c.containers[p] {
		c.mu.Unlock()
		select {
		case <-up.started:
		case <-up.ended:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if up == nil || up.phase != running {
		return nil, fmt.Errorf("its parent %s is not running", p)
	}
	return up, nil
}

// start does the work of a launch, each stage timed.
func (c *Containerizer) start(ctx context.Context, ct *container, up *container) (*launcher.Helper, error) {
	cfg := &ct.cfg
	waited := c.stage(ct, "queue")
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.slots }()
	waited()

	who, err := c.lookUp(cfg.User)
	if err != nil {
		return nil, err
	}
	if err := c.takeQuota(ct); err != nil {
		return nil, err
	}
	if err := c.fetch(ctx, ct, who); err != nil {
		return nil, err
	}
	if err := c.getImages(ctx, ct); err != nil {
		return nil, err
	}

	prepared := c.stage(ct, "prepare")
	if err := os.Mkdir(ct.dir, 0o700); err != nil {
		if !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("make the runtime directory: %w", err)
		}
		// What an earlier container of the same id left; it is not held, so nothing of it runs.
		if err := errors.Join(os.RemoveAll(ct.dir), os.Mkdir(ct.dir, 0o700)); err != nil {
			return nil, fmt.Errorf("make the runtime directory: %w", err)
		}
	}
	settings, err := c.settingsOf(cfg, up)
	if err != nil {
		return nil, err
	}
	if err := c.giveUsers(ct, up, settings, who); err != nil {
		return nil, err
	}
	if err := c.giveGPUs(ct); err != nil {
		return nil, err
	}
	if settings.LimitDevices {
		if ct.devices, err = lookAt(append(slices.Clone(settings.Devices), c.gpusFor(ct)...)); err != nil {
			return nil, err
		}
	}
	if err := c.join(ctx, ct, settings); err != nil {
		return nil, err
	}
	s, req, err := c.paper(ct, up, who, settings)
	if err != nil {
		return nil, err
	}
	ct.ownGroup = c.groups != nil && (up == nil || cfg.Container.GetLinuxInfo() != nil && !cfg.Container.GetLinuxInfo().GetShareCgroups()) &&
		cfg.Kind != containerizer.Session && cfg.Kind != containerizer.Check
	r, err := recordOf(ct)
	if err != nil {
		return nil, fmt.Errorf("encode the container: %w", err)
	}
	if err := spec.Create(ct.dir, configFile, r); err != nil {
		return nil, fmt.Errorf("write down the container: %w", err)
	}
	prepared()

	isolated := c.stage(ct, "isolate")
	if ct.ownGroup {
		limits := limitsOf(cfg.Resources, cfg.Limits)
		if settings.LimitDevices {
			limits.Devices = rulesOf(ct.devices)
		}
		g, err := c.groups.Create(limits, parts(cfg.ID)...)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		ct.group = g
		c.mu.Unlock()
		s.OOMFile = g.OOMFile()
	} else if up != nil {
		c.mu.Lock()
		ct.group = up.group
		c.mu.Unlock()
	}
	req.Group = ct.group
	if s.Root != nil && ct.group != nil {
		s.Root.Mounts = append(s.Root.Mounts, cgroupViews(ct.group.Views())...)
	}
	isolated()

	defer c.stage(ct, "start")()
	return c.launch.Start(ctx, *req)
}

// paper writes what the helper is told.
func (c *Containerizer) paper(ct, up *container, who *credentials, settings *confine.Settings) (*spec.Spec, *launcher.Request, error) {
	cfg := &ct.cfg
	info := cfg.Container
	s := &spec.Spec{
		Mode: spec.Supervise, ContainerID: string(cfg.ID), Mark: c.mark(cfg.ID), Dir: ct.dir, Sandbox: cfg.Directory,
		Process: spec.Process{
			Dir: cfg.Directory, Switch: who.change, UID: who.uid, GID: who.gid, Groups: who.groups,
			Env: append(append([]string(nil), cfg.Environment...), spec.Marker+"="+c.mark(cfg.ID)),
		},
		Log: spec.Log{MaxBytes: c.cfg.LogMaxBytes, Keep: c.cfg.LogKeep},
	}
	if !hasKey(cfg.Environment, "PATH") {
		s.Process.Env = append(s.Process.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if ct.users != 0 {
		s.IDs = &spec.IDs{First: ct.users, OpenNetwork: settings.Network == confine.New}
	}
	req := &launcher.Request{Spec: s}
	if c.iso.root {
		req.OOMScoreAdj = -999
		s.Process.OOMScoreAdj = ptr(oomScore(cfg))
	}
	if err := c.confineProcess(&s.Process, settings); err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	if in := c.networkOf(cfg.ID); in != nil {
		if a := in.joined.Addresses(); len(a) > 0 {
			s.Process.Env = networkEnvironment(s.Process.Env, a[0])
		}
	}
	c.mu.Unlock()
	if t := info.GetTtyInfo(); t != nil {
		s.Process.TTY = &spec.Window{Rows: switchboard.Window(t.GetWindowSize().GetRows()), Columns: switchboard.Window(t.GetWindowSize().GetColumns())}
		s.Log.Attach = true
	}
	inside := cfg.Kind == containerizer.Session || cfg.Kind == containerizer.Check
	switch cfg.Kind {
	case containerizer.CommandTask, containerizer.DefaultExecutor:
		s.Mode = spec.Command
		if cfg.Kind == containerizer.DefaultExecutor {
			s.Mode = spec.Default
		}
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
	default:
		if err := fillCommand(&s.Process, cfg.Command, ct.root); err != nil {
			return nil, nil, err
		}
		s.Log.Session = cfg.Kind == containerizer.Session
		s.Log.Attach = s.Log.Attach || s.Log.Session
		s.Log.Discard = cfg.Kind == containerizer.Check
		s.Leash = cfg.Kind == containerizer.Session
	}

	joinsMount, err := c.namespaces(ct, up, settings, s)
	if err != nil {
		return nil, nil, err
	}
	if settings.Network == confine.New {
		req.NetNS = c.networks.Namespace(string(cfg.ID))
		if settings.Hostname == "" {
			settings.Hostname = string(cfg.ID)[:min(len(cfg.ID), maxHostname)] // as Mesos
		}
	}
	req.NewIPC, req.NewUTS = settings.IPC == confine.New, settings.UTS == confine.New
	s.Hostname = settings.Hostname
	if inside {
		return s, req, c.enterRoot(ct, up, s) // it sees what its parent sees
	}
	if ct.root != nil {
		if err := c.paperRoot(ct, who, settings, s); err != nil {
			return nil, nil, err
		}
		if cfg.Kind == containerizer.CommandTask { // now, so that a bad command fails the launch
			if _, _, err := s.Root.Compose(cfg.Command.GetShell(), cfg.Command.GetValue(), cfg.Command.GetArguments()); err != nil {
				return nil, nil, err
			}
		}
	}
	vols, err := c.volumesOf(cfg, up)
	if err != nil {
		return nil, nil, err
	}
	if err := c.limitVolumes(cfg.Resources, who); err != nil {
		return nil, nil, err
	}
	mountNS := c.iso.mount && !joinsMount
	if s.IDs != nil && ct.root == nil && mountNS {
		s.Mounts = append(s.Mounts, spec.Mount{Type: "bind", Source: cfg.Directory, Target: cfg.Directory, IDMap: true})
	}
	ct.volumes = make(map[string]spec.Mount, len(vols))
	images, err := c.imageVolumeMounts(ct)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range append(vols, images...) {
		if !filepath.IsAbs(v.path) && v.mount.Type == "bind" {
			ct.volumes[v.path] = v.mount
		}
		var m *spec.Mount
		if ct.root != nil {
			m, err = c.placeInRoot(v, cfg.Directory, who)
		} else {
			m, err = c.place(v, cfg.Directory, who, mountNS)
		}
		if err != nil {
			return nil, nil, err
		}
		if m != nil && v.mount.Type == "secret" {
			m.Secret = len(req.Secrets)
			req.Secrets = append(req.Secrets, v.secret)
			s.Secrets = true
		}
		switch {
		case m == nil:
		case ct.root != nil:
			s.Root.Mounts = append(s.Root.Mounts, *m)
		default:
			s.Mounts = append(s.Mounts, *m)
		}
	}
	if settings.Shm != nil && mountNS {
		data := "mode=1777"
		if mb := settings.Shm.SizeMB; mb > 0 {
			data += ",size=" + strconv.FormatUint(uint64(mb), 10) + "m"
		}
		shm := spec.Mount{Type: "tmpfs", Target: "/dev/shm", Data: data}
		if ct.root != nil {
			s.Root.Mounts = append(s.Root.Mounts, shm)
		} else {
			s.Mounts = append(s.Mounts, shm)
		}
	}
	if settings.Network == confine.New && mountNS && ct.root == nil {
		files, err := c.networkFiles(ct, settings)
		if err != nil {
			return nil, nil, err
		}
		s.Mounts = append(s.Mounts, files...)
	}
	if s.Secrets {
		if err := os.Mkdir(filepath.Join(ct.dir, spec.SecretsDir), 0o700); err != nil {
			return nil, nil, fmt.Errorf("make the directory of secrets: %w", err)
		}
	}
	s.NewMount = mountNS && (s.NewPID || len(s.Mounts) > 0 || s.Root != nil)
	return s, req, nil
}

// maxHostname is the kernel's limit (__NEW_UTS_LEN).
const maxHostname = 64

// differs reports whether a process is in another namespace than the agent.
func differs(pid int, kind string) bool {
	own, err1 := os.Readlink("/proc/self/ns/" + kind)
	its, err2 := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + kind)
	return err1 == nil && err2 == nil && own != its
}

func hasKey(env []string, key string) bool {
	for _, kv := range env {
		if strings.HasPrefix(kv, key+"=") {
			return true
		}
	}
	return false
}

// fillCommand puts a CommandInfo, which an image may complete, into a process.
func fillCommand(p *spec.Process, cmd *mesosv1.CommandInfo, root *image.Image) (err error) {
	if root != nil {
		r := spec.Root{Entrypoint: root.Settings.Entrypoint, Cmd: root.Settings.Cmd}
		// Without a command the image's is meant; Mesos' shell is true where nothing is said.
		p.Path, p.Argv, err = r.Compose(cmd != nil && cmd.GetShell(), cmd.GetValue(), cmd.GetArguments())
		return err
	}
	if cmd == nil {
		return errors.New("the container has no command")
	}
	if cmd.GetShell() {
		if cmd.Value == nil {
			return errors.New("the command has no value, which a shell command needs")
		}
		p.Path, p.Argv = "sh", []string{"sh", "-c", cmd.GetValue()}
		return nil
	}
	if cmd.GetValue() == "" {
		return errors.New("the command has no value: without an image it must name a program")
	}
	p.Path, p.Argv = cmd.GetValue(), cmd.GetArguments()
	if len(p.Argv) == 0 {
		p.Argv = []string{cmd.GetValue()}
	}
	return nil
}

// follow begins to watch a running container. The lock is held.
func (c *Containerizer) follow(ct *container) {
	c.wg.Go(func() {
		err := ct.helper.Wait(c.ctx)
		if c.ctx.Err() != nil {
			return // the next agent process goes on
		}
		if err != nil {
			c.log.Error("cannot wait for a container's helper", "container_id", ct.cfg.ID, "error", err)
		}
		c.finish(ct)
	})
	if ct.ownGroup {
		c.wg.Go(func() { c.watchMemory(ct) })
	}
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

// Update implements containerizer.Containerizer.
func (c *Containerizer) Update(ctx context.Context, id ids.Container, res []*mesosv1.Resource, limits map[string]float64) error {
	ct, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if ct.phase >= ending_ {
		c.mu.Unlock()
		return nil // too late to matter
	}
	ct.cfg.Resources, ct.cfg.Limits = res, limits
	group, own, isRunning := ct.group, ct.ownGroup, ct.phase == running
	vols, err := c.volumesOf(&ct.cfg, c.upOf(id))
	if err != nil {
		c.mu.Unlock()
		return err
	}
	// New persistent volumes are for nested containers to come: their sources are looked up here.
	vm := make(map[string]spec.Mount, len(vols))
	for _, v := range vols {
		if !filepath.IsAbs(v.path) && v.mount.Type != "secret" {
			vm[v.path] = v.mount
		}
	}
	ct.volumes = vm
	c.mu.Unlock()
	var gpuErr error
	if isRunning {
		gpuErr = c.updateGPUs(ctx, ct)
	}
	c.mu.Lock()
	r, err := recordOf(ct)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if isRunning {
		if err := c.linkNewVolumes(ct, vols); err != nil {
			return err
		}
		if err := c.renewQuota(ct, res); err != nil {
			return err
		}
		if err := spec.Write(ct.dir, configFile, r); err != nil {
			return fmt.Errorf("write down the container's resources: %w", err)
		}
	}
	if own && group != nil {
		return errors.Join(group.Set(limitsOf(res, limits)), gpuErr)
	}
	return gpuErr
}

// linkNewVolumes makes the sources of volumes that came with an update, and where there are no mounts, their links.
func (c *Containerizer) linkNewVolumes(ct *container, vols []volume) error {
	who, err := c.lookUp(ct.cfg.User)
	if err != nil {
		return err
	}
	for _, v := range vols {
		if v.make {
			if err := makeSource(v.mount, who); err != nil {
				return fmt.Errorf("volume at %q: %w", v.path, err)
			}
		}
		if !c.iso.mount {
			if _, err := c.place(v, ct.cfg.Directory, who, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Containerizer) upOf(id ids.Container) *container {
	if p, ok := containerizer.Parent(id); ok {
		return c.containers[p]
	}
	return nil
}

// Signal implements containerizer.Containerizer.
func (c *Containerizer) Signal(id ids.Container, sig syscall.Signal) error {
	ct, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	p, h := ct.phase, ct.helper
	c.mu.Unlock()
	if p != running {
		return fmt.Errorf("container %s is not running", id)
	}
	switch ct.cfg.Kind {
	case containerizer.CommandTask, containerizer.DefaultExecutor:
		return h.Signal(sig) // the executor is the first process
	}
	return switchboard.Ask(ct.dir, control.Signal, []byte{byte(sig)})
}

// Status implements containerizer.Containerizer.
func (c *Containerizer) Status(id ids.Container) (*mesosv1.ContainerStatus, error) {
	ct, err := c.find(id)
	if err != nil {
		return nil, err
	}
	s := &mesosv1.ContainerStatus{ContainerId: protoID(id)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ct.helper != nil && ct.phase != gone {
		s.ExecutorPid = ptr(uint32(ct.helper.PID))
	}
	if in := c.networkOf(id); in != nil {
		for _, n := range in.joined.Infos {
			s.NetworkInfos = append(s.NetworkInfos, n.CloneVT())
		}
	}
	return s, nil
}

// protoID makes the message of an id.
func protoID(id ids.Container) *mesosv1.ContainerID {
	var m *mesosv1.ContainerID
	for _, p := range parts(id) {
		m = &mesosv1.ContainerID{Value: ptr(p), Parent: m}
	}
	return m
}
