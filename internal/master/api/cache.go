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
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// stateCache keeps what was computed from pages, by the page's pointer: a page never changes, so what was made of it stays
// true. It holds only what the snapshot asked for last needs.
type stateCache struct {
	mu     sync.Mutex
	pages  map[ids.Framework]*pageCache
	agents map[ids.Agent]agentCache
	bodies map[string]*cachedBody
	seed   maphash.Seed
	once   sync.Once
}

// cachedBody is a whole answer for the version of the snapshot that it was made of, and what to make the next one of.
type cachedBody struct {
	making chan struct{} // capacity 1, full while one is made

	mu      sync.Mutex
	version uint64
	body    []byte
	newest  uint64 // version that build is for
	build   func() []byte
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

// chunkMask makes runs of 64 tasks on average.
const chunkMask = 63

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
	c.pages, c.bodies, c.agents = nil, nil, nil
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

// body returns the answer of that name for this version of the snapshot or a later one, made by build when it is not there. One
// answer of a name is made at a time, of the newest version that anybody waits for: however many ask, the rest of the machine
// stays with the owner, and nobody waits for more than the answer being made and the next one.
func (c *stateCache) body(name string, version uint64, build func() []byte) []byte {
	c.mu.Lock()
	if c.bodies == nil {
		c.bodies = map[string]*cachedBody{}
	}
	b := c.bodies[name]
	if b == nil {
		b = &cachedBody{making: make(chan struct{}, 1)}
		c.bodies[name] = b
	}
	c.mu.Unlock()
	if body := b.wanted(version, build); body != nil {
		return body
	}
	b.making <- struct{}{}
	defer func() { <-b.making }()
	b.mu.Lock()
	if b.body != nil && b.version >= version {
		defer b.mu.Unlock()
		return b.body
	}
	version, build = b.newest, b.build
	b.build = nil
	b.mu.Unlock()
	body := build()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.version, b.body = version, body
	if b.newest <= version {
		b.build = nil // who asked for it gets this one
	}
	return body
}

// wanted returns the answer if it is there, and otherwise notes that this version is wanted.
func (b *cachedBody) wanted(version uint64, build func() []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body != nil && b.version >= version {
		return b.body
	}
	if b.build == nil || b.newest < version {
		b.newest, b.build = version, build
	}
	return nil
}

// usedBy is what the framework's live tasks and its executors use, by agent.
func (c *stateCache) usedBy(f *core.FrameworkPage) map[ids.Agent]resources.Resources {
	p := c.page(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(c, f)
	return maps.Clone(p.used)
}

// liveTasks are the runs of the framework's live tasks, in order.
func (c *stateCache) liveTasks(f *core.FrameworkPage) []*chunk {
	p := c.page(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(c, f)
	return p.list
}

// update brings the cache to this page. What the runs use is added and taken away as they come and go, so that the cost is that
// of what changed, and of looking at every task's pointer. p.mu is held.
func (p *pageCache) update(c *stateCache, f *core.FrameworkPage) {
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
	encode(missing)
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

// encode fills chunks, on all processors when there are many.
func encode(list []*chunk) {
	workers := min(runtime.GOMAXPROCS(0), len(list)/64)
	if workers < 2 {
		for _, ch := range list {
			ch.fill()
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
		for _, ch := range v.s.state.liveTasks(f) {
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
