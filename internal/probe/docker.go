package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// portMap is a port of a container that is published on the host.
type portMap struct {
	hostAddr      netip.Addr
	hostPort      uint16
	containerPort uint16
	udp           bool
}

// containerInfo is what a runtime's own API tells about a container, beyond what the kernel knows. It is immutable.
type containerInfo struct {
	ref         containerRef
	name        string
	image       string
	imageID     string
	state       string
	exitCode    int
	oomKilled   bool
	restarts    int
	health      string
	createdMs   int64
	startedMs   int64
	finishedMs  int64
	hostname    string
	command     string
	labels      map[string]string
	env         map[string]string // only the names in knownEnv
	ports       []portMap
	addrs       []netip.Addr
	networkMode string
	memLimit    int64
	cpus        float64
	restart     string
	pid         int
	engine      bool        // the Docker Engine does what is asked for it
	by          *runtimeRef // another runtime does some of it
	system      bool        // belongs to the runtime itself
}

// knownEnv are the variables by which orchestrators say what a container belongs to. No others are read.
var knownEnv = map[string]bool{"MARATHON_APP_ID": true, "MESOS_TASK_ID": true, "MESOS_FRAMEWORK_ID": true, "MESOS_AGENT_ID": true, "MESOS_SLAVE_ID": true, "MESOS_EXECUTOR_ID": true, "MESOS_CONTAINER_ID": true}

// dockerWatch keeps the table of the Engine's containers up to date from its events.
type dockerWatch struct {
	api    *dockerAPI
	poke   func()
	state  atomic.Pointer[collectorState]
	table  atomic.Pointer[map[string]*containerInfo] // by full id
	resync time.Duration
}

type collectorState struct{ state, message string }

func newDockerWatch(socket string, poke func()) *dockerWatch {
	w := &dockerWatch{api: newDockerAPI(socket), poke: poke, resync: time.Minute}
	w.table.Store(&map[string]*containerInfo{})
	w.state.Store(&collectorState{"off", "not looked yet"})
	return w
}

func (w *dockerWatch) containers() map[string]*containerInfo { return *w.table.Load() }

// maxContainers bounds the table.
const maxContainers = 5000

// run follows the Engine until ctx ends. An Engine that goes away is looked for again; its containers stay as they were
// last known while the kernel still has them.
func (w *dockerWatch) run(ctx context.Context) {
	keepFollowing(ctx, w.follow, w.api.socket, "run the probe as root or in the group docker", &w.state)
}

type dockerEvent struct {
	Type   string
	Action string
	Actor  struct{ ID string }
	Status string `json:"status"`
	ID     string `json:"id"`
}

func (w *dockerWatch) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Events first, then the list: nothing that happens in between is missed.
	resp, err := w.api.open(ctx, "GET", "/events", url.Values{"filters": {`{"type":["container"]}`}}, nil) //nolint:bodyclose // the next statement but one closes it
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := w.list(ctx); err != nil {
		return err
	}
	w.state.Store(&collectorState{"ok", ""})
	events, failed := make(chan dockerEvent, 256), make(chan error, 1)
	go func() {
		dec := json.NewDecoder(resp.Body)
		for {
			var e dockerEvent
			if err := dec.Decode(&e); err != nil {
				failed <- fmt.Errorf("read Docker's events: %w", err)
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(w.resync)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-tick.C:
			if err := w.list(ctx); err != nil {
				return err
			}
		case e := <-events:
			id, action := e.Actor.ID, e.Action
			if id == "" {
				id, action = e.ID, e.Status
			}
			if strings.HasPrefix(action, "exec_") || strings.HasPrefix(action, "top") || id == "" {
				continue
			}
			w.refresh(ctx, id)
			w.poke()
		}
	}
}

// list reads the whole table again.
func (w *dockerWatch) list(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	var list []struct {
		ID    string `json:"Id"`
		State string
	}
	if err := w.api.call(ctx, "GET", "/containers/json", url.Values{"all": {"1"}}, nil, &list); err != nil {
		return err
	}
	next := make(map[string]*containerInfo, len(list))
	for _, c := range list[:min(len(list), maxContainers)] {
		info, err := w.inspect(ctx, c.ID)
		if err != nil {
			var de *dockerError
			if errors.As(err, &de) {
				continue // removed meanwhile
			}
			return err
		}
		next[c.ID] = info
	}
	w.table.Store(&next)
	w.poke()
	return nil
}

