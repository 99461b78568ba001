package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/proctree"
	"github.com/orchestrator/orchestrator/internal/agent/supervisor"
)

// backend carries out what the core wants for its tasks.
type backend interface {
	// start starts a task; the outcome is told as evStarted or evStartFailed, its end as evEnded.
	start(t message.Task)
	signal(taskID string, sig syscall.Signal)
	// place is where checks are made from.
	place() place
}

// What backends tell.
type (
	evStarted struct {
		taskID string
		about  about
	}
	evStartFailed struct{ taskID, message string }
	evEnded       struct {
		taskID string
		end    end
	}
)

// driver owns a core: it turns what happens into events and effects into deeds.
type driver struct {
	core    *core
	link    *link
	back    backend
	events  chan any
	timers  map[timer]*time.Timer
	fired   chan timerFired
	timerNo uint64
	current map[timer]uint64
	checks  map[string]context.CancelFunc
	id      string
	ctx     context.Context // of this run only: set and used within it
}

type timerFired struct {
	timer timer
	no    uint64
}

func newUUID() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: the program would have crashed
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return b
}

func newDriver(s *spec.Spec, single bool) *driver {
	c := newCore(single, newUUID)
	c.taskKilling, c.checkpoint, c.recovery, c.grace = s.Link.TaskKilling, s.Link.Checkpoint, s.Link.Recovery, s.Link.Grace
	return &driver{
		core: c, link: newLink(*s.Link), id: s.ContainerID, events: make(chan any, 64), fired: make(chan timerFired, 64),
		timers: make(map[timer]*time.Timer), current: make(map[timer]uint64), checks: make(map[string]context.CancelFunc),
	}
}

// tell is for backends and checkers.
func (d *driver) tell(ctx context.Context, ev any) {
	select {
	case d.events <- ev:
	case <-ctx.Done():
	}
}

// run runs until the executor is done, or killed is closed.
func (d *driver) run(ctx context.Context, killed <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.ctx = ctx
	go d.link.run(ctx)
	d.core.begin()
	for {
		for _, e := range d.core.take() {
			if d.do(ctx, e) {
				return
			}
		}
		select {
		case <-killed:
			return
		case ev := <-d.link.events:
			now := time.Now()
			switch ev := ev.(type) {
			case linkUp:
				s := message.Subscribe{ContainerID: d.id}
				s.Tasks, s.Updates = d.core.subscribe()
				d.link.begin(ev, s)
			case linkDown:
				d.core.disconnected(now)
			case linkSays:
				d.heard(now, ev.down)
			}
		case ev := <-d.events:
			now := time.Now()
			switch ev := ev.(type) {
			case evStarted:
				d.core.tells(ev.taskID, ev.about)
				d.core.started(now, ev.taskID)
			case evStartFailed:
				d.core.startFailed(now, ev.taskID, ev.message)
			case evEnded:
				d.core.ended(now, ev.taskID, ev.end)
			case checkHealth:
				d.core.health(now, ev.taskID, ev.healthy, ev.failed)
			case checkStatus:
				d.core.checked(now, ev.taskID, ev.status)
			}
		case f := <-d.fired:
			if d.current[f.timer] == f.no { // else it was stopped or set anew meanwhile
				delete(d.current, f.timer)
				delete(d.timers, f.timer)
				d.core.fired(time.Now(), f.timer)
			}
		}
	}
}

func (d *driver) heard(now time.Time, m message.Down) {
	switch {
	case m.Subscribed != nil:
		d.core.subscribed(*m.Subscribed)
	case m.Launch != nil:
		d.core.launch(now, *m.Launch)
	case m.Kill != nil:
		d.core.killTask(now, *m.Kill)
	case m.Acknowledged != nil:
		d.core.acknowledged(*m.Acknowledged)
	case m.Shutdown:
		d.core.shutdown(now)
	}
}

