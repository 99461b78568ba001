package execlink

import (
	"fmt"
	"maps"
	"slices"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
)

// subscribeCall makes the v1 SUBSCRIBE of a helper's subscribe.
func subscribeCall(p Peer, s *message.Subscribe) (*executorv1.Call, error) {
	sub := &executorv1.Call_Subscribe{}
	for _, raw := range s.Tasks {
		t := new(mesosv1.TaskInfo)
		if err := t.UnmarshalVT(raw); err != nil {
			return nil, fmt.Errorf("decode unacknowledged task: %w", err)
		}
		sub.UnacknowledgedTasks = append(sub.UnacknowledgedTasks, t)
	}
	for _, u := range s.Updates {
		status, err := statusOf(p, u)
		if err != nil {
			return nil, err
		}
		sub.UnacknowledgedUpdates = append(sub.UnacknowledgedUpdates, &executorv1.Call_Update{Status: status})
	}
	return &executorv1.Call{
		ExecutorId:  &mesosv1.ExecutorID{Value: ptr(string(p.ExecutorID))},
		FrameworkId: &mesosv1.FrameworkID{Value: ptr(string(p.FrameworkID))},
		Type:        executorv1.Call_SUBSCRIBE.Enum(),
		Subscribe:   sub,
	}, nil
}

// statusOf makes the TaskStatus of a helper's update.
func statusOf(p Peer, u message.Update) (*mesosv1.TaskStatus, error) {
	state, ok := mesosv1.TaskState_value[u.State]
	if !ok {
		return nil, fmt.Errorf("unknown task state %q", clip(u.State))
	}
	if len(u.UUID) != 16 {
		return nil, fmt.Errorf("uuid of an update has %d bytes, want 16", len(u.UUID))
	}
	s := &mesosv1.TaskStatus{
		TaskId:     &mesosv1.TaskID{Value: ptr(u.TaskID)},
		State:      mesosv1.TaskState(state).Enum(),
		Source:     mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		ExecutorId: &mesosv1.ExecutorID{Value: ptr(string(p.ExecutorID))},
		Timestamp:  ptr(u.Timestamp),
		Uuid:       u.UUID,
		Healthy:    u.Healthy,
		Data:       u.Data,
	}
	for _, k := range slices.Sorted(maps.Keys(u.Labels)) {
		if s.Labels == nil {
			s.Labels = &mesosv1.Labels{}
		}
		s.Labels.Labels = append(s.Labels.Labels, &mesosv1.Label{Key: ptr(k), Value: ptr(u.Labels[k])})
	}
	if u.Message != "" {
		s.Message = ptr(u.Message)
	}
	if u.Reason != "" {
		reason, ok := mesosv1.TaskStatus_Reason_value[u.Reason]
		if !ok {
			return nil, fmt.Errorf("unknown reason %q", clip(u.Reason))
		}
		s.Reason = mesosv1.TaskStatus_Reason(reason).Enum()
	}
	if u.Check != nil {
		cs, err := checkStatusProto(u.Check)
		if err != nil {
			return nil, err
		}
		s.CheckStatus = cs
	}
	if len(u.Limitation) > 0 {
		s.Limitation = new(mesosv1.TaskResourceLimitation)
		if err := s.Limitation.UnmarshalVT(u.Limitation); err != nil {
			return nil, fmt.Errorf("decode limitation: %w", err)
		}
	}
	return s, nil
}

func checkStatusProto(c *message.CheckStatus) (*mesosv1.CheckStatusInfo, error) {
	typ, ok := mesosv1.CheckInfo_Type_value[c.Type]
	if !ok {
		return nil, fmt.Errorf("unknown check type %q", clip(c.Type))
	}
	cs := &mesosv1.CheckStatusInfo{Type: mesosv1.CheckInfo_Type(typ).Enum()}
	// The message of the type is there even without a result: it means that the check has not run yet.
	switch *cs.Type {
	case mesosv1.CheckInfo_COMMAND:
		cs.Command = &mesosv1.CheckStatusInfo_Command{ExitCode: c.ExitCode}
	case mesosv1.CheckInfo_HTTP:
		cs.Http = &mesosv1.CheckStatusInfo_Http{StatusCode: c.StatusCode}
	case mesosv1.CheckInfo_TCP:
		cs.Tcp = &mesosv1.CheckStatusInfo_Tcp{Succeeded: c.Succeeded}
	}
	return cs, nil
}

