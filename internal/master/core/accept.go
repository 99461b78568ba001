package core

import (
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// acceptance is one ACCEPT on its way through its operations.
type acceptance struct {
	f *framework
	a *agent
	// role is the allocation role of the offers.
	role string
	// offered is what the offers held; left is what no operation has taken yet. Shared volumes stay in left: any number
	// of tasks may use one.
	offered, left resources.Resources
	conversions   []resources.Conversion
	// sharedUse counts, per use, the shared volumes that tasks of this call took.
	sharedUse []resources.Resources
}

// accept handles ACCEPT (facts 1.6): the operations apply in order to what the offers hold together; what is left goes
// back as if declined.
func (s *State) accept(f *framework, c *schedulerv1.Call_Accept) {
	x, err := s.openOffers(f, c.GetOfferIds())
	if err != nil {
		s.refuseOperations(f, c, mesosv1.TaskStatus_REASON_INVALID_OFFERS, "Task launched with invalid offers: "+err.Error())
		return
	}
	f.counters.OffersAccepted += uint64(len(c.GetOfferIds()))
	if !x.a.connected() {
		s.free(f, x.a, x.offered, nil)
		s.refuseOperations(f, c, mesosv1.TaskStatus_REASON_AGENT_DISCONNECTED, "Task launched on a disconnected agent")
		return
	}
	for _, op := range c.GetOperations() {
		f.counters.Operations[op.GetType().String()]++
		s.counters.OperationsByType[op.GetType().String()]++
		switch op.GetType() {
		case mesosv1.Offer_Operation_LAUNCH:
			s.launch(x, op)
		case mesosv1.Offer_Operation_LAUNCH_GROUP:
			s.launchGroup(x, op)
		default:
			s.convert(x, op)
		}
	}
	s.settle(x, c.GetFilters())
}

// openOffers takes the offers of an ACCEPT off the books. If one of them is invalid, the valid ones are given back
// without a filter.
func (s *State) openOffers(f *framework, list []*mesosv1.OfferID) (*acceptance, error) {
	var err error
	var valid []*offer
	seen := map[ids.Offer]bool{}
	for _, oid := range list {
		id := ids.Offer(oid.GetValue())
		o := s.offers[id]
		switch {
		case seen[id]:
			err = errors.Join(err, fmt.Errorf("Duplicate offer %s in offer list", id))
			continue
		case o == nil:
			err = errors.Join(err, fmt.Errorf("Offer %s is no longer valid", id))
			continue
		case o.framework != f:
			err = errors.Join(err, fmt.Errorf("Offer %s has invalid framework %s while framework %s is expected", id, o.framework.id, f.id))
			continue
		}
		seen[id] = true
		valid = append(valid, o)
		if first := valid[0]; o.agent != first.agent {
			err = errors.Join(err, fmt.Errorf("Aggregated offers must belong to one single agent. Offer %s uses agent %s and offer %s uses agent %s",
				first.id, first.agent.id, id, o.agent.id))
		} else if o.role != first.role {
			err = errors.Join(err, fmt.Errorf("Aggregated offers must be allocated to the same role. Offer %s uses role %s and offer %s uses role %s",
				first.id, first.role, id, o.role))
		}
	}
	if len(list) == 0 {
		err = errors.New("No offers specified")
	}
	if err != nil {
		for _, o := range valid {
			s.forgetOffer(o)
			s.free(f, o.agent, o.res, nil)
		}
		return nil, err
	}
	x := &acceptance{f: f, a: valid[0].agent, role: valid[0].role}
	for _, o := range valid {
		s.forgetOffer(o)
		x.offered = x.offered.Add(o.res)
	}
	x.left = x.offered
	return x, nil
}

// refuseOperations answers each operation of an ACCEPT that can't be carried out at all.
func (s *State) refuseOperations(f *framework, c *schedulerv1.Call_Accept, reason mesosv1.TaskStatus_Reason, message string) {
	for _, op := range c.GetOperations() {
		for _, t := range tasksIn(op) {
			s.sendUpdate(f, s.masterStatus(f, t.GetTaskId(), t.GetAgentId(), mesosv1.TaskState_TASK_DROPPED, reason, message))
		}
		s.refuseOperation(f, nil, op, message)
	}
}

func tasksIn(op *mesosv1.Offer_Operation) []*mesosv1.TaskInfo {
	switch op.GetType() {
	case mesosv1.Offer_Operation_LAUNCH:
		return op.GetLaunch().GetTaskInfos()
	case mesosv1.Offer_Operation_LAUNCH_GROUP:
		return op.GetLaunchGroup().GetTaskGroup().GetTasks()
	}
	return nil
}

// settle gives back what is left of the offers: with the call's filter, except for what this call itself converted, which
// is wanted again at once.
func (s *State) settle(x *acceptance, filters *mesosv1.Filters) {
	if len(x.conversions) > 0 {
		s.check(s.alloc.UpdateAllocation(x.f.id, x.a.id, x.offered, x.conversions), "converted resources")
	}
	// A shared volume of the offers is one copy. Each task that uses it holds one; the first takes the offers' own.
	for i, use := range x.sharedUse {
		fresh := use
		if i == 0 || !overlapsShared(x.sharedUse[:i], use) {
			fresh = resources.Resources{}
			x.left, _ = x.left.Subtract(use)
		}
		if !fresh.IsEmpty() {
			s.occupy(x.f, x.a, fresh)
		}
	}
	if x.left.IsEmpty() {
		return
	}
	plain := x.left
	if len(x.conversions) > 0 {
		for _, c := range x.conversions {
			for r := range c.Converted.All() {
				one := r.Resources()
				if rest, ok := plain.Subtract(one); ok {
					plain = rest
					s.free(x.f, x.a, one, nil)
				}
			}
		}
	}
	if !plain.IsEmpty() {
		s.free(x.f, x.a, plain, allocator.RefusalOf(filters))
	}
}

func overlapsShared(earlier []resources.Resources, use resources.Resources) bool {
	for _, e := range earlier {
		if e.Contains(use) {
			return true
		}
	}
	return false
}

// take removes what a task needs from what is left.
func (x *acceptance) take(need resources.Resources) bool {
	shared := need.Shared()
	if shared.IsEmpty() {
		left, ok := x.left.Subtract(need)
		if ok {
			x.left = left
		}
		return ok
	}
	if !x.left.Contains(shared.OneCopy()) {
		return false
	}
	left, ok := x.left.Subtract(need.NonShared())
	if !ok {
		return false
	}
	x.left = left
	for r := range shared.All() {
		x.sharedUse = append(x.sharedUse, r.Resources())
	}
	return true
}

// launch handles LAUNCH: each task stands for itself.
func (s *State) launch(x *acceptance, op *mesosv1.Offer_Operation) {
	if op.Id != nil {
		for _, t := range op.GetLaunch().GetTaskInfos() {
			s.taskError(x.f, t, mesosv1.TaskStatus_REASON_TASK_INVALID, "Operation ID is not supported for LAUNCH")
		}
		return
	}
	for _, t := range op.GetLaunch().GetTaskInfos() {
		s.launchTask(x, t)
	}
}

func (s *State) taskError(f *framework, t *mesosv1.TaskInfo, reason mesosv1.TaskStatus_Reason, message string) {
	st := s.masterStatus(f, t.GetTaskId(), t.GetAgentId(), mesosv1.TaskState_TASK_ERROR, reason, message)
	s.countState(mesosv1.TaskState_TASK_ERROR, st)
	s.sendUpdate(f, st)
}

// completeTask fills in what the master adds to a task: allocation roles, and the framework id of a custom executor
// (facts trap 25).
func completeTask(t *mesosv1.TaskInfo, f *framework, role string) {
	injectRole(t.Resources, role)
	if t.Executor != nil {
		injectRole(t.Executor.Resources, role)
		if t.Executor.FrameworkId == nil {
			t.Executor.FrameworkId = f.info.GetId()
		}
	}
}

// injectRole sets the allocation role where a scheduler left it out, as those without MULTI_ROLE do.
func injectRole(list []*mesosv1.Resource, role string) {
	for _, r := range list {
		if r.AllocationInfo == nil {
			r.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String(role)}
		}
	}
}

