package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/checkpoint"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// maxBatch is how many events the owner takes before it hands their effects on.
const maxBatch = 256

// ownerPatience is how long a request waits for the owner; it ends before that only with the agent.
const ownerPatience = 30 * time.Second

// errStopping answers those who ask a core that is gone.
var errStopping = errors.New("the agent is stopping")

// post hands an event to the owner. It waits while the queue is full: that slows the link and the executors down, which
// is what it should do.
func (a *Agent) post(ctx context.Context, ev core.Event) error {
	select {
	case a.events <- ev:
		return nil
	case <-ctx.Done():
		return errStopping
	case <-a.stopped:
		return errStopping
	}
}

// own is the owner goroutine: it alone touches the core.
func (a *Agent) own(ctx context.Context, boot core.Boot) error {
	defer close(a.batches)
	defer close(a.stopped)
	if !a.hand(ctx, slices.Clone(a.core.Step(time.Now(), boot))) {
		return nil
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if at, ok := a.core.Next(); ok {
			timer.Reset(max(time.Until(at), 0))
		} else {
			timer.Reset(time.Hour)
		}
		var effects []core.Effect
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			effects = append(effects, a.core.Step(time.Now(), core.Tick{})...)
		case ev := <-a.events:
			effects = append(effects, a.core.Step(time.Now(), ev)...)
		}
	more:
		for range maxBatch {
			select {
			case ev := <-a.events:
				effects = append(effects, a.core.Step(time.Now(), ev)...)
			default:
				break more
			}
		}
		if len(effects) > 0 && !a.hand(ctx, effects) {
			return nil
		}
	}
}

// hand gives effects to the committer. It waits only when the disk is far behind.
func (a *Agent) hand(ctx context.Context, effects []core.Effect) bool {
	select {
	case a.batches <- effects:
		return true
	case <-ctx.Done():
		return false
	}
}

// commit is the committer: it makes what persists durable, then carries the rest out, in order.
func (a *Agent) commit(ctx context.Context) error {
	var ops []checkpoint.Op
	var pending []core.Effect
	for effects := range a.batches {
		pending = append(pending[:0], effects...)
	more: // what has gathered during the last fsync shares the next one
		for range cap(a.batches) {
			select {
			case effects, ok := <-a.batches:
				if !ok {
					break more
				}
				pending = append(pending, effects...)
			default:
				break more
			}
		}
		ops = ops[:0]
		var done []string
		for _, e := range pending {
			p, ok := e.(core.Persistent)
			if !ok {
				continue
			}
			var err error
			if ops, err = a.appendOps(ops, p); err != nil {
				// A message that came from the wire and does not encode again: a fault, and no reason to stop.
				a.log.Error("cannot encode a checkpoint record", "err", err)
			}
			if s, ok := p.(core.SaveAgent); ok {
				id := ids.Agent(s.Info.GetId().GetValue())
				a.id.Store(&id)
			}
			if u, ok := p.(core.AppendUpdate); ok && u.Last {
				done = append(done, checkpoint.UpdatesPath(onDisk(u.Agent, u.Run), u.Task))
			}
		}
		if len(ops) > 0 {
			start := time.Now()
			if !a.persist(ctx, ops) {
				return nil
			}
			a.metrics.commit.Observe(time.Since(start))
			for _, path := range done {
				a.store.Forget(path)
			}
		}
		for _, e := range pending {
			a.carryOut(ctx, e)
		}
		clear(pending)
		if ctx.Err() != nil {
			// The owner has stopped; what it decided before is kept above.
			continue
		}
	}
	return nil
}