// downOf makes the helper's message of an event.
func downOf(e *executorv1.Event) (message.Down, error) {
	switch e.GetType() {
	case executorv1.Event_SUBSCRIBED:
		sub := &message.Subscribed{ContainerID: e.GetSubscribed().GetContainerId().GetValue()}
		fw := e.GetSubscribed().GetFrameworkInfo()
		sub.Checkpoint = fw.GetCheckpoint()
		for _, c := range fw.GetCapabilities() {
			if c.GetType() == mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE {
				sub.TaskKilling = true
			}
		}
		return message.Down{Subscribed: sub}, nil
	case executorv1.Event_LAUNCH:
		t, err := TaskOf(e.GetLaunch().GetTask())
		return message.Down{Launch: &message.Launch{Tasks: []message.Task{t}}}, err
	case executorv1.Event_LAUNCH_GROUP:
		l := &message.Launch{Group: true}
		for _, ti := range e.GetLaunchGroup().GetTaskGroup().GetTasks() {
			t, err := TaskOf(ti)
			if err != nil {
				return message.Down{}, err
			}
			l.Tasks = append(l.Tasks, t)
		}
		return message.Down{Launch: l}, nil
	case executorv1.Event_KILL:
		k := &message.Kill{TaskID: e.GetKill().GetTaskId().GetValue()}
		if p := e.GetKill().GetKillPolicy(); p.GetGracePeriod() != nil {
			k.Grace = ptr(time.Duration(p.GetGracePeriod().GetNanoseconds()))
		}
		return message.Down{Kill: k}, nil
	case executorv1.Event_ACKNOWLEDGED:
		a := e.GetAcknowledged()
		return message.Down{Acknowledged: &message.Ack{TaskID: a.GetTaskId().GetValue(), UUID: a.GetUuid()}}, nil
	case executorv1.Event_SHUTDOWN:
		return message.Down{Shutdown: true}, nil
	case executorv1.Event_ERROR:
		return message.Down{Error: e.GetError().GetMessage()}, nil
	case executorv1.Event_MESSAGE, executorv1.Event_HEARTBEAT:
		// The built-in executors have no use for a framework's messages.
		return message.Down{Heartbeat: true}, nil
	default:
		return message.Down{}, fmt.Errorf("unknown event type %s", e.GetType())
	}
}

// TaskOf picks what a helper needs of a TaskInfo.
func TaskOf(t *mesosv1.TaskInfo) (message.Task, error) {
	raw, err := t.MarshalVT()
	if err != nil {
		return message.Task{}, fmt.Errorf("encode task %s: %w", t.GetTaskId().GetValue(), err)
	}
	m := message.Task{ID: t.GetTaskId().GetValue(), Raw: raw, Command: commandOf(t.GetCommand())}
	if g := t.GetKillPolicy().GetGracePeriod(); g != nil {
		m.KillGrace = ptr(max(time.Duration(g.GetNanoseconds()), 0))
	}
	if d := t.GetMaxCompletionTime(); d != nil {
		m.MaxCompletion = ptr(max(time.Duration(d.GetNanoseconds()), 0))
	}
	if h := t.GetHealthCheck(); h != nil {
		m.Health = healthOf(h)
	}
	if c := t.GetCheck(); c != nil {
		m.Check = checkOf(c)
	}
	return m, nil
}

func commandOf(c *mesosv1.CommandInfo) *message.Command {
	if c == nil {
		return nil
	}
	return &message.Command{Shell: c.GetShell(), Value: c.GetValue(), Arguments: c.GetArguments(), Env: EnvOf(c.GetEnvironment())}
}

