package executor

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
)

// bench drives a core by hand with a clock of its own.
type bench struct {
	*core
	t   testing.TB
	now time.Time
	ids int
}

func newBench(t testing.TB, single bool) *bench {
	b := &bench{t: t, now: time.Unix(1_000_000, 0)}
	b.core = newCore(single, func() []byte {
		b.ids++
		return []byte(fmt.Sprintf("%016d", b.ids))
	})
	b.checkpoint, b.recovery, b.grace = true, 15*time.Minute, 5*time.Second
	b.core.begin()
	b.core.subscribed(message.Subscribed{})
	b.effects()
	return b
}

// effects takes the effects as short words.
func (b *bench) effects() string {
	var out []string
	for _, e := range b.take() {
		switch e := e.(type) {
		case effSend:
			s := e.update.TaskID + ":" + strings.TrimPrefix(e.update.State, "TASK_")
			if e.update.Healthy != nil {
				s += fmt.Sprintf("(healthy=%v)", *e.update.Healthy)
			}
			if e.update.Reason != "" {
				s += "/" + strings.TrimPrefix(e.update.Reason, "REASON_")
			}
			out = append(out, s)
		case effStart:
			out = append(out, "start "+e.task.ID)
		case effSignal:
			out = append(out, fmt.Sprintf("%s %s", e.signal, e.taskID))
		case effTimer:
			if e.after >= 0 {
				out = append(out, fmt.Sprintf("timer%d %s", e.timer.kind, e.after))
			}
		case effChecks:
			out = append(out, "checks "+e.task.ID)
		case effStopChecks:
			out = append(out, "nochecks "+e.taskID)
		case effExit:
			out = append(out, "exit")
		}
	}
	return strings.Join(out, ", ")
}

