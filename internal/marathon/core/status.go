package core

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// maxMessage bounds what is kept of a status' message.
const maxMessage = 10_000

// TaskFailure is the last failure of an app's tasks.
type TaskFailure struct {
	AppID     string       `json:"appId"`
	Host      string       `json:"host"`
	Message   string       `json:"message"`
	State     string       `json:"state"`
	TaskID    string       `json:"taskId"`
	Timestamp spec.Version `json:"timestamp"`
	Version   spec.Version `json:"version"`
	AgentID   string       `json:"slaveId,omitempty"`
}

// conditionFrom maps Mesos' states. TASK_LOST, which only masters send that don't know better states, is told apart by reason
// and message, as Marathon does.
func conditionFrom(st *mesosv1.TaskStatus) Condition {
	switch st.GetState() {
	case mesosv1.TaskState_TASK_STAGING:
		return Staging
	case mesosv1.TaskState_TASK_STARTING:
		return Starting
	case mesosv1.TaskState_TASK_RUNNING:
		return Running
	case mesosv1.TaskState_TASK_KILLING:
		return Killing
	case mesosv1.TaskState_TASK_FINISHED:
		return Finished
	case mesosv1.TaskState_TASK_FAILED:
		return Failed
	case mesosv1.TaskState_TASK_KILLED:
		return Killed
	case mesosv1.TaskState_TASK_ERROR:
		return Errored
	case mesosv1.TaskState_TASK_DROPPED:
		return Dropped
	case mesosv1.TaskState_TASK_UNREACHABLE:
		return Unreachable
	case mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return Gone
	case mesosv1.TaskState_TASK_UNKNOWN:
		return Unknown
	case mesosv1.TaskState_TASK_LOST:
		if strings.HasPrefix(st.GetMessage(), "Task is unknown to the") {
			return Unknown
		}
		switch st.GetReason() {
		case mesosv1.TaskStatus_REASON_RECONCILIATION, mesosv1.TaskStatus_REASON_AGENT_DISCONNECTED, mesosv1.TaskStatus_REASON_AGENT_REMOVED:
			return Unreachable
		}
		return Gone
	}
	return Unknown
}

// status takes what Mesos says of a task. It is acknowledged after what follows from it is stored.
func (m *Machine) status(st *mesosv1.TaskStatus) {
	id := st.GetTaskId().GetValue()
	delete(m.unheard, id)
	cond := conditionFrom(st)
	var i *Instance
	at := -1
	specID, instID, _, err := ParseTaskID(id)
	if err == nil {
		if i, _ = m.instances.Get(InstanceKey(specID, instID)); i != nil {
			at = i.task(id)
		}
	}
	if i == nil || at < 0 {
		m.strayStatus(st, specID, instID, cond)
	} else {
		m.taskStatus(i, at, st, cond)
	}
	m.acknowledge(st)
}

func (m *Machine) acknowledge(st *mesosv1.TaskStatus) {
	if len(st.GetUuid()) == 0 || st.GetAgentId() == nil {
		return
	}
	kind := scheduler.Call_ACKNOWLEDGE
	m.emit(Call{&scheduler.Call{Type: &kind, Acknowledge: &scheduler.Call_Acknowledge{AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid()}}})
}

// strayStatus is about a task that this framework knows nothing of: an earlier incarnation, or one that was given up. It
// must not go on running.
func (m *Machine) strayStatus(st *mesosv1.TaskStatus, specID, instID string, cond Condition) {
	if cond.Terminal() {
		if instID != "" {
			m.publish("unknown_instance_terminated_event", UnknownTerminated{InstanceID: instID, SpecID: specID, Condition: cond})
		}
		return
	}
	if cond != Unreachable {
		m.killTask(st.GetTaskId().GetValue(), st.GetAgentId().GetValue(), nil)
	}
}

func (m *Machine) killTask(id, agent string, grace *time.Duration) {
	kind := scheduler.Call_KILL
	k := &scheduler.Call_Kill{TaskId: &mesosv1.TaskID{Value: &id}}
	if agent != "" {
		k.AgentId = &mesosv1.AgentID{Value: &agent}
	}
	if grace != nil {
		n := grace.Nanoseconds()
		k.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: &n}}
	}
	m.emit(Call{&scheduler.Call{Type: &kind, Kill: k}})
}

