package api

import (
	"hash/maphash"
	"sync"

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
	bodies map[string]cachedBody
	seed   maphash.Seed
	once   sync.Once
}

// cachedBody is a whole answer for the version of the snapshot that it was made of.
type cachedBody struct {
	version uint64
	body    []byte
}

// pageCache is what was made of one framework's page, and the chunks of its task list that outlive the page.
type pageCache struct {
	mu     sync.Mutex
	page   *core.FrameworkPage
	used   map[ids.Agent]resources.Resources
	tasks  []byte // the JSON of the live tasks, without brackets
	chunks map[string]*chunk
}

// chunk is a run of tasks that ends where a task's id says so, whatever tasks come and go elsewhere: when one task changes,
// only its run is encoded again.
type chunk struct {
	tasks []*mesosv1.Task
	json  []byte
	used  map[ids.Agent]resources.Resources
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
	c.pages, c.bodies = nil, nil
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
}

// body returns the answer of that name for this version of the snapshot, made by build when it is not there. Callers that ask for
// the same one at the same time share the work.
func (c *stateCache) body(name string, version uint64, build func() []byte) []byte {
	c.mu.Lock()
	if b, ok := c.bodies[name]; ok && b.version == version {
		c.mu.Unlock()
		return b.body
	}
	c.mu.Unlock()
	body := build()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodies == nil {
		c.bodies = map[string]cachedBody{}
	}
	if old, ok := c.bodies[name]; !ok || old.version < version {
		c.bodies[name] = cachedBody{version, body}
	}
	return body
}

// usedBy is what the framework's live tasks and its executors use, by agent. The map must not be changed.
func (c *stateCache) usedBy(f *core.FrameworkPage) map[ids.Agent]resources.Resources {
	p := c.page(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(c, f)
	return p.used
}

// liveTasks is the JSON of the framework's live tasks, separated by commas. The bytes must not be changed.
func (c *stateCache) liveTasks(f *core.FrameworkPage) []byte {
	p := c.page(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(c, f)
	return p.tasks
}

// update brings the cache to this page. p.mu is held.
func (p *pageCache) update(c *stateCache, f *core.FrameworkPage) {
	if p.page == f {
		return
	}
	fresh := make(map[string]*chunk, len(p.chunks))
	var list []*chunk
	var run []*mesosv1.Task
	size := 0
	end := func() {
		if len(run) == 0 {
			return
		}
		first := run[0].GetTaskId().GetValue()
		ch := p.chunks[first]
		if ch == nil || !sameTasks(ch.tasks, run) {
			ch = newChunk(run)
		}
		fresh[first] = ch
		list = append(list, ch)
		size += len(ch.json) + 1
		run = nil
	}
	if f.Tasks != nil {
		f.Tasks.Scan(func(id ids.Task, t *mesosv1.Task) bool {
			run = append(run, t)
			if maphash.String(c.seed, string(id))&chunkMask == 0 {
				end()
			}
			return true
		})
	}
	end()
	p.used = map[ids.Agent]resources.Resources{}
	p.tasks = make([]byte, 0, size)
	for i, ch := range list {
		if i > 0 {
			p.tasks = append(p.tasks, ',')
		}
		p.tasks = append(p.tasks, ch.json...)
		for a, r := range ch.used {
			p.used[a] = p.used[a].Add(r)
		}
	}
	for _, x := range f.Executors {
		p.used[x.Agent] = p.used[x.Agent].Add(resources.FromProtoTrusted(x.Info.GetResources()))
	}
	p.page, p.chunks = f, fresh
}

func sameTasks(a, b []*mesosv1.Task) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func newChunk(run []*mesosv1.Task) *chunk {
	ch := &chunk{tasks: run, used: make(map[ids.Agent]resources.Resources)}
	var w mesosjson.Writer
	for _, t := range run {
		task(&w, t)
		if !isTerminal(t.GetState()) {
			a := ids.Agent(t.GetAgentId().GetValue())
			ch.used[a] = ch.used[a].Add(resources.FromProtoTrusted(t.GetResources()))
		}
	}
	ch.json = w.Buf
	return ch
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
		if list := v.s.state.liveTasks(f); len(list) > 0 {
			w.Raw(list)
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
	for _, t := range f.CompletedTasks {
		v.writeTask(w, f)("", t)
	}
	w.EndArray()
}

func (v *view) writeTask(w *writer, f *core.FrameworkPage) func(ids.Task, *mesosv1.Task) bool {
	return func(_ ids.Task, t *mesosv1.Task) bool {
		if v.task(f, t) {
			task(w, t)
		}
		return true
	}
}
