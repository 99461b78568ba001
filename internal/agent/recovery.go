package agent

import (
	"github.com/orchestrator/orchestrator/internal/agent/checkpoint"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// recover reads what earlier processes left, and applies what the operator changed since. known are the containers that
// should be there.
func (a *Agent) recover() (*core.Boot, []containerizer.Config, error) {
	var err error
	if a.store, err = checkpoint.Open(a.deps.FS, a.layout.Meta(), a.cfg.Strict, a.log); err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*core.Boot, []containerizer.Config, error) {
		a.store.Close()
		return nil, nil, err
	}
	rec, err := checkpoint.Recover(a.deps.FS, a.layout.Meta(), a.cfg.Strict)
	if err != nil {
		return fail(err)
	}
	for _, p := range append(a.store.Problems(), rec.Problems...) {
		a.metrics.recoveryErrors.Inc()
		a.log.Error("a record of the checkpoint is left out", "err", p)
	}
	boot := a.deps.BootID
	if boot == "" {
		if boot, err = bootID(); err != nil {
			return fail(err)
		}
	}
	ev := &core.Boot{Info: a.info.CloneVT(), Rebooted: rec.BootID != "" && rec.BootID != boot, Cleanup: a.cfg.Recover == "cleanup"}
	if err := a.bootResources(ev, rec); err != nil {
		return fail(err)
	}
	var known []containerizer.Config
	if rec.Agent != nil {
		ev.Info.Id = rec.Agent.GetId()
		ev.Drain = rec.Drain
		for _, f := range rec.Frameworks {
			bf := core.BootFramework{Info: f.Info}
			for _, r := range f.Runs {
				br := core.BootRun{Container: r.Container, Executor: r.Executor, Registered: r.Registered, Completed: r.Completed}
				for _, t := range r.Tasks {
					br.Tasks = append(br.Tasks, core.BootTask{Task: t.Task, Updates: t.Updates})
				}
				bf.Runs = append(bf.Runs, br)
				a.gc.attach(r.Run, r.Executor.GetDirectory())
				if !r.Completed && !ev.Rebooted {
					known = append(known, a.knownContainer(f, r))
				}
			}
			ev.Frameworks = append(ev.Frameworks, bf)
		}
	}
	if err := a.store.Commit([]checkpoint.Op{checkpoint.Put(checkpoint.BootIDPath(), []byte(boot+"\n"))}); err != nil {
		return fail(err)
	}
	a.gc.adoptStrangers(ids.Agent(rec.Agent.GetId().GetValue()))
	return ev, known, nil
}

// bootResources makes the total of this process: what operations made of the resources, and what the operator changed.
func (a *Agent) bootResources(ev *core.Boot, rec *checkpoint.Recovered) error {
	ev.Total = ev.Info.GetResources()
	if rec.Resources == nil {
		return nil
	}
	ev.Operations, ev.Destroyed = rec.Resources.GetOperations(), rec.Resources.GetDestroyed()
	var used resources.Resources
	for _, f := range rec.Frameworks {
		for _, r := range f.Runs {
			if !r.Completed && !ev.Rebooted {
				used = used.Add(livingResources(r))
			}
		}
	}
	was := resources.FromProtoTrusted(rec.Resources.GetConfigured())
	total, err := reconfigure(resources.FromProtoTrusted(rec.Resources.GetTotal()), was, resources.FromProtoTrusted(a.info.GetResources()), a.cfg.Reconfiguration, used)
	if err != nil {
		return err
	}
	if rec.Agent != nil {
		if err := checkAttributes(rec.Agent, a.info, a.cfg.Reconfiguration); err != nil {
			return err
		}
	}
	ev.Total = total.Proto()
	return nil
}

// livingResources is what a run's executor and its tasks that have not ended use.
func livingResources(r checkpoint.RunState) resources.Resources {
	var sum resources.Resources
	if containerizer.Kind(r.Executor.GetKind()) != containerizer.CommandTask {
		sum = resources.FromProtoTrusted(r.Executor.GetInfo().GetResources())
	}
	for _, t := range r.Tasks {
		ended := false
		for _, u := range t.Updates {
			ended = ended || core.Terminal(u.GetStatus().GetState()) && u.GetStatus() != nil
		}
		if !ended {
			sum = sum.Add(resources.FromProtoTrusted(t.GetInfo().GetResources()))
		}
	}
	return sum
}

// knownContainer describes a checkpointed container to its containerizer.
func (a *Agent) knownContainer(f checkpoint.Framework, r checkpoint.RunState) containerizer.Config {
	l := core.Launch{
		Run:  core.Run{Framework: r.Framework, Executor: r.Run.Executor, Container: r.Container},
		Kind: containerizer.Kind(r.Executor.GetKind()), Framework: f.Info, Executor: r.Executor.GetInfo(),
		User: r.Executor.GetUser(), Directory: r.Executor.GetDirectory(),
	}
	res := resources.FromProtoTrusted(r.Executor.GetInfo().GetResources())
	for _, t := range r.Tasks {
		if l.Kind == containerizer.CommandTask {
			l.Task = t.GetInfo()
		}
		res = res.Add(resources.FromProtoTrusted(t.GetInfo().GetResources()))
	}
	l.Resources = res.Proto()
	return a.containerConfig(r.Agent, l)
}