// refresh reads one container again.
func (w *dockerWatch) refresh(ctx context.Context, id string) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	next := maps.Clone(w.containers())
	info, err := w.inspect(ctx, id)
	var de *dockerError
	switch {
	case err == nil:
		if len(next) < maxContainers || next[id] != nil {
			next[id] = info
		}
	case errors.As(err, &de) && de.status == 404:
		delete(next, id)
	default:
		return // the stream will fail too
	}
	w.table.Store(&next)
}

type dockerInspect struct {
	ID      string `json:"Id"`
	Name    string
	Created string
	Image   string
	Path    string
	Args    []string
	State   struct {
		Status, StartedAt, FinishedAt string
		Running, Paused, Restarting   bool
		OOMKilled, Dead               bool
		ExitCode, Pid                 int
		Health                        *struct{ Status string }
	}
	RestartCount int
	Config       struct {
		Hostname, Image string
		Env             []string
		Labels          map[string]string
	}
	HostConfig struct {
		NetworkMode   string
		Memory        int64
		NanoCpus      int64
		CPUQuota      int64 `json:"CpuQuota"`
		CPUPeriod     int64 `json:"CpuPeriod"`
		RestartPolicy struct{ Name string }
	}
	NetworkSettings struct {
		Ports    map[string][]struct{ HostIP, HostPort string }
		Networks map[string]struct{ IPAddress, GlobalIPv6Address string }
	}
}

func (w *dockerWatch) inspect(ctx context.Context, id string) (*containerInfo, error) {
	var d dockerInspect
	if err := w.api.call(ctx, "GET", "/containers/"+url.PathEscape(id)+"/json", nil, nil, &d); err != nil {
		return nil, err
	}
	return d.info(), nil
}

func (d *dockerInspect) info() *containerInfo {
	c := &containerInfo{
		engine: true, ref: containerRef{runtime: "docker", id: d.ID}, name: strings.TrimPrefix(d.Name, "/"), image: d.Config.Image, imageID: d.Image,
		state: d.State.Status, exitCode: d.State.ExitCode, oomKilled: d.State.OOMKilled, restarts: d.RestartCount,
		hostname: d.Config.Hostname, labels: d.Config.Labels, networkMode: d.HostConfig.NetworkMode, memLimit: d.HostConfig.Memory,
		cpus: float64(d.HostConfig.NanoCpus) / 1e9, restart: d.HostConfig.RestartPolicy.Name, pid: d.State.Pid,
		command: strings.TrimSpace(d.Path + " " + strings.Join(d.Args, " ")),
	}
	if d.HostConfig.CPUPeriod > 0 && d.HostConfig.CPUQuota > 0 {
		c.cpus = float64(d.HostConfig.CPUQuota) / float64(d.HostConfig.CPUPeriod)
	}
	if c.state == "" { // before API 1.21
		switch {
		case d.State.Paused:
			c.state = topology.StatePaused
		case d.State.Restarting:
			c.state = topology.StateRestarting
		case d.State.Running:
			c.state = topology.StateRunning
		default:
			c.state = topology.StateExited
		}
	}
	if d.State.Health != nil {
		c.health = d.State.Health.Status
	}
	c.createdMs, c.startedMs, c.finishedMs = dockerTime(d.Created), dockerTime(d.State.StartedAt), dockerTime(d.State.FinishedAt)
	for _, e := range d.Config.Env {
		if k, v, _ := strings.Cut(e, "="); knownEnv[k] {
			if c.env == nil {
				c.env = map[string]string{}
			}
			c.env[k] = v
		}
	}
	for port, binds := range d.NetworkSettings.Ports {
		number, proto, _ := strings.Cut(port, "/")
		inner, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			continue
		}
		for _, b := range binds {
			outer, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			addr, _ := netip.ParseAddr(b.HostIP)
			c.ports = append(c.ports, portMap{addr, uint16(outer), uint16(inner), proto == "udp"})
		}
	}
	for _, n := range d.NetworkSettings.Networks {
		for _, s := range []string{n.IPAddress, n.GlobalIPv6Address} {
			if a, err := netip.ParseAddr(s); err == nil {
				c.addrs = append(c.addrs, a)
			}
		}
	}
	return c
}

func dockerTime(s string) int64 {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1980 {
		return 0
	}
	return t.UnixMilli()
}
