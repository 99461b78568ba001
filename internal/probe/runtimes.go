package probe

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/orchestrator/orchestrator/internal/probe/containerd"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// runtimeWatch keeps a table of the containers of containerd, or of another runtime of Kubernetes, up to date.
type runtimeWatch struct {
	socket, name string
	poke         func()
	state        atomic.Pointer[collectorState]
	table        atomic.Pointer[map[string]*containerInfo]
	// resync is how often everything is read again where events tell of changes, poll where they do not.
	resync, poll time.Duration
}

func newRuntimeWatch(socket string, poke func()) *runtimeWatch {
	w := &runtimeWatch{
		socket: socket, name: strings.TrimSuffix(filepath.Base(socket), ".sock"), poke: poke, resync: time.Minute, poll: 5 * time.Second,
	}
	w.table.Store(&map[string]*containerInfo{})
	w.state.Store(&collectorState{"off", "not looked yet"})
	return w
}

func (w *runtimeWatch) containers() map[string]*containerInfo { return *w.table.Load() }

// run follows the runtime until ctx ends. One that goes away is looked for again; what is known of its containers stays.
func (w *runtimeWatch) run(ctx context.Context) {
	keepFollowing(ctx, w.follow, w.socket, "its containers have no names and images here; run the probe as root", &w.state)
}

// keepFollowing follows what serves a socket until ctx ends, again and again, and says in state why it could not. allow is what to do
// where the probe may not open the socket.
func keepFollowing(ctx context.Context, follow func(context.Context) error, socket, allow string, state *atomic.Pointer[collectorState]) {
	delay := time.Second
	for ctx.Err() == nil {
		began := time.Now()
		err := follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			delay = time.Second
		}
		switch {
		case errors.Is(err, os.ErrNotExist):
			state.Store(&collectorState{"off", "no socket at " + socket})
			delay = 10 * time.Second
		case errors.Is(err, os.ErrPermission):
			state.Store(&collectorState{"off", "may not open " + socket + ": " + allow})
			delay = 30 * time.Second
		default:
			state.Store(&collectorState{"failed", err.Error()})
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, 30*time.Second)
	}
}

// gather is how long after the first of several changes the table is read: a container's start is a handful of events.
const gather = 50 * time.Millisecond

func (w *runtimeWatch) follow(ctx context.Context) error {
	if _, err := os.Stat(w.socket); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := containerd.Dial(w.socket)
	defer client.Close()
	if err := w.list(ctx, client); err != nil {
		return err
	}
	w.state.Store(&collectorState{"ok", client.Speaks()})
	changed, failed := make(chan struct{}, 1), make(chan error, 1)
	every := w.poll
	if client.Watches() {
		every = w.resync
		go func() {
			failed <- client.Watch(ctx, func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		}()
		defer func() {
			cancel()
			<-failed //nolint:errcheck // why it ended was said, or is that it was to
		}()
	}
	// What happens between the first list and the subscription is read soon after: there is no telling when that stands.
	tick := time.NewTicker(min(every, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			failed <- err
			if err == nil {
				err = errors.New("the stream of events has ended")
			}
			return err
		case <-tick.C:
			tick.Reset(every)
		case <-changed:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(gather):
			}
		}
		if err := w.list(ctx, client); err != nil {
			return err
		}
	}
}

func (w *runtimeWatch) list(ctx context.Context, client *containerd.Client) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	list, err := client.List(ctx)
	if err != nil {
		return err
	}
	next := make(map[string]*containerInfo, len(list))
	for _, c := range list {
		info := runtimeInfo(c, w.runtime(c))
		info.by = newRuntimeRef(w, c)
		next[info.ref.id] = info
	}
	same := maps.EqualFunc(next, w.containers(), func(a, b *containerInfo) bool {
		return a.state == b.state && a.pid == b.pid && a.name == b.name && a.image == b.image && a.restarts == b.restarts && maps.Equal(a.labels, b.labels)
	})
	if same {
		return nil
	}
	w.table.Store(&next)
	w.poke()
	return nil
}

// runtime names what runs a container. What serves CRI alone is named by its socket.
func (w *runtimeWatch) runtime(c *containerd.Container) string {
	switch c.Namespace {
	case "":
		return runtimeName(w.name)
	case "moby": // the Engine's, when the Engine itself may not be asked
		return "docker"
	}
	return "containerd"
}

// runtimeInfo makes what a runtime tells into what the probe knows of any container.
func runtimeInfo(c *containerd.Container, runtime string) *containerInfo {
	info := &containerInfo{
		ref: containerRef{runtime: runtime, id: c.ID, pod: c.Labels["io.kubernetes.pod.uid"]}, name: c.Name, image: c.Image,
		exitCode: c.ExitCode, restarts: c.Restarts, createdMs: c.CreatedMs, finishedMs: c.EndedMs, hostname: c.Hostname, command: c.Command,
		labels: c.Labels, memLimit: c.MemLimit, cpus: c.CPUs, pid: c.Pid, system: c.Sandbox,
		state: map[string]string{containerd.Running: topology.StateRunning, containerd.Paused: topology.StatePaused, containerd.Exited: topology.StateExited}[c.State],
	}
	if info.state == "" {
		info.state = topology.StateCreated
	}
	// Ids that people choose are unique in their namespace only, and no pattern finds them in a path.
	if !reHex.MatchString(c.ID) {
		info.name = cmp.Or(info.name, c.ID)
		if c.Namespace != "" && c.Namespace != "default" {
			info.ref.id = c.Namespace + "/" + c.ID
		}
		if strings.HasPrefix(c.Cgroup, "/") && len(c.Cgroup) > 1 {
			info.ref.cgroup = filepath.Clean(c.Cgroup)
		}
	}
	for _, e := range c.Env {
		if k, v, _ := strings.Cut(e, "="); knownEnv[k] {
			if info.env == nil {
				info.env = map[string]string{}
			}
			info.env[k] = v
		}
	}
	return info
}

// namedContainers are the containers that no pattern finds in a path, by the control group that their runtime gave them.
func (p *Probe) namedContainers() map[string]containerRef {
	named := map[string]containerRef{}
	for _, w := range p.others {
		for _, info := range w.containers() {
			if info.ref.cgroup != "" {
				named[info.ref.cgroup] = info.ref
			}
		}
	}
	return named
}

// inNamed finds the container whose runtime put it into one of the process's control groups, or above.
func inNamed(cgroups map[string]string, named map[string]containerRef) containerRef {
	for _, path := range cgroups {
		for i := len(path); i > 1; i = strings.LastIndexByte(path[:i], '/') {
			if ref, ok := named[path[:i]]; ok {
				return ref
			}
		}
	}
	return containerRef{}
}
