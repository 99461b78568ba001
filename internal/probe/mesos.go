package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// mesosTask is what the local Mesos agent tells of one container.
type mesosTask struct {
	task, name, framework, agent, app, sandbox string
}

// mesosWatch asks the host's Mesos agent which container belongs to which task. It uses the public API only: GET /state,
// where each executor names its container and its tasks.
type mesosWatch struct {
	urls  []string
	http  *http.Client
	poke  func()
	state atomic.Pointer[collectorState]
	tasks atomic.Pointer[map[string]*mesosTask] // by container id
	every time.Duration

	unknown chan struct{}  // a container is there of which the agents have not told
	asked   map[string]int // how often for each of those; of the goroutine that makes the picture
}

const (
	// The agents are asked every few seconds, and at once when a container is new, or one of a few seconds would never have a name.
	mesosEvery = 5 * time.Second
	mesosPause = time.Second
	// mesosTries bounds how often they are asked for one container: it may be of an agent that the probe does not know.
	mesosTries = 3
)

func newMesosWatch(urls []string, poke func()) *mesosWatch {
	m := &mesosWatch{every: mesosEvery, unknown: make(chan struct{}, 1), asked: map[string]int{}, http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Minute}}, poke: poke}
	for _, url := range urls {
		if !strings.Contains(url, "://") {
			url = "http://" + url
		}
		m.urls = append(m.urls, strings.TrimSuffix(url, "/"))
	}
	m.state.Store(&collectorState{"off", "not asked yet"})
	m.tasks.Store(&map[string]*mesosTask{})
	return m
}

func (m *mesosWatch) run(ctx context.Context) {
	defer m.http.CloseIdleConnections()
	for ctx.Err() == nil {
		next, state := map[string]*mesosTask{}, collectorState{"ok", ""}
		for _, url := range m.urls {
			tasks, err := m.ask(ctx, url)
			if err != nil {
				state = collectorState{"failed", err.Error()}
			}
			maps.Copy(next, tasks)
		}
		m.state.Store(&state)
		was := *m.tasks.Load()
		if state.state == "ok" || len(next) > 0 {
			m.tasks.Store(&next)
		}
		if !maps.EqualFunc(was, next, func(a, b *mesosTask) bool { return *a == *b }) {
			m.poke()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(m.every, mesosPause)):
		}
		select {
		case <-ctx.Done():
		case <-m.unknown:
		case <-time.After(max(0, m.every-mesosPause)):
		}
	}
}

// missing says that the agents have not told of a container that is there.
func (m *mesosWatch) missing(id string) {
	if len(m.asked) > maxContainers {
		clear(m.asked)
	}
	if m.asked[id]++; m.asked[id] > mesosTries {
		return
	}
	select {
	case m.unknown <- struct{}{}:
	default:
	}
}

type mesosState struct {
	ID         string `json:"id"`
	Frameworks []struct {
		ID        string `json:"id"`
		Name      string `json:"name"`
		Executors []struct {
			ID        string      `json:"id"`
			Container string      `json:"container"`
			Directory string      `json:"directory"`
			Tasks     []mesosWork `json:"tasks"`
			Queued    []mesosWork `json:"queued_tasks"`
		} `json:"executors"`
	} `json:"frameworks"`
}

type mesosWork struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Statuses []struct {
		ContainerStatus struct {
			ContainerID mesosContainerID `json:"container_id"`
		} `json:"container_status"`
	} `json:"statuses"`
	Labels []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"labels"`
}

type mesosContainerID struct {
	Value  string            `json:"value"`
	Parent *mesosContainerID `json:"parent"`
}

// text joins the values from the root to the leaf, as the cgroup path holds them.
func (c *mesosContainerID) text() string {
	s := ""
	for depth := 0; c != nil && depth < 32; c, depth = c.Parent, depth+1 {
		if s == "" {
			s = c.Value
		} else {
			s = c.Value + "." + s
		}
	}
	return s
}

func (m *mesosWatch) ask(ctx context.Context, url string) (map[string]*mesosTask, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/state", nil)
	if err != nil {
		return nil, err
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the Mesos agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the Mesos agent at %s answers %s", url, resp.Status)
	}
	var s mesosState
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&s); err != nil {
		return nil, fmt.Errorf("read the Mesos agent's state: %w", err)
	}
	return s.tasks(), nil
}

func (s *mesosState) tasks() map[string]*mesosTask {
	out := map[string]*mesosTask{}
	for _, f := range s.Frameworks {
		for _, e := range f.Executors {
			base := mesosTask{framework: f.ID, agent: s.ID, sandbox: e.Directory}
			if all := append(e.Tasks, e.Queued...); len(all) == 1 {
				base.task, base.name = all[0].ID, all[0].Name
			} else {
				base.name = e.ID
			}
			base.app = marathonApp(base.task)
			if e.Container != "" && len(out) < maxContainers {
				out[e.Container] = &base
			}
			// The tasks of a group each have a container of their own below the executor's.
			for _, t := range e.Tasks {
				if n := len(t.Statuses); n > 0 {
					id := t.Statuses[n-1].ContainerStatus.ContainerID.text()
					if id != "" && id != e.Container && len(out) < maxContainers {
						own := base
						own.task, own.name, own.app = t.ID, t.Name, marathonApp(t.ID)
						out[id] = &own
					}
				}
			}
		}
	}
	return out
}

// mesosTask finds what the agent told of a container, whether Docker runs it ("mesos-<id>") or the agent itself.
func (p *Probe) mesosTask(b *box) *mesosTask {
	if p.mesos == nil {
		return nil
	}
	id, mesos := b.ref.id, b.ref.runtime == "mesos"
	if b.info != nil {
		if name, ok := strings.CutPrefix(b.info.name, "mesos-"); ok {
			id, mesos = name, true
		}
	}
	t := (*p.mesos.tasks.Load())[id]
	if t == nil && mesos {
		p.mesos.missing(id)
	}
	return t
}