// persist commits until it works. Nothing that follows may happen before: the agent would promise what it could forget.
func (a *Agent) persist(ctx context.Context, ops []checkpoint.Op) bool {
	wait := 50 * time.Millisecond
	for attempt := 0; ; attempt++ {
		err := a.store.Commit(ops)
		if err == nil {
			if attempt > 0 {
				a.log.Info("the checkpoint works again", "attempts", attempt)
			}
			return true
		}
		a.metrics.commitErrors.Inc()
		a.log.Error("cannot write the checkpoint; nothing is promised until it works: free space on the agent's disk", "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		}
	}
}

// onDisk names a run for the checkpoint.
func onDisk(a ids.Agent, r core.Run) checkpoint.Run {
	return checkpoint.Run{Agent: a, Framework: r.Framework, Executor: r.Executor, Container: r.Container}
}

// appendOps is what a persistent effect means for the files.
func (a *Agent) appendOps(ops []checkpoint.Op, e core.Persistent) ([]checkpoint.Op, error) {
	switch e := e.(type) {
	case core.SaveAgent:
		rec, err := checkpoint.Record(e.Info)
		if err != nil {
			return ops, err
		}
		id := ids.Agent(e.Info.GetId().GetValue())
		return append(ops, checkpoint.Put(checkpoint.AgentPath(id), rec), checkpoint.Link(checkpoint.LatestPath(), string(id))), nil
	case core.ForgetAgent:
		return append(ops, checkpoint.Remove(checkpoint.LatestPath()), checkpoint.Remove(checkpoint.ResourcesPath())), nil
	case core.SaveResources:
		rec, err := checkpoint.Record(e.Resources)
		if err != nil {
			return ops, err
		}
		return append(ops, checkpoint.Put(checkpoint.ResourcesPath(), rec)), nil
	case core.SaveDrain:
		if e.Config == nil {
			return append(ops, checkpoint.Remove(checkpoint.DrainPath(e.Agent))), nil
		}
		rec, err := checkpoint.Record(e.Config)
		if err != nil {
			return ops, err
		}
		return append(ops, checkpoint.Put(checkpoint.DrainPath(e.Agent), rec)), nil
	case core.SaveFramework:
		rec, err := checkpoint.Record(e.Info)
		if err != nil {
			return ops, err
		}
		return append(ops, checkpoint.Put(checkpoint.FrameworkPath(e.Agent, ids.Framework(e.Info.GetId().GetValue())), rec)), nil
	case core.SaveExecutor:
		rec, err := checkpoint.Record(e.Executor)
		if err != nil {
			return ops, err
		}
		run := onDisk(e.Agent, e.Run)
		latest := checkpoint.ExecutorMeta(run.Agent, run.Framework, run.Executor) + "/runs/latest"
		return append(ops, checkpoint.Put(checkpoint.ExecutorPath(run), rec), checkpoint.Link(latest, string(run.Container))), nil
	case core.SaveRegistered:
		return append(ops, checkpoint.Put(checkpoint.RegisteredPath(onDisk(e.Agent, e.Run)), nil)), nil
	case core.SaveCompleted:
		return append(ops, checkpoint.Put(checkpoint.SentinelPath(onDisk(e.Agent, e.Run)), nil)), nil
	case core.SaveTask:
		rec, err := checkpoint.Record(e.Task)
		if err != nil {
			return ops, err
		}
		return append(ops, checkpoint.Put(checkpoint.TaskPath(onDisk(e.Agent, e.Run), ids.Task(e.Task.GetInfo().GetTaskId().GetValue())), rec)), nil
	case core.AppendUpdate:
		rec, err := checkpoint.Record(e.Update)
		if err != nil {
			return ops, err
		}
		return append(ops, checkpoint.Append(checkpoint.UpdatesPath(onDisk(e.Agent, e.Run), e.Task), rec)), nil
	case core.RewriteUpdates:
		var all []byte
		for _, u := range e.Updates {
			rec, err := checkpoint.Record(u)
			if err != nil {
				return ops, err
			}
			all = append(all, rec...)
		}
		return append(ops, checkpoint.Put(checkpoint.UpdatesPath(onDisk(e.Agent, e.Run), e.Task), all)), nil
	case core.ForgetRun:
		return a.forgetRun(ops, e), nil
	}
	return ops, errors.New("unknown persistent effect")
}

// forgetRun deletes a run, its executor with the last run, and its framework with the last executor.
func (a *Agent) forgetRun(ops []checkpoint.Op, e core.ForgetRun) []checkpoint.Op {
	run := onDisk(e.Agent, e.Run)
	alone := func(dir, name string) bool {
		entries, err := a.deps.FS.ReadDir(filepath.Join(a.layout.Meta(), dir))
		if err != nil {
			return false
		}
		for _, x := range entries {
			if x.IsDir() && x.Name() != name {
				return false
			}
		}
		return true
	}
	executor := checkpoint.ExecutorMeta(run.Agent, run.Framework, run.Executor)
	if e.ExecutorInUse || !alone(executor+"/runs", string(run.Container)) {
		return append(ops, checkpoint.Remove(checkpoint.RunMeta(run)))
	}
	framework := checkpoint.FrameworkMeta(run.Agent, run.Framework)
	if e.FrameworkInUse || !alone(framework+"/executors", string(run.Executor)) {
		return append(ops, checkpoint.Remove(executor))
	}
	return append(ops, checkpoint.Remove(framework))
}

// carryOut does what is no matter of the disk. It never waits.
func (a *Agent) carryOut(ctx context.Context, e core.Effect) {
	switch e := e.(type) {
	case core.ToMaster:
		a.link.send(e.Session, e.Message)
	case core.Relink:
		a.link.drop(e.Session, e.Reason)
	case core.Admit:
		a.execs.admit(e)
	case core.Refuse:
		a.execs.refuse(e)
	case core.Reply:
		a.execs.reply(e)
	case core.ToExecutor:
		a.execs.send(e.Conn, e.Event)
	case core.CloseExecutor:
		a.execs.close(e.Conn)
	case core.Launch:
		a.boxes.launch(ctx, e)
	case core.Watch:
		a.boxes.watch(ctx, e.Run)
	case core.Limit:
		a.boxes.limit(ctx, e)
	case core.Destroy:
		a.boxes.destroy(ctx, e)
	case core.Collect:
		a.gc.collect(e)
	case core.MakeVolumes:
		a.volumes.make(e.Volumes, a.log)
	case core.DeleteVolumes:
		a.volumes.remove(e.Volumes, a.log)
	case core.Show:
		a.show(e)
	case core.Note:
		a.note(ctx, e)
	case core.Recovered:
		close(a.recovered)
	case core.Exit:
		select {
		case a.exit <- e.Reason:
		default:
		}
	}
}

func (a *Agent) note(ctx context.Context, n core.Note) {
	level := slog.LevelInfo
	switch n.Level {
	case core.Warn:
		level = slog.LevelWarn
	case core.Error:
		level = slog.LevelError
	case core.Debug:
		level = slog.LevelDebug
	}
	a.log.Log(ctx, level, n.Message, n.Args...)
	if n.Message == "registered" {
		a.regOnce.Do(func() { close(a.registered) })
	}
}

// view asks the owner for what it knows. One that was made for another reader a moment ago is as good.
func (a *Agent) view(ctx context.Context) (*core.View, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownerPatience)
	defer cancel()
	n := a.requests.Add(1)
	ch := make(chan *core.View, 1)
	a.mu.Lock()
	a.waitViews[n] = ch
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.waitViews, n)
		a.mu.Unlock()
	}()
	if err := a.post(ctx, core.Look{Request: n}); err != nil {
		return nil, err
	}
	select {
	case v := <-ch:
		return v, nil
	case <-a.stopped:
		return nil, errStopping
	case <-ctx.Done():
		return nil, errStopping
	}
}

func (a *Agent) show(e core.Show) {
	a.lastView.Store(e.View)
	a.mu.Lock()
	ch := a.waitViews[e.Request]
	a.mu.Unlock()
	if ch != nil {
		ch <- e.View
	}
}

// agentID is the agent's id as far as the committer has come.
func (a *Agent) agentID() ids.Agent {
	if id := a.id.Load(); id != nil {
		return *id
	}
	return ""
}