// taskStatus applies a status to a task of an instance.
func (m *Machine) taskStatus(old *Instance, at int, st *mesosv1.TaskStatus, cond Condition) {
	i := *old
	i.Tasks = slices.Clone(old.Tasks)
	t := &i.Tasks[at]
	if t.Condition.Terminal() {
		return // a status that came late or twice
	}
	stateChanged := t.State != st.GetState().String()
	t.State, t.Condition = st.GetState().String(), cond
	if s := st.GetMessage(); s != "" {
		t.Message = clip(s)
	}
	if cond == Running && t.StartedAt == 0 {
		t.StartedAt = m.stamp()
	}
	if cond.Terminal() {
		t.EndedAt = m.stamp()
	}
	if n := addressesOf(st, t.Networks); len(n) > 0 {
		t.Networks = n
	}
	if st.CheckStatus != nil {
		t.Check = checkResult(st.CheckStatus)
	}
	if st.Healthy != nil {
		h := st.GetHealthy()
		t.Healthy = &h
	}
	if a := st.GetAgentId().GetValue(); a != "" && i.AgentID == "" {
		i.AgentID = a
	}
	m.setCondition(&i, conditionOf(i.Tasks))
	s := m.specOf(&i)
	if stateChanged {
		m.publish("status_update_event", StatusUpdate{
			AgentID: i.AgentID, TaskID: t.ID, TaskStatus: t.State, Message: t.Message, AppID: i.SpecID,
			Host: i.Host, Addresses: TaskAddresses(t), Ports: PortsOf(t), Version: i.Version,
		})
	}
	if s != nil {
		m.agentHealth(&i, s)
	}
	allEnded := !slices.ContainsFunc(i.Tasks, func(t Task) bool { return !t.Condition.Terminal() })
	switch {
	case allEnded:
		m.ended(&i, s, t, st)
		return
	case i.Condition == Running && old.Condition != Running:
		m.running(&i, s)
	case i.Condition == Unreachable && old.Condition != Unreachable:
		m.unreachable(&i, s)
		return
	}
	m.putInstance(&i)
	if i.Condition != old.Condition {
		m.changed(&i)
	}
	if i.Goal != GoalRunning && i.KillAt == 0 && i.Condition != Killing {
		m.kill(&i, i.Goal)
	}
}

func clip(s string) string {
	if len(s) > maxMessage {
		return strings.ToValidUTF8(s[:maxMessage], "")
	}
	return s
}

// setCondition moves an instance on. While it is being killed to start again it stays Killing until it has ended.
func (m *Machine) setCondition(i *Instance, c Condition) {
	if i.KillAt != 0 && i.Goal == GoalRunning && !c.Terminal() && c != Unreachable {
		c = Killing
	}
	if c != i.Condition {
		i.Condition, i.Since = c, m.stamp()
	}
}

func (m *Machine) changed(i *Instance) {
	m.publish("instance_changed_event", InstanceChanged{InstanceID: i.ID, Condition: i.Condition, SpecID: i.SpecID, AgentID: i.AgentID, Host: i.Host, Version: i.Version})
}

// running: the instance has begun to run, or came back.
func (m *Machine) running(i *Instance, s *spec.Spec) {
	i.HasRun = true
	if i.ActiveSince == 0 {
		i.ActiveSince = m.stamp()
	}
	if s == nil {
		return
	}
	if d := m.delayOf(s); d != nil {
		// The delay counts from now: one that lives as long as the greatest delay clears its history.
		d.until = m.now.Add(d.wait)
	}
	if !s.HasReadiness() {
		i.Ready = true
	}
	m.reprobe(i)
}

// ended: nothing of the instance is left on its agent.
func (m *Machine) ended(i *Instance, s *spec.Spec, t *Task, st *mesosv1.TaskStatus) {
	m.emit(Unprobe{Instance: i.ID})
	m.changed(i)
	wasKilled := i.KillAt != 0
	cond := i.Condition
	if s != nil && cond.failure() && !wasKilled {
		m.failed(s)
		m.noteFailure(i, t, cond)
	}
	i.HasRun = i.HasRun || began(st)
	switch i.Goal {
	case GoalDecommissioned:
		m.forget(i)
		return
	case GoalStopped:
		m.stopped(i)
		return
	}
	if st != nil && st.GetState() == mesosv1.TaskState_TASK_GONE_BY_OPERATOR && i.Reserved {
		// Its agent and volumes will not come back: another instance takes its place.
		m.forget(i)
		return
	}
	m.again(i, cond.failure() && !wasKilled)
}

// began reports whether a task that ended may have written to its volumes: whatever an agent started may have, even if that it ran
// was never heard.
func began(st *mesosv1.TaskStatus) bool {
	switch st.GetState() {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED:
		return st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED && st.GetReason() != mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH
	}
	return false
}