// do carries out one effect; true: the executor is done.
func (d *driver) do(ctx context.Context, e effect) bool {
	switch e := e.(type) {
	case effSend:
		d.link.send(e.update)
	case effStart:
		d.back.start(e.task)
	case effSignal:
		d.back.signal(e.taskID, e.signal)
	case effTimer:
		d.setTimer(e)
	case effChecks:
		c, cancel := context.WithCancel(ctx)
		d.checks[e.task.ID] = cancel
		tell := func(ev any) { d.tell(c, ev) }
		if e.task.Health != nil {
			go watchHealth(c, e.task.ID, e.task.Health, d.back.place(), tell)
		}
		if e.task.Check != nil {
			go watchCheck(c, e.task.ID, e.task.Check, d.back.place(), tell)
		}
	case effStopChecks:
		if cancel := d.checks[e.taskID]; cancel != nil {
			cancel()
			delete(d.checks, e.taskID)
		}
	case effExit:
		return true
	}
	return false
}

func (d *driver) setTimer(e effTimer) {
	if t := d.timers[e.timer]; t != nil {
		t.Stop()
		delete(d.timers, e.timer)
	}
	delete(d.current, e.timer)
	if e.after < 0 {
		return
	}
	d.timerNo++
	f := timerFired{e.timer, d.timerNo}
	d.current[e.timer] = f.no
	ctx := d.ctx
	d.timers[e.timer] = time.AfterFunc(e.after, func() {
		select {
		case d.fired <- f:
		case <-ctx.Done():
		}
	})
}

// own is the backend of the command executor: the task is a process of the helper's own container.
type own struct {
	c *supervisor.Container
	d *driver
}

// processOf fills the container's template with a command, which an image may complete.
func processOf(tmpl spec.Process, root *spec.Root, c *message.Command) (spec.Process, error) {
	if c == nil {
		return tmpl, errors.New("the task has no command")
	}
	p := tmpl
	p.Env = mergeEnv(tmpl.Env, c.Env)
	if root != nil {
		var err error
		p.Path, p.Argv, err = root.Compose(c.Shell, c.Value, c.Arguments)
		return p, err
	}
	if c.Shell {
		p.Path, p.Argv = "sh", []string{"sh", "-c", c.Value}
		return p, nil
	}
	p.Path, p.Argv = c.Value, c.Arguments
	if len(p.Argv) == 0 {
		p.Argv = []string{c.Value}
	}
	return p, nil
}

// mergeEnv puts over on top of base.
func mergeEnv(base, over []string) []string {
	at := make(map[string]int, len(base)+len(over))
	out := make([]string, 0, len(base)+len(over))
	for _, kv := range append(append([]string(nil), base...), over...) {
		k := kv
		for i := range len(kv) {
			if kv[i] == '=' {
				k = kv[:i]
				break
			}
		}
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

func (o *own) start(t message.Task) {
	p, err := processOf(o.c.Spec.Process, o.c.Spec.Root, t.Command)
	var proc *supervisor.Proc
	if err == nil {
		proc, err = o.c.Start(&p)
	}
	ctx := o.d.ctx
	if err != nil {
		o.c.Output.Complain("Failed to start the task: %v", err)
		go o.d.tell(ctx, evStartFailed{t.ID, "Failed to start the task: " + err.Error()})
		return
	}
	go func() {
		o.d.tell(ctx, evStarted{taskID: t.ID})
		ws := <-proc.Done
		o.c.Ended()
		// What the task left behind must not use what the agent will give to others.
		o.c.KillAll()
		o.c.Output.Drain()
		o.d.tell(ctx, evEnded{t.ID, end{status: &ws, oom: ws.Signaled() && ws.Signal() == syscall.SIGKILL && o.c.OOM()}})
	}()
}

func (o *own) signal(_ string, sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		go o.c.KillAll()
		return
	}
	proctree.Signal(sig)
}

func (o *own) place() place { return place{run: o.run} }

func (o *own) run(ctx context.Context, _ string, c *message.Command) (int32, error) {
	p, err := processOf(o.c.Spec.Process, nil, c)
	if err != nil {
		return 0, err
	}
	p.TTY = nil
	proc, err := o.c.StartBeside(&p)
	if err != nil {
		return 0, err
	}
	select {
	case ws := <-proc.Done:
		if ws.Exited() {
			return int32(ws.ExitStatus()), nil
		}
		return 128 + int32(ws.Signal()), nil
	case <-ctx.Done():
		proctree.Kill(proc.PID, time.Second)
		_ = o.c.Reaper.Kill(proc.PID, syscall.SIGKILL)
		return 0, fmt.Errorf("the check's command did not end in time: %w", ctx.Err())
	}
}