func (b *bench) want(what, want string) {
	b.t.Helper()
	if got := b.effects(); got != want {
		b.t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func (b *bench) ackAll() {
	for len(b.unacked) > 0 {
		u := b.unacked[0]
		b.acknowledged(message.Ack{TaskID: u.TaskID, UUID: u.UUID})
	}
}

func exited(code int) end {
	ws := syscall.WaitStatus(code << 8)
	return end{status: &ws}
}

func signalled(s syscall.Signal) end {
	ws := syscall.WaitStatus(s)
	return end{status: &ws}
}

func one(id string) message.Launch { return message.Launch{Tasks: []message.Task{{ID: id}}} }

func group(ids ...string) message.Launch {
	l := message.Launch{Group: true}
	for _, id := range ids {
		l.Tasks = append(l.Tasks, message.Task{ID: id})
	}
	return l
}

func TestOneTaskFromStartToEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  end
		want string
	}{
		"zero":    {exited(0), "a:FINISHED, timer2 1m0s"},
		"three":   {exited(3), "a:FAILED, timer2 1m0s"},
		"signal":  {signalled(syscall.SIGSEGV), "a:FAILED, timer2 1m0s"},
		"unknown": {end{}, "a:FAILED, timer2 1m0s"},
		"memory":  {end{oom: true, status: signalled(syscall.SIGKILL).status}, "timer4 5s"},
		"agent's": {end{state: "TASK_FAILED", reason: "REASON_CONTAINER_LIMITATION_DISK"}, "a:FAILED/CONTAINER_LIMITATION_DISK, timer2 1m0s"},
	} {
		b := newBench(t, true)
		b.launch(b.now, one("a"))
		b.want(name+" launch", "a:STARTING, start a")
		b.launch(b.now, one("b"))
		b.want(name+" second launch", "")
		b.started(b.now, "a")
		b.want(name+" started", "a:RUNNING")
		b.ended(b.now, "a", c.end)
		b.want(name+" ended", c.want)
		if name == "memory" {
			b.fired(b.now, timer{timerOOM, "a"})
			b.want("no agent came", "a:FAILED/CONTAINER_LIMITATION_MEMORY, timer2 1m0s")
		}
		b.ended(b.now, "a", exited(0))
		b.want(name+" ended twice", "")
		b.ackAll()
		if got := b.effects(); !strings.HasSuffix(got, "exit") {
			t.Errorf("%s: after all acknowledgements: %s", name, got)
		}
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]end{
		"Command exited with status 0":                                    exited(0),
		"Command exited with status 255":                                  exited(255),
		"Command terminated with signal Killed":                           signalled(syscall.SIGKILL),
		"Command terminated with signal Terminated":                       signalled(syscall.SIGTERM),
		"Command terminated with signal Segmentation fault (core dumped)": signalled(syscall.SIGSEGV | 0x80),
	} {
		if got := describe(*e.status); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestKills(t *testing.T) {
	t.Parallel()
	sec := func(n int) *time.Duration { d := time.Duration(n) * time.Second; return &d }
	for name, c := range map[string]struct {
		task, kill *time.Duration
		killing    bool
		want       string
	}{
		"default":      {nil, nil, false, "terminated a, timer0 3s"},
		"task's":       {sec(7), nil, false, "terminated a, timer0 7s"},
		"kill's":       {sec(7), sec(9), false, "terminated a, timer0 9s"},
		"none":         {nil, sec(0), false, "killed a"},
		"negative":     {nil, sec(-4), false, "killed a"},
		"told of":      {nil, nil, true, "a:KILLING, terminated a, timer0 3s"},
		"none told of": {nil, sec(0), true, "a:KILLING, killed a"},
	} {
		b := newBench(t, true)
		b.taskKilling = c.killing
		l := one("a")
		l.Tasks[0].KillGrace = c.task
		b.launch(b.now, l)
		b.started(b.now, "a")
		b.effects()
		b.killTask(b.now, message.Kill{TaskID: "a", Grace: c.kill})
		b.want(name, c.want)
		b.ended(b.now, "a", signalled(syscall.SIGTERM))
		b.want(name+" ended", "a:KILLED, timer2 1m0s")
	}
	b := newBench(t, true)
	b.killTask(b.now, message.Kill{TaskID: "nobody"})
	b.want("unknown task", "")
	b.launch(b.now, one("a"))
	b.effects()
	b.killTask(b.now, message.Kill{TaskID: "a"})
	b.want("before it runs", "")
	b.started(b.now, "a")
	b.want("once it runs", "terminated a, timer0 3s")
	b.now = b.now.Add(time.Second)
	b.killTask(b.now, message.Kill{TaskID: "a", Grace: sec(2)})
	b.want("a second kill shortens", "timer0 1s")
	b.fired(b.now, timer{timerGrace, "a"})
	b.want("time is up", "killed a")
	b.fired(b.now, timer{timerGrace, "a"})
	b.want("only once", "")
	b.ended(b.now, "a", signalled(syscall.SIGKILL))
	b.want("ended", "a:KILLED, timer2 1m0s")
}

func TestGroups(t *testing.T) {
	t.Parallel()
	b := newBench(t, false)
	b.launch(b.now, group("a", "b"))
	b.want("launch", "a:STARTING, b:STARTING, start a, start b")
	b.started(b.now, "a")
	b.want("one of two runs", "")
	b.ended(b.now, "a", exited(0))
	b.want("and ends well before its group runs", "")
	b.started(b.now, "b")
	b.want("both ran", "a:RUNNING, b:RUNNING, a:FINISHED")
	b.launch(b.now, group("c"))
	b.started(b.now, "c")
	b.effects()
	b.launch(b.now, group("d", "e"))
	b.started(b.now, "d")
	b.effects()
	b.startFailed(b.now, "e", "no")
	b.want("one can't start: its group goes, no other", "e:FAILED/CONTAINER_LAUNCH_FAILED, terminated d, timer0 3s")
	b.ended(b.now, "d", signalled(syscall.SIGTERM))
	b.want("d goes", "d:KILLED")
	b.killTask(b.now, message.Kill{TaskID: "b"})
	b.effects()
	b.ended(b.now, "b", signalled(syscall.SIGTERM))
	b.want("b was killed", "b:KILLED")
	b.ackAll()
	b.want("c still runs", "")
	b.ended(b.now, "c", exited(0))
	b.want("the last", "c:FINISHED, timer2 1m0s")
	b.ackAll()
	b.want("done", "exit")
}

func TestHealthAndChecks(t *testing.T) {
	t.Parallel()
	b := newBench(t, true)
	l := one("a")
	l.Tasks[0].Health, l.Tasks[0].Check = &message.Check{Type: "HTTP"}, &message.Check{Type: "TCP"}
	d := time.Hour
	l.Tasks[0].MaxCompletion = &d
	b.launch(b.now, l)
	b.effects()
	b.started(b.now, "a")
	b.want("started", "a:RUNNING, timer1 1h0m0s, checks a")
	b.health(b.now, "a", true, false)
	b.want("healthy", "a:RUNNING(healthy=true)/TASK_HEALTH_CHECK_STATUS_UPDATED")
	b.health(b.now, "a", true, false)
	b.want("still healthy", "")
	yes := true
	b.checked(b.now, "a", message.CheckStatus{Type: "TCP", Succeeded: &yes})
	b.want("checked", "a:RUNNING(healthy=true)/TASK_CHECK_STATUS_UPDATED")
	b.checked(b.now, "a", message.CheckStatus{Type: "TCP", Succeeded: &yes})
	b.want("checked the same", "")
	b.health(b.now, "a", false, false)
	b.want("unhealthy", "a:RUNNING(healthy=false)/TASK_HEALTH_CHECK_STATUS_UPDATED")
	b.health(b.now, "a", false, true)
	b.want("too often", "nochecks a, terminated a, timer0 3s")
	b.ended(b.now, "a", signalled(syscall.SIGTERM))
	b.want("ended", "nochecks a, a:KILLED(healthy=false), timer2 1m0s")

	b = newBench(t, true)
	b.launch(b.now, l)
	b.started(b.now, "a")
	b.effects()
	b.fired(b.now, timer{timerDeadline, "a"})
	b.want("deadline", "nochecks a, terminated a, timer0 3s")
	b.ended(b.now, "a", signalled(syscall.SIGTERM))
	b.want("ended", "nochecks a, a:FAILED/MAX_COMPLETION_TIME_REACHED, timer2 1m0s")
}

func TestWithoutTheAgent(t *testing.T) {
	t.Parallel()
	b := newBench(t, true)
	l := one("a")
	l.Tasks[0].Raw = []byte("raw")
	b.launch(b.now, l)
	b.started(b.now, "a")
	b.effects()
	b.disconnected(b.now)
	b.want("the agent is gone", "timer3 15m0s")
	if ts, us := b.subscribe(); len(ts) != 1 || len(us) != 2 {
		t.Errorf("%d tasks and %d updates to be told again, want 1 and 2", len(ts), len(us))
	}
	b.subscribed(message.Subscribed{})
	b.ackAll()
	if ts, us := b.subscribe(); len(ts) != 0 || len(us) != 0 {
		t.Errorf("after acknowledgement: %d tasks and %d updates", len(ts), len(us))
	}
	b.effects()
	b.disconnected(b.now)
	b.effects()
	b.ended(b.now, "a", exited(0))
	b.want("it ends while there is no agent", "a:FINISHED")
	b.subscribed(message.Subscribed{})
	b.want("the agent is back", "timer2 1m0s")
	b.ackAll()
	b.want("and knows", "exit")

	b = newBench(t, true)
	b.launch(b.now, l)
	b.started(b.now, "a")
	b.disconnected(b.now)
	b.effects()
	b.fired(b.now, timer{kind: timerRecovery})
	b.want("it does not come back", "terminated a, timer0 3s")
	b.ended(b.now, "a", signalled(syscall.SIGTERM))
	b.want("the end", "a:KILLED, exit")

	b = newBench(t, true)
	b.checkpoint = false
	b.launch(b.now, l)
	b.started(b.now, "a")
	b.effects()
	b.disconnected(b.now)
	b.want("without checkpointing", "terminated a, timer0 3s")
}

// TestAnyHistory: whatever comes in whatever order, a task's states follow each other as they may, the end is said once,
// and the executor ends when its tasks have ended and all is acknowledged.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	may := map[string][]string{
		"":         {"STARTING"},
		"STARTING": {"RUNNING", "KILLING", "FINISHED", "FAILED", "KILLED"},
		"RUNNING":  {"RUNNING", "KILLING", "FINISHED", "FAILED", "KILLED"},
		"KILLING":  {"FAILED", "KILLED"},
	}
	rapid.Check(t, func(r *rapid.T) {
		single := rapid.Bool().Draw(r, "single")
		b := newBench(t, single)
		b.taskKilling = rapid.Bool().Draw(r, "killing")
		last := make(map[string]string)
		asked := make(map[string]bool) // start was asked for
		alive := make(map[string]bool) // process runs
		exits := 0
		look := func() {
			for _, e := range b.take() {
				switch e := e.(type) {
				case effSend:
					s := strings.TrimPrefix(e.update.State, "TASK_")
					if !slices.Contains(may[last[e.update.TaskID]], s) {
						r.Fatalf("%s after %s", s, last[e.update.TaskID])
					}
					last[e.update.TaskID] = s
				case effStart:
					asked[e.task.ID] = true
				case effSignal:
					if !alive[e.taskID] {
						r.Fatalf("signal to %s, which does not run", e.taskID)
					}
				case effExit:
					exits++
				}
			}
		}
		n := 0
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			id := fmt.Sprint("t", rapid.IntRange(0, max(n-1, 0)).Draw(r, "task"))
			b.now = b.now.Add(time.Second)
			switch rapid.IntRange(0, 11).Draw(r, "what") {
			case 0, 1:
				var ids []string
				for range rapid.IntRange(1, 3).Draw(r, "size") {
					ids = append(ids, fmt.Sprint("t", n))
					n++
					if single {
						break
					}
				}
				b.launch(b.now, group(ids...))
			case 2, 3:
				if asked[id] && !alive[id] {
					asked[id], alive[id] = false, true
					b.started(b.now, id)
				}
			case 4:
				if asked[id] {
					asked[id] = false
					b.startFailed(b.now, id, "no")
				}
			case 5, 6:
				if alive[id] {
					alive[id] = false
					b.ended(b.now, id, exited(rapid.IntRange(0, 1).Draw(r, "code")))
				}
			case 7:
				b.killTask(b.now, message.Kill{TaskID: id})
			case 8:
				b.fired(b.now, timer{timerKind(rapid.IntRange(0, 3).Draw(r, "timer")), id})
			case 9:
				b.health(b.now, id, rapid.Bool().Draw(r, "healthy"), rapid.Bool().Draw(r, "failed"))
			case 10:
				if b.connected {
					b.disconnected(b.now)
				} else {
					b.subscribed(message.Subscribed{})
				}
			case 11:
				if len(b.unacked) > 0 {
					u := b.unacked[rapid.IntRange(0, len(b.unacked)-1).Draw(r, "ack")]
					b.acknowledged(message.Ack{TaskID: u.TaskID, UUID: u.UUID})
				}
			}
			look()
			if b.exited {
				break
			}
		}
		// Let it come to its end.
		if !b.exited {
			if !b.connected {
				b.subscribed(message.Subscribed{})
			}
			b.shutdown(b.now)
			look()
			for range 3 {
				for i := range n {
					id := fmt.Sprint("t", i)
					if asked[id] {
						asked[id], alive[id] = false, true
						b.started(b.now, id)
						look()
					}
					if alive[id] {
						alive[id] = false
						b.ended(b.now, id, signalled(syscall.SIGTERM))
						look()
					}
				}
			}
			b.ackAll()
			look()
		}
		if exits != 1 {
			r.Fatalf("%d exits", exits)
		}
	})
}