// stopped leaves an ended instance as it is, with its volumes, until its spec needs one more.
func (m *Machine) stopped(i *Instance) {
	i.Goal, i.KillAt = GoalStopped, 0
	i.Healthy, i.Health, i.Ready, i.Readiness = nil, nil, false, nil
	m.putInstance(i)
}

// others counts the other instances of the same spec that are here.
func (m *Machine) others(i *Instance) int {
	n := 0
	for _, o := range m.of(i.SpecID) {
		if o.ID != i.ID && o.here() {
			n++
		}
	}
	return n
}

// again makes an ended instance wait for its next start: with the definition that is in force now, unless a deployment has
// not come to its spec yet. During a replacement an old instance that ended makes room for a new one instead.
func (m *Machine) again(i *Instance, failed bool) {
	target := m.root.Get(i.SpecID)
	if target == nil {
		m.forget(i)
		return
	}
	if failed {
		m.canaryFailed(i)
		if target = m.root.Get(i.SpecID); target == nil {
			m.forget(i)
			return
		}
	}
	if d := m.locks[i.SpecID]; d != nil && !m.current(i, target) {
		for _, a := range d.Current() {
			if a.ID != i.SpecID || a.Kind != Restart {
				continue
			}
			if !i.Reserved {
				m.forget(i)
				return
			}
			if m.others(i) >= target.Instances() {
				// There are enough without it: the number was lowered too. Its volumes stay.
				m.stopped(i)
				return
			}
		}
		if d.pending[i.SpecID] || i.Reserved && d.CurrentStep > 0 {
			i.Version = target.Version
		}
		m.reschedule(i)
		return
	}
	i.Version = target.Version
	m.reschedule(i)
}

func (m *Machine) reschedule(i *Instance) {
	i.Condition, i.Since = Scheduled, m.stamp()
	i.Incarnation++
	i.Tasks, i.Healthy, i.Health, i.Ready, i.Readiness = nil, nil, nil, false, nil
	i.ActiveSince, i.StagedAt, i.KillAt = 0, 0, 0
	if i.Reserved && !i.HasRun {
		// Its volumes are empty, and may not even exist: it is free to begin anew anywhere.
		m.owe(i)
		i.Reserved, i.Volumes = false, nil
	}
	if !i.Reserved {
		i.AgentID, i.Host, i.Region, i.Zone, i.Attributes = "", "", "", "", nil
	}
	m.putInstance(i)
	m.changed(i)
}

func (m *Machine) noteFailure(i *Instance, t *Task, cond Condition) {
	if cond == Finished {
		return
	}
	f := &TaskFailure{AppID: i.SpecID, Host: i.Host, Message: t.Message, State: t.State, TaskID: t.ID, Timestamp: m.stamp(), Version: i.Version, AgentID: i.AgentID}
	m.failures.Set(i.SpecID, f)
	b, err := json.Marshal(f)
	if err == nil {
		m.emit(Put{Key: failurePrefix + spec.SafeID(i.SpecID), Value: b})
	}
}

// unreachable: its agent is cut off. Depending on its strategy it is replaced at once, later, or never.
func (m *Machine) unreachable(i *Instance, s *spec.Spec) {
	m.changed(i)
	m.emit(Unprobe{Instance: i.ID})
	if i.Goal == GoalDecommissioned {
		// The master remembers the kill for when the agent comes back; nobody waits for it.
		m.forget(i)
		return
	}
	if i.KillAt != 0 && !i.Reserved {
		m.forget(i)
		return
	}
	m.putInstance(i)
	m.instanceTimer(i)
}

// instanceTimer does what is due for an instance and sets the next timer.
func (m *Machine) instanceTimer(i *Instance) {
	age := func(v spec.Version) time.Duration { return m.now.Sub(v.Time()) }
	s := m.specOf(i)
	switch {
	case i.Condition == Unreachable || i.Condition == UnreachableInactive:
		if s == nil {
			return
		}
		u := s.Unreachable()
		if u.Disabled {
			return
		}
		inactive, expunge := time.Duration(u.Inactive)*time.Second, time.Duration(u.Expunge)*time.Second
		t := age(i.Since)
		switch {
		case t >= expunge:
			m.forget(i)
		case i.Condition == Unreachable && t >= inactive:
			c := *i
			c.Condition = UnreachableInactive // Since stays: it tells how long nothing was heard
			m.putInstance(&c)
			m.changed(&c)
			m.after(expunge-t, timerInstance, i.ID)
		case i.Condition == Unreachable:
			m.after(inactive-t, timerInstance, i.ID)
		default:
			m.after(expunge-t, timerInstance, i.ID)
		}
	case i.KillAt != 0 && i.launched():
		if age(i.KillAt) >= m.opt.KillRetry {
			m.sendKill(i, s)
		} else {
			m.after(m.opt.KillRetry-age(i.KillAt), timerInstance, i.ID)
		}
	case i.Condition == Provisioned:
		if left := m.opt.LaunchConfirmTimeout - age(i.StagedAt); left > 0 {
			m.after(left, timerInstance, i.ID)
			return
		}
		// Nothing was ever heard of it: ask for it to be killed in case it exists, and try again as the next incarnation.
		m.sendKills(i, s)
		c := *i
		m.again(&c, false)
	case i.Condition == Staging || i.Condition == Starting:
		if left := m.opt.LaunchTimeout - age(i.StagedAt); left > 0 {
			m.after(left, timerInstance, i.ID)
			return
		}
		m.kill(i, i.Goal)
	}
}