func (s *State) launchTask(x *acceptance, t *mesosv1.TaskInfo) {
	f, a := x.f, x.a
	completeTask(t, f, x.role)
	if err := s.validateTask(f, a, t, false); err != nil {
		s.taskError(f, t, mesosv1.TaskStatus_REASON_TASK_INVALID, err.Error())
		return
	}
	if t.Executor != nil {
		if err := s.validateExecutor(f, a, t.Executor, false); err != nil {
			s.taskError(f, t, mesosv1.TaskStatus_REASON_TASK_INVALID, err.Error())
			return
		}
	}
	if !s.authorized(f.info.GetPrincipal(), ActionRunTask, s.userOf(f, t)) {
		s.taskError(f, t, mesosv1.TaskStatus_REASON_TASK_UNAUTHORIZED, fmt.Sprintf("Not authorized to launch as user '%s'", s.userOf(f, t)))
		return
	}
	need, err := validateUsage(t.GetResources(), x.role, "Task")
	if err == nil && need.IsEmpty() {
		err = errors.New("Task uses no resources")
	}
	var own resources.Resources // of a new executor
	isNew := false
	if err == nil && t.Executor != nil {
		if f.executors[a.id][ids.Executor(t.Executor.GetExecutorId().GetValue())] == nil {
			isNew = true
			own, err = validateUsage(t.Executor.GetResources(), x.role, "Executor")
		}
	}
	if err == nil {
		if total := need.Add(own); !x.take(total) {
			err = fmt.Errorf("Task uses more resources %s than available %s", total, x.left)
		}
	}
	if err != nil {
		s.taskError(f, t, mesosv1.TaskStatus_REASON_TASK_INVALID, err.Error())
		return
	}
	if isNew {
		s.addExecutor(f, a, t.Executor, own)
	}
	t.Resources = f.protoOf(need)
	s.addTask(f, a, newTaskProto(t, nil, f.info), need)
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_RunTask{RunTask: &linkv1.RunTask{Framework: f.info, Task: t}}})
}

