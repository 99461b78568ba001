package core

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	maintenancev1 "github.com/orchestrator/orchestrator/api/mesos/v1/maintenance"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
)

// machineKey identifies a machine: host names compare without case.
type machineKey struct{ hostname, ip string }

func keyOf(m *mesosv1.MachineID) machineKey {
	return machineKey{strings.ToLower(m.GetHostname()), m.GetIp()}
}

// matches says whether an agent is on the machine: what the id gives must be the agent's.
func (k machineKey) matches(info *mesosv1.AgentInfo, address string) bool {
	ip, _, _ := cutPort(address)
	return (k.hostname == "" || k.hostname == strings.ToLower(info.GetHostname())) && (k.ip == "" || k.ip == ip)
}

func (s *State) machineDown(info *mesosv1.AgentInfo, address string) bool {
	for k, m := range s.machines {
		if m.GetMode() == mesosv1.MachineInfo_DOWN && k.matches(info, address) {
			return true
		}
	}
	return false
}

// unavailabilityOf is the planned maintenance of the agent's machine; nil is none.
func (s *State) unavailabilityOf(info *mesosv1.AgentInfo, address string) *mesosv1.Unavailability {
	for _, k := range slices.SortedFunc(maps.Keys(s.machines), compareMachines) {
		if k.matches(info, address) {
			return s.machines[k].GetUnavailability()
		}
	}
	return nil
}

func compareMachines(a, b machineKey) int {
	if c := strings.Compare(a.hostname, b.hostname); c != 0 {
		return c
	}
	return strings.Compare(a.ip, b.ip)
}

func (s *State) recoverMaintenance(m *registryv1.Maintenance) {
	if m.Schedule != nil {
		s.schedule = m.GetSchedule()
	}
	for _, x := range m.GetMachines() {
		s.machines[keyOf(x.GetId())] = x
	}
}

// validateMachines checks a list of machine ids of a call.
func validateMachines(list []*mesosv1.MachineID) error {
	if len(list) == 0 {
		return errors.New("List of machines in the maintenance window is empty")
	}
	seen := map[machineKey]bool{}
	for _, m := range list {
		k := keyOf(m)
		if k.hostname == "" && k.ip == "" {
			return errors.New("Both 'hostname' and 'ip' for a machine are empty")
		}
		if seen[k] {
			return fmt.Errorf("Machine '%s' appears more than once", describeMachine(m))
		}
		seen[k] = true
	}
	return nil
}

func describeMachine(m *mesosv1.MachineID) string {
	switch {
	case m.GetHostname() == "":
		return m.GetIp()
	case m.GetIp() == "":
		return m.GetHostname()
	}
	return m.GetHostname() + " (" + m.GetIp() + ")"
}

// updateSchedule handles UPDATE_MAINTENANCE_SCHEDULE: the schedule is replaced whole.
func (s *State) updateSchedule(e *OperatorCall) {
	sched := e.Call.GetUpdateMaintenanceSchedule().GetSchedule()
	next := map[machineKey]*mesosv1.MachineInfo{}
	for _, w := range sched.GetWindows() {
		if err := validateMachines(w.GetMachineIds()); err != nil {
			s.reply(e.Token, 400, "%s", err)
			return
		}
		if w.GetUnavailability().GetDuration().GetNanoseconds() < 0 {
			s.reply(e.Token, 400, "Unavailability 'duration' is negative")
			return
		}
		for _, m := range w.GetMachineIds() {
			k := keyOf(m)
			if next[k] != nil {
				s.reply(e.Token, 400, "Machine '%s' appears more than once in the schedule", describeMachine(m))
				return
			}
			mode := mesosv1.MachineInfo_DRAINING
			if old := s.machines[k]; old.GetMode() == mesosv1.MachineInfo_DOWN {
				mode = mesosv1.MachineInfo_DOWN
			}
			next[k] = &mesosv1.MachineInfo{Id: m, Mode: mode.Enum(), Unavailability: w.GetUnavailability()}
		}
	}
	for k, m := range s.machines {
		if m.GetMode() == mesosv1.MachineInfo_DOWN && next[k] == nil {
			s.reply(e.Token, 400, "Machine '%s' is deactivated and cannot be removed from the schedule: stop its maintenance first", describeMachine(m.GetId()))
			return
		}
	}
	s.storeMaintenance(e.Token, sched, next, nil)
}