// kill ends an instance for a goal: GoalRunning means that it starts again.
func (m *Machine) kill(i *Instance, goal Goal) {
	if i.Goal == goal && i.KillAt != 0 {
		return
	}
	c := *i
	c.Goal = goal
	switch {
	case !i.launched() && goal == GoalDecommissioned, !i.launched() && goal == GoalStopped && !i.Reserved:
		m.forget(i)
		return
	case !i.launched():
		if i.Goal == goal {
			return
		}
		c.Condition = Killed
		m.putInstance(&c)
		return
	case (i.Condition == Unreachable || i.Condition == UnreachableInactive) && goal == GoalDecommissioned:
		m.sendKills(i, m.specOf(i))
		m.forget(i)
		return
	}
	if i.KillAt != 0 {
		m.putInstance(&c)
		return
	}
	m.sendKill(&c, m.specOf(i))
}

// relaunch ends a resident instance so that it starts again with another definition.
func (m *Machine) relaunch(i *Instance, target *spec.Spec) {
	c := *i
	c.Version = target.Version
	if !i.launched() {
		m.putInstance(&c)
		return
	}
	m.kill(&c, GoalRunning)
}

// sendKill asks for an instance's tasks to end and remembers when.
func (m *Machine) sendKill(i *Instance, s *spec.Spec) {
	c := *i
	c.KillAt = m.stamp()
	if c.Goal == GoalRunning {
		m.setCondition(&c, Killing)
	}
	m.emit(Unprobe{Instance: i.ID})
	m.putInstance(&c)
	m.sendKills(&c, s)
	m.after(m.opt.KillRetry, timerInstance, i.ID)
}

func (m *Machine) sendKills(i *Instance, s *spec.Spec) {
	var grace *time.Duration
	if s != nil && s.App != nil && s.App.TaskKillGracePeriodSeconds != nil {
		d := time.Duration(*s.App.TaskKillGracePeriodSeconds) * time.Second
		grace = &d
	}
	for _, t := range i.Tasks {
		if !t.Condition.Terminal() {
			m.killTask(t.ID, i.AgentID, grace)
		}
	}
}

func addressesOf(st *mesosv1.TaskStatus, had []Address) []Address {
	var out []Address
	for _, n := range st.GetContainerStatus().GetNetworkInfos() {
		for _, a := range n.GetIpAddresses() {
			proto := "IPv4"
			if a.GetProtocol() == mesosv1.NetworkInfo_IPv6 || strings.Contains(a.GetIpAddress(), ":") {
				proto = "IPv6"
			}
			if a.GetIpAddress() != "" {
				out = append(out, Address{Network: n.GetName(), IP: a.GetIpAddress(), Protocol: proto})
			}
		}
	}
	if len(out) == 0 {
		return had
	}
	return out
}

func checkResult(c *mesosv1.CheckStatusInfo) any {
	switch {
	case c.Http != nil && c.Http.StatusCode != nil:
		return map[string]any{"http": map[string]any{"statusCode": c.Http.GetStatusCode()}}
	case c.Tcp != nil && c.Tcp.Succeeded != nil:
		return map[string]any{"tcp": map[string]any{"succeeded": c.Tcp.GetSucceeded()}}
	case c.Command != nil && c.Command.ExitCode != nil:
		return map[string]any{"command": map[string]any{"exitCode": c.Command.GetExitCode()}}
	}
	return nil
}

// TaskAddresses are a task's addresses as the API shows them, never nil.
func TaskAddresses(t *Task) []TaskAddress {
	out := make([]TaskAddress, 0, len(t.Networks))
	for _, n := range t.Networks {
		out = append(out, TaskAddress{IP: n.IP, Protocol: n.Protocol})
	}
	return out
}

// PortsOf are a task's host ports, never nil.
func PortsOf(t *Task) []int {
	if t.HostPorts == nil {
		return []int{}
	}
	return t.HostPorts
}
