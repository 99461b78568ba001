package api

import (
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// stateCache keeps what was computed from pages, by the page's pointer: a page never changes, so what was made of it stays
// true. It holds only what the snapshot asked for last needs.
type stateCache struct {
	mu     sync.Mutex
	pages  map[ids.Framework]*pageCache
	agents map[ids.Agent]agentCache
	whole  sharedAnswer // the whole state
	seed   maphash.Seed
	once   sync.Once
}

// pageCache is what was made of one framework's page, and the chunks of its task list that outlive the page.
type pageCache struct {
	mu     sync.Mutex
	page   *core.FrameworkPage
	used   map[ids.Agent]resources.Resources // by tasks and executors
	execs  map[ids.Agent]resources.Resources // the executors' part of used
	list   []*chunk                          // of the live tasks, in order
	chunks map[string]*chunk                 // by their first task
}

// chunk is a run of tasks that ends where a task's id says so, whatever tasks come and go elsewhere: when one task changes,
// only its run is encoded again.
type chunk struct {
	tasks []*core.TaskPage
	json  []byte // without brackets
	used  []agentUse
}

type agentUse struct {
	agent ids.Agent
	used  resources.Resources
}

// agentCache is the JSON of one agent as it was when it used this much.
type agentCache struct {
	page *core.AgentPage
	used resources.Resources
	json []byte // the fields, without braces
}

// chunkMask makes runs of 16 tasks on average.
const chunkMask = 15

func (c *stateCache) page(f *core.FrameworkPage) *pageCache {
	c.once.Do(func() { c.seed = maphash.MakeSeed() })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pages == nil {
		c.pages = map[ids.Framework]*pageCache{}
	}
	p := c.pages[f.ID]
	if p == nil {
		p = &pageCache{chunks: map[string]*chunk{}}
		c.pages[f.ID] = p
	}
	return p
}

// forget drops everything.
func (c *stateCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages, c.agents = nil, nil
	c.whole.forget()
}

// keepOnly drops the frameworks that the snapshot doesn't have any more.
func (c *stateCache) keepOnly(snap *core.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.pages {
		if _, ok := snap.Frameworks.Get(id); !ok {
			delete(c.pages, id)
		}
	}
	for id := range c.agents {
		if _, ok := snap.Agents.Get(id); !ok {
			delete(c.agents, id)
		}
	}
}

// usedBy is what the framework's live tasks and its executors use, by agent.
func (c *stateCache) usedBy(f *core.FrameworkPage, pace *wire.Pace) map[ids.Agent]resources.Resources {
	p := c.page(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(c, f, pace)
	return maps.Clone(p.used)
}

// liveTasks are the runs of the framework's live tasks, in order.
func (c *stateCache) liveTasks(f *core.FrameworkPage, pace *wire.Pace) []*chunk {
	p := c.page(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(c, f, pace)
	return p.list
}

// update brings the cache to this page. What the runs use is added and taken away as they come and go, so that the cost is that
// of what changed, and of looking at every task's pointer. p.mu is held.
func (p *pageCache) update(c *stateCache, f *core.FrameworkPage, pace *wire.Pace) {
	if p.page == f {
		return
	}
	fresh := make(map[string]*chunk, len(p.chunks))
	list := make([]*chunk, 0, len(p.list))
	var missing []*chunk
	var run []*core.TaskPage
	end := func() {
		if len(run) == 0 {
			return
		}
		first := string(run[0].ID())
		ch := p.chunks[first]
		if ch == nil || !slices.Equal(ch.tasks, run) {
			ch = &chunk{tasks: slices.Clone(run)}
			missing = append(missing, ch)
		}
		fresh[first] = ch
		list = append(list, ch)
		run = run[:0]
	}
	if f.Tasks != nil {
		f.Tasks.Scan(func(id ids.Task, t *core.TaskPage) bool {
			run = append(run, t)
			if maphash.String(c.seed, string(id))&chunkMask == 0 {
				end()
			}
			return true
		})
	}
	end()
	encode(missing, pace)
	if p.used == nil {
		p.used = map[ids.Agent]resources.Resources{}
	}
	for _, ch := range missing {
		p.add(ch.used)
	}
	for first, ch := range p.chunks {
		if fresh[first] != ch {
			p.remove(ch.used)
		}
	}
	p.remove(uses(p.execs))
	p.execs = map[ids.Agent]resources.Resources{}
	for _, x := range f.Executors {
		p.execs[x.Agent] = p.execs[x.Agent].Add(resources.FromProtoTrusted(x.Info.GetResources()))
	}
	p.add(uses(p.execs))
	p.page, p.chunks, p.list = f, fresh, list
}

func uses(m map[ids.Agent]resources.Resources) []agentUse {
	out := make([]agentUse, 0, len(m))
	for a, r := range m {
		out = append(out, agentUse{a, r})
	}
	return out
}

func (p *pageCache) add(list []agentUse) {
	for _, u := range list {
		p.used[u.agent] = p.used[u.agent].Add(u.used)
	}
}

func (p *pageCache) remove(list []agentUse) {
	for _, u := range list {
		if left := p.used[u.agent].Minus(u.used); left.IsEmpty() {
			delete(p.used, u.agent)
		} else {
			p.used[u.agent] = left
		}
	}
}

// encode fills chunks, when there are many on half of the processors: the other half is the owner's. Between two it lets go of
// its processor, or who has become ready behind it would wait for as long as the runtime lets a goroutine run, 10 ms; on one processor it keeps
// the pace.
func encode(list []*chunk, pace *wire.Pace) {
	workers := min(runtime.GOMAXPROCS(0)/2, len(list)/64)
	if workers < 2 {
		for _, ch := range list {
			ch.fill()
			pace.Step()
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				list[i].fill()
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
}

func (ch *chunk) fill() {
	w := mesosjson.Writer{Buf: make([]byte, 0, 640*len(ch.tasks))}
	used := make(map[ids.Agent]resources.Resources, len(ch.tasks))
	var tw taskWriter
	for _, t := range ch.tasks {
		tw.write(&w, t)
		if !isTerminal(t.State()) {
			used[t.Agent()] = used[t.Agent()].Add(t.Resources())
		}
	}
	ch.json, ch.used = slices.Clip(w.Buf), uses(used)
}

// agentJSON is the JSON of an agent's fields, without braces, kept while neither the agent nor what it uses changes.
func (v *view) agentJSON(a *core.AgentPage) []byte {
	c := &v.s.state
	used := v.usedOn(a.ID)
	c.mu.Lock()
	old, ok := c.agents[a.ID]
	c.mu.Unlock()
	if ok && old.page == a && old.used.Equal(used) {
		return old.json
	}
	w := mesosjson.Writer{Buf: make([]byte, 0, 1024)}
	v.agent(&w, a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agents == nil {
		c.agents = map[ids.Agent]agentCache{}
	}
	c.agents[a.ID] = agentCache{a, used, w.Buf}
	return w.Buf
}

func isTerminal(state mesosv1.TaskState) bool {
	switch state {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_LOST,
		mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}

// taskLists writes tasks, unreachable_tasks and completed_tasks.
func (v *view) taskLists(w *writer, f *core.FrameworkPage) {
	w.Key("tasks").BeginArray()
	if v.all() {
		for _, ch := range v.s.state.liveTasks(f, v.pace) {
			w.Raw(ch.json)
		}
	} else if f.Tasks != nil {
		f.Tasks.Scan(v.writeTask(w, f))
	}
	w.EndArray()
	w.Key("unreachable_tasks").BeginArray()
	if f.UnreachableTasks != nil {
		f.UnreachableTasks.Scan(v.writeTask(w, f))
	}
	w.EndArray()
	w.Key("completed_tasks").BeginArray()
	write := v.writeTask(w, f)
	for _, t := range f.CompletedTasks {
		write("", t)
	}
	w.EndArray()
}

func (v *view) writeTask(w *writer, f *core.FrameworkPage) func(ids.Task, *core.TaskPage) bool {
	var tw taskWriter
	return func(_ ids.Task, t *core.TaskPage) bool {
		if v.task(f, t) {
			tw.write(w, t)
		}
		return true
	}
}