func (s *State) userOf(f *framework, t *mesosv1.TaskInfo) string {
	switch {
	case t.GetCommand().GetUser() != "":
		return t.GetCommand().GetUser()
	case t.GetExecutor().GetCommand().GetUser() != "":
		return t.GetExecutor().GetCommand().GetUser()
	}
	return f.info.GetUser()
}

// launchGroup handles LAUNCH_GROUP: all tasks or none.
func (s *State) launchGroup(x *acceptance, op *mesosv1.Offer_Operation) {
	f, a := x.f, x.a
	g := op.GetLaunchGroup()
	exec, tasks := g.GetExecutor(), g.GetTaskGroup().GetTasks()
	refuse := func(reason mesosv1.TaskStatus_Reason, message string) {
		for _, t := range tasks {
			s.taskError(f, t, reason, message)
		}
	}
	invalid := func(err error) { refuse(mesosv1.TaskStatus_REASON_TASK_GROUP_INVALID, err.Error()) }
	if op.Id != nil {
		invalid(errors.New("Operation ID is not supported for LAUNCH_GROUP"))
		return
	}
	if len(tasks) == 0 {
		s.log(slog.LevelDebug, "empty task group ignored", "framework_id", f.id)
		return
	}
	injectRole(exec.Resources, x.role)
	if err := s.validateExecutor(f, a, exec, true); err != nil {
		invalid(err)
		return
	}
	seen := map[string]bool{}
	var need resources.Resources
	needs := make([]resources.Resources, len(tasks))
	for i, t := range tasks {
		completeTask(t, f, x.role)
		if seen[t.GetTaskId().GetValue()] {
			invalid(fmt.Errorf("Task '%s' is in the group twice", t.GetTaskId().GetValue()))
			return
		}
		seen[t.GetTaskId().GetValue()] = true
		if err := s.validateTask(f, a, t, true); err != nil {
			invalid(fmt.Errorf("Task '%s' is invalid: %w", t.GetTaskId().GetValue(), err))
			return
		}
		if t.Executor != nil {
			if !sameExecutor(t.Executor, exec) {
				invalid(fmt.Errorf("Task '%s' is invalid: the 'ExecutorInfo' of task '%s' is different from executor '%s'",
					t.GetTaskId().GetValue(), t.GetTaskId().GetValue(), exec.GetExecutorId().GetValue()))
				return
			}
		}
		if !s.authorized(f.info.GetPrincipal(), ActionRunTask, s.userOf(f, t)) {
			refuse(mesosv1.TaskStatus_REASON_TASK_GROUP_UNAUTHORIZED, fmt.Sprintf("Not authorized to launch as user '%s'", s.userOf(f, t)))
			return
		}
		res, err := validateUsage(t.GetResources(), x.role, "Task")
		if err == nil && res.IsEmpty() {
			err = errors.New("Task uses no resources")
		}
		if err != nil {
			invalid(fmt.Errorf("Task '%s' is invalid: %w", t.GetTaskId().GetValue(), err))
			return
		}
		needs[i] = res
		need = need.Add(res)
	}
	isNew := f.executors[a.id][ids.Executor(exec.GetExecutorId().GetValue())] == nil
	own, err := validateUsage(exec.GetResources(), x.role, "Executor")
	if err == nil {
		err = checkExecutorMinimum(own)
	}
	if err != nil {
		invalid(err)
		return
	}
	total := need
	if isNew {
		total = total.Add(own)
	}
	if !x.take(total) {
		invalid(fmt.Errorf("Task group uses more resources %s than available %s", total, x.left))
		return
	}
	if isNew {
		s.addExecutor(f, a, exec, own)
	}
	for i, t := range tasks {
		t.Resources = f.protoOf(needs[i])
		s.addTask(f, a, newTaskProto(t, exec.GetExecutorId(), f.info), needs[i])
	}
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_RunTaskGroup{RunTaskGroup: &linkv1.RunTaskGroup{
		Framework: f.info, Executor: exec, TaskGroup: g.GetTaskGroup(),
	}}})
}

// checkExecutorMinimum: what the executor of a task group must have for itself (facts 1.6).
func checkExecutorMinimum(r resources.Resources) error {
	q := r.Quantities()
	switch {
	case q.Get("cpus").Float() < 0.01:
		return errors.New("Executor's cpus must be at least 0.01")
	case q.Get("mem").Float() < 32:
		return errors.New("Executor's mem must be at least 32 MB")
	case q.Get("disk") <= 0:
		return errors.New("Executor's disk must be greater than 0")
	}
	return nil
}