// EnvOf gives the variables of an environment as "KEY=value". Secrets are values: the agent launches nothing with references.
func EnvOf(e *mesosv1.Environment) []string {
	var env []string
	for _, v := range e.GetVariables() {
		if v.GetType() == mesosv1.Environment_Variable_SECRET {
			if value := v.GetSecret().GetValue(); value != nil {
				env = append(env, v.GetName()+"="+string(value.GetData()))
			}
			continue
		}
		env = append(env, v.GetName()+"="+v.GetValue())
	}
	return env
}

func commandProto(c *message.Command) *mesosv1.CommandInfo {
	if c == nil {
		return nil
	}
	p := &mesosv1.CommandInfo{Shell: ptr(c.Shell), Arguments: c.Arguments}
	if c.Value != "" {
		p.Value = ptr(c.Value)
	}
	if len(c.Env) > 0 {
		p.Environment = &mesosv1.Environment{}
		for _, kv := range c.Env {
			for i := range len(kv) {
				if kv[i] == '=' {
					p.Environment.Variables = append(p.Environment.Variables,
						&mesosv1.Environment_Variable{Name: ptr(kv[:i]), Value: ptr(kv[i+1:])})
					break
				}
			}
		}
	}
	return p
}

// seconds turns a message's float seconds into a duration; nonsense (negative, NaN, beyond a year) is brought into range.
func seconds(s float64) time.Duration {
	switch {
	case !(s > 0):
		return 0
	case s > 365*24*3600:
		s = 365 * 24 * 3600
	}
	return time.Duration(s * float64(time.Second))
}

func healthOf(h *mesosv1.HealthCheck) *message.Check {
	c := &message.Check{
		Type:     h.GetType().String(),
		Command:  commandOf(h.GetCommand()),
		Delay:    seconds(h.GetDelaySeconds()),
		Interval: seconds(h.GetIntervalSeconds()),
		Timeout:  seconds(h.GetTimeoutSeconds()),
		Failures: max(h.GetConsecutiveFailures(), 1),
		Grace:    seconds(h.GetGracePeriodSeconds()),
	}
	switch {
	case h.GetHttp() != nil && (h.GetType() == mesosv1.HealthCheck_HTTP || h.GetType() == mesosv1.HealthCheck_UNKNOWN):
		c.Type = "HTTP" // old frameworks leave the type out
		c.Scheme, c.Port, c.Path = h.GetHttp().GetScheme(), uint16(h.GetHttp().GetPort()), h.GetHttp().GetPath()
		c.IPv6 = h.GetHttp().GetProtocol() == mesosv1.NetworkInfo_IPv6
	case h.GetTcp() != nil && h.GetType() == mesosv1.HealthCheck_TCP:
		c.Port = uint16(h.GetTcp().GetPort())
		c.IPv6 = h.GetTcp().GetProtocol() == mesosv1.NetworkInfo_IPv6
	case h.GetCommand() != nil && h.GetType() == mesosv1.HealthCheck_UNKNOWN:
		c.Type = "COMMAND"
	}
	return c
}

func checkOf(k *mesosv1.CheckInfo) *message.Check {
	c := &message.Check{
		Type:     k.GetType().String(),
		Command:  commandOf(k.GetCommand().GetCommand()),
		Delay:    seconds(k.GetDelaySeconds()),
		Interval: seconds(k.GetIntervalSeconds()),
		Timeout:  seconds(k.GetTimeoutSeconds()),
	}
	switch k.GetType() {
	case mesosv1.CheckInfo_HTTP:
		c.Port, c.Path = uint16(k.GetHttp().GetPort()), k.GetHttp().GetPath()
	case mesosv1.CheckInfo_TCP:
		c.Port = uint16(k.GetTcp().GetPort())
	}
	return c
}

func fillWait(r *message.Result, w *agentv1.Response_WaitContainer) {
	r.Status = w.ExitStatus
	r.Message = w.GetMessage()
	if w.State != nil {
		r.State = w.GetState().String()
	}
	if w.Reason != nil {
		r.Reason = w.GetReason().String()
	}
	if w.Limitation != nil {
		// Our own message, just made: it always encodes.
		r.Limitation, _ = w.Limitation.MarshalVT()
	}
}
