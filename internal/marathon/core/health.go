package core

import (
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// reprobe asks for the probes that this process makes of a running instance.
func (m *Machine) reprobe(i *Instance) {
	s := m.specOf(i)
	if s == nil || s.App == nil || i.Condition != Running || len(i.Tasks) == 0 {
		return
	}
	t := &i.Tasks[0]
	for n, h := range s.App.HealthChecks {
		if h.OnAgent() {
			continue
		}
		host, port := m.probeAddress(s.App, i, t, h.Port, h.PortIndex)
		m.emit(Probe{Instance: i.ID, Task: t.ID, Index: n, Check: h, Host: host, Port: port})
	}
	if !s.HasReadiness() || i.Ready {
		return
	}
	c := s.App.ReadinessChecks[0]
	for n, p := range s.App.Ports() {
		if p.Name == c.PortName {
			index := n
			host, port := m.probeAddress(s.App, i, t, nil, &index)
			m.emit(CheckReadiness{Instance: i.ID, Task: t.ID, Check: c, Host: host, Port: port})
			return
		}
	}
}

// probeAddress is where a port of a task is reached from outside its container.
func (m *Machine) probeAddress(a *spec.App, i *Instance, t *Task, fixed, index *int) (string, int) {
	host := i.Host
	if fixed != nil {
		if !a.HostNetworking() && a.Networks[0].Mode == spec.NetworkContainer && len(t.Networks) > 0 {
			host = t.Networks[0].IP
		}
		return host, *fixed
	}
	ports := a.Ports()
	n := 0
	if index != nil {
		n = *index
	}
	if n >= len(ports) {
		return host, 0
	}
	if ports[n].HostPort != nil {
		at := 0
		for k := range n {
			if ports[k].HostPort != nil {
				at++
			}
		}
		if at < len(t.HostPorts) {
			return host, t.HostPorts[at]
		}
		return host, 0
	}
	if len(t.Networks) > 0 {
		host = t.Networks[0].IP
	}
	return host, ports[n].ContainerPort
}

// healthResult applies one probe's outcome: failures before the first success count only after the grace period, and the
// failure after maxConsecutiveFailures kills the instance.
func (m *Machine) healthResult(e HealthResult) {
	old := m.instance(e.Instance)
	if old == nil || old.Condition != Running || len(old.Tasks) == 0 || old.Tasks[0].ID != e.Task || e.Ignore {
		return
	}
	s := m.specOf(old)
	if s == nil || s.App == nil || e.Index >= len(s.App.HealthChecks) {
		return
	}
	check := &s.App.HealthChecks[e.Index]
	i := *old
	i.Health = slices.Clone(old.Health)
	at := slices.IndexFunc(i.Health, func(h Health) bool { return h.Index == e.Index })
	var h Health
	if at >= 0 {
		h = i.Health[at]
	} else {
		h = Health{Index: e.Index}
	}
	now := m.stamp()
	if e.Alive {
		if h.FirstSuccess == nil {
			h.FirstSuccess = &now
		}
		h.Alive, h.LastSuccess, h.ConsecutiveFailures = true, &now, 0
	} else {
		grace := time.Duration(check.GracePeriodSeconds) * time.Second
		if h.FirstSuccess == nil && m.now.Sub(i.ActiveSince.Time()) < grace {
			return
		}
		m.publish("failed_health_check_event", FailedHealthCheck{AppID: i.SpecID, TaskID: i.ID, Check: check})
		h.Alive, h.LastFailure, h.LastFailureCause = false, &now, clip(e.Cause)
		h.ConsecutiveFailures++
	}
	if at >= 0 {
		i.Health[at] = h
	} else {
		i.Health = append(i.Health, h)
	}
	flipped := at < 0 || old.Health[at].Alive != h.Alive
	if flipped {
		m.publish("health_status_changed_event", HealthStatusChanged{AppID: i.SpecID, InstanceID: i.ID, TaskID: i.Tasks[0].ID, Version: i.Version, Alive: h.Alive})
	}
	m.setHealthy(&i, s)
	if !flipped && h.Alive {
		// Nothing but a time changed: readers see it, but it isn't worth a write for every probe of every instance.
		m.instances.Set(i.key(), &i)
		return
	}
	m.putInstance(&i)
	if most := check.MaxConsecutiveFailures; !h.Alive && most > 0 && h.ConsecutiveFailures > most {
		m.publish("unhealthy_instance_kill_event", UnhealthyKill{
			AppID: i.SpecID, TaskID: i.Tasks[0].ID, InstanceID: i.ID, Version: i.Version,
			Reason: h.LastFailureCause, Host: i.Host, AgentID: i.AgentID,
		})
		m.canaryFailed(&i)
		if again := m.instance(i.ID); again != nil && again.Goal == GoalRunning {
			m.kill(again, GoalRunning)
		}
	}
}

// setHealthy sums up the checks that this process makes: alive when each of them is.
func (m *Machine) setHealthy(i *Instance, s *spec.Spec) {
	alive, known := true, 0
	for n := range s.App.HealthChecks {
		at := slices.IndexFunc(i.Health, func(h Health) bool { return h.Index == n })
		if at < 0 {
			continue
		}
		known++
		alive = alive && i.Health[at].Alive
	}
	was := i.Healthy
	switch {
	case !alive:
		i.Healthy = new(bool)
	case known == len(s.App.HealthChecks):
		yes := true
		i.Healthy = &yes
	}
	if !sameBool(was, i.Healthy) {
		m.publish("instance_health_changed_event", InstanceHealthChanged{InstanceID: i.ID, SpecID: i.SpecID, Healthy: i.Healthy, Version: i.Version})
		m.touch(i.SpecID)
	}
}

// agentHealth takes over what Mesos' own checks say of an instance's tasks.
func (m *Machine) agentHealth(i *Instance, s *spec.Spec) {
	now := m.stamp()
	if s.App != nil {
		for n := range s.App.HealthChecks {
			if !s.App.HealthChecks[n].OnAgent() || len(i.Tasks) == 0 || i.Tasks[0].Healthy == nil {
				continue
			}
			alive := *i.Tasks[0].Healthy
			i.Health = slices.Clone(i.Health)
			at := slices.IndexFunc(i.Health, func(h Health) bool { return h.Index == n })
			if at < 0 {
				i.Health = append(i.Health, Health{Index: n, Alive: !alive})
				at = len(i.Health) - 1
			}
			h := &i.Health[at]
			if h.Alive == alive {
				continue
			}
			h.Alive = alive
			if alive {
				if h.FirstSuccess == nil {
					h.FirstSuccess = &now
				}
				h.LastSuccess, h.ConsecutiveFailures = &now, 0
			} else {
				h.LastFailure = &now
				h.ConsecutiveFailures++
			}
			m.publish("health_status_changed_event", HealthStatusChanged{AppID: i.SpecID, InstanceID: i.ID, TaskID: i.Tasks[0].ID, Version: i.Version, Alive: alive})
		}
		if len(s.App.HealthChecks) > 0 {
			m.setHealthy(i, s)
		}
		return
	}
	if !s.HasHealthChecks() {
		return
	}
	all, known := true, true
	for n := range s.Pod.Containers {
		if s.Pod.Containers[n].HealthCheck == nil {
			continue
		}
		at := slices.IndexFunc(i.Tasks, func(t Task) bool { return t.Container == s.Pod.Containers[n].Name })
		if at < 0 || i.Tasks[at].Healthy == nil {
			known = false
			continue
		}
		all = all && *i.Tasks[at].Healthy
	}
	was := i.Healthy
	if !all {
		i.Healthy = new(bool)
	} else if known {
		yes := true
		i.Healthy = &yes
	}
	if !sameBool(was, i.Healthy) {
		m.publish("instance_health_changed_event", InstanceHealthChanged{InstanceID: i.ID, SpecID: i.SpecID, Healthy: i.Healthy, Version: i.Version})
	}
}

func sameBool(a, b *bool) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

// readinessResult notes an answer; the first that is ready ends the checking.
func (m *Machine) readinessResult(e ReadinessResult) {
	old := m.instance(e.Instance)
	if old == nil || old.Condition != Running || len(old.Tasks) == 0 || old.Tasks[0].ID != e.Task || old.Ready {
		return
	}
	i := *old
	r := e.Readiness
	i.Readiness, i.Ready = &r, r.Ready
	if i.Ready {
		m.putInstance(&i)
		return
	}
	m.instances.Set(i.key(), &i)
}