// storeMaintenance writes schedule and machines, makes them true, and answers the call.
func (s *State) storeMaintenance(t Token, sched *maintenancev1.Schedule, machines map[machineKey]*mesosv1.MachineInfo, then func()) {
	rec := &registryv1.Maintenance{Schedule: sched}
	for _, k := range slices.SortedFunc(maps.Keys(machines), compareMachines) {
		rec.Machines = append(rec.Machines, machines[k])
	}
	s.store([]Record{record("maintenance", rec)}, nil, func(err error) {
		if err != nil {
			s.storeFailed(t, err)
			return
		}
		s.schedule = sched
		s.machines = machines
		for _, a := range s.sortedAgentList() {
			u := s.unavailabilityOf(a.info, a.address)
			if proto.Equal(u, a.unavailability) {
				continue
			}
			// Offers carry the unavailability, so that those without it are taken back.
			s.rescindAgentOffers(a)
			a.unavailability = u
			s.alloc.SetUnavailability(a.id, u)
			s.touchAgent(a)
		}
		if then != nil {
			then()
		}
		s.reply(t, 200, "")
	})
}

func (s *State) sortedAgentList() []*agent {
	return slices.SortedFunc(maps.Values(s.agents), func(a, b *agent) int { return strings.Compare(string(a.id), string(b.id)) })
}

// startMaintenance handles START_MAINTENANCE: DRAINING machines go DOWN, their agents are told to shut down.
func (s *State) startMaintenance(e *OperatorCall) {
	list := e.Call.GetStartMaintenance().GetMachines()
	if err := validateMachines(list); err != nil {
		s.reply(e.Token, 400, "%s", err)
		return
	}
	next := maps.Clone(s.machines)
	for _, m := range list {
		old := next[keyOf(m)]
		if old == nil {
			s.reply(e.Token, 400, "Machine '%s' is not part of a maintenance schedule", describeMachine(m))
			return
		}
		if old.GetMode() != mesosv1.MachineInfo_DRAINING {
			s.reply(e.Token, 400, "Machine '%s' is not in DRAINING mode and cannot be brought down", describeMachine(m))
			return
		}
		next[keyOf(m)] = &mesosv1.MachineInfo{Id: old.GetId(), Mode: mesosv1.MachineInfo_DOWN.Enum(), Unavailability: old.GetUnavailability()}
	}
	s.storeMaintenance(e.Token, s.schedule, next, func() {
		for _, m := range list {
			k := keyOf(m)
			for _, a := range s.sortedAgentList() {
				if !k.matches(a.info, a.address) {
					continue
				}
				s.log(slog.LevelInfo, "machine goes down for maintenance", "agent_id", a.id, "machine", describeMachine(m))
				s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_Shutdown{Shutdown: &linkv1.Shutdown{
					Message: proto.String("Operator initiated 'Machine DOWN'"),
				}}})
				s.removeAgent(a, "maintenance", mesosv1.TaskState_TASK_GONE, mesosv1.TaskStatus_REASON_AGENT_REMOVED, "The agent's machine is down for maintenance")
			}
		}
	})
}

// stopMaintenance handles STOP_MAINTENANCE: DOWN machines are UP again and leave the schedule.
func (s *State) stopMaintenance(e *OperatorCall) {
	list := e.Call.GetStopMaintenance().GetMachines()
	if err := validateMachines(list); err != nil {
		s.reply(e.Token, 400, "%s", err)
		return
	}
	next := maps.Clone(s.machines)
	up := map[machineKey]bool{}
	for _, m := range list {
		old := next[keyOf(m)]
		if old == nil {
			s.reply(e.Token, 400, "Machine '%s' is not part of a maintenance schedule", describeMachine(m))
			return
		}
		if old.GetMode() != mesosv1.MachineInfo_DOWN {
			s.reply(e.Token, 400, "Machine '%s' is not in DOWN mode and cannot be brought up", describeMachine(m))
			return
		}
		delete(next, keyOf(m))
		up[keyOf(m)] = true
	}
	sched := &maintenancev1.Schedule{}
	for _, w := range s.schedule.GetWindows() {
		kept := &maintenancev1.Window{Unavailability: w.GetUnavailability()}
		for _, m := range w.GetMachineIds() {
			if !up[keyOf(m)] {
				kept.MachineIds = append(kept.MachineIds, m)
			}
		}
		if len(kept.MachineIds) > 0 {
			sched.Windows = append(sched.Windows, kept)
		}
	}
	s.storeMaintenance(e.Token, sched, next, nil)
}
