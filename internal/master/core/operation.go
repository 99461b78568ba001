package core

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// operation is one RESERVE, UNRESERVE, CREATE, DESTROY, GROW_VOLUME or SHRINK_VOLUME that an agent was asked to make
// durable. All but the last two the master counts as done at once; an agent that can't says so, and what is true, by an
// AgentUpdate. The new size of a volume is nobody's before the agent has it on disk: a size that was offered, and used to
// store what fits into no less, must not be gone with the agent's process. What is to be changed is held until then.
type operation struct {
	framework *framework // nil: an operator's
	agent     *agent
	proto     *mesosv1.Operation // replaced, never changed
	// waiting is what a resize will have done when the agent has done it; nil when nothing is held.
	waiting []resources.Conversion
	// holder is the framework that the allocator accounts what is held to.
	holder ids.Framework
}

func (op *operation) uuid() string { return string(op.proto.GetUuid().GetValue()) }

// feedback says whether the framework follows the operation by its id.
func (op *operation) feedback() bool { return op.framework != nil && op.proto.GetInfo().GetId() != nil }

func terminalOperation(st mesosv1.OperationState) bool {
	switch st {
	case mesosv1.OperationState_OPERATION_FINISHED, mesosv1.OperationState_OPERATION_FAILED, mesosv1.OperationState_OPERATION_ERROR,
		mesosv1.OperationState_OPERATION_DROPPED, mesosv1.OperationState_OPERATION_GONE_BY_OPERATOR:
		return true
	}
	return false
}

// resourcesIn gives the resource lists of an operation, so that they can be completed or checked alike.
func resourcesIn(op *mesosv1.Offer_Operation) [][]*mesosv1.Resource {
	switch op.GetType() {
	case mesosv1.Offer_Operation_RESERVE:
		return [][]*mesosv1.Resource{op.GetReserve().GetResources(), op.GetReserve().GetSource()}
	case mesosv1.Offer_Operation_UNRESERVE:
		return [][]*mesosv1.Resource{op.GetUnreserve().GetResources()}
	case mesosv1.Offer_Operation_CREATE:
		return [][]*mesosv1.Resource{op.GetCreate().GetVolumes()}
	case mesosv1.Offer_Operation_DESTROY:
		return [][]*mesosv1.Resource{op.GetDestroy().GetVolumes()}
	case mesosv1.Offer_Operation_GROW_VOLUME:
		return [][]*mesosv1.Resource{single(op.GetGrowVolume().GetVolume()), single(op.GetGrowVolume().GetAddition())}
	case mesosv1.Offer_Operation_SHRINK_VOLUME:
		return [][]*mesosv1.Resource{single(op.GetShrinkVolume().GetVolume())}
	}
	return nil
}

func single(r *mesosv1.Resource) []*mesosv1.Resource {
	if r == nil {
		return nil
	}
	return []*mesosv1.Resource{r}
}

// convert handles the operations of an ACCEPT that change resources.
func (s *State) convert(x *acceptance, op *mesosv1.Offer_Operation) {
	for _, list := range resourcesIn(op) {
		injectRole(list, x.role)
	}
	conv, err := s.checkOperation(op, x.f, x.f.info.GetPrincipal(), x.a)
	if err == nil {
		now := conv
		if waits(op) { // nothing else of this call can use the volume
			now = consuming(conv)
		}
		left, lerr := x.left.ApplyAll(now)
		if lerr != nil {
			err = fmt.Errorf("the offers do not hold what the operation needs: %w", lerr)
		} else {
			x.left = left
		}
	}
	if err != nil {
		s.refuseOperation(x.f, x.a, op, err.Error())
		return
	}
	if !waits(op) {
		x.conversions = append(x.conversions, conv...)
	}
	if op.GetType() == mesosv1.Offer_Operation_DESTROY {
		// Other offers may hold copies of a shared volume that is no more.
		for _, c := range conv {
			s.rescindHolding(x.a, c.Consumed.Unallocate())
		}
	}
	s.applyOperation(x.f, x.a, op, conv)
}

// rescindHolding takes back the offers of an agent that hold some of what is about to vanish.
func (s *State) rescindHolding(a *agent, gone resources.Resources) {
	for _, o := range sortedOffers(a.offers) {
		held := o.res.Unallocate()
		for r := range gone.All() {
			if held.Contains(r.Resources().OneCopy()) {
				s.rescind(o)
				break
			}
		}
	}
}

// change applies conversions to the agent's total.
func (s *State) change(a *agent, conv []resources.Conversion) {
	plain := make([]resources.Conversion, len(conv))
	for i, c := range conv {
		plain[i] = c.Unallocated()
	}
	if total, err := a.total.ApplyAll(plain); err == nil {
		a.total = total
	} else {
		// Checked before by what was free; the agent's word will put it right.
		s.log(slog.LevelWarn, "operation does not fit the agent's total", "agent_id", a.id, "error", err)
	}
}

// applyOperation changes the agent's total, or holds what is to be changed, and asks the agent to make it durable.
func (s *State) applyOperation(f *framework, a *agent, op *mesosv1.Offer_Operation, conv []resources.Conversion) {
	o := &operation{framework: f, agent: a}
	if waits(op) {
		s.hold(o, conv)
	} else {
		s.change(a, conv)
	}
	uuid := s.newUUID()
	var fid *mesosv1.FrameworkID
	if f != nil {
		fid = f.info.GetId()
	}
	o.proto = &mesosv1.Operation{
		FrameworkId: fid,
		AgentId:     a.info.GetId(),
		Info:        op,
		LatestStatus: &mesosv1.OperationStatus{
			State: mesosv1.OperationState_OPERATION_PENDING.Enum(), OperationId: op.GetId(), AgentId: a.info.GetId(),
		},
		Uuid: &mesosv1.UUID{Value: uuid},
	}
	a.ops[string(uuid)] = o
	if f != nil {
		f.ops[string(uuid)] = o
		s.touchFramework(f)
	}
	s.touchAgent(a)
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_ApplyOperation{ApplyOperation: &linkv1.ApplyOperation{
		FrameworkId: fid, Operation: op, OperationUuid: uuid, ResourceVersionUuid: a.resVersion,
	}}})
}

// refuseOperation: a framework that gave the operation an id hears of it, any other only finds its resources unchanged.
func (s *State) refuseOperation(f *framework, a *agent, op *mesosv1.Offer_Operation, message string) {
	s.log(slog.LevelInfo, "operation refused", "framework_id", f.id, "operation", op.GetType().String(), "why", message)
	switch op.GetType() {
	case mesosv1.Offer_Operation_LAUNCH, mesosv1.Offer_Operation_LAUNCH_GROUP:
		return
	}
	if op.GetId() == nil {
		return
	}
	st := &mesosv1.OperationStatus{
		OperationId: op.GetId(), State: mesosv1.OperationState_OPERATION_ERROR.Enum(), Message: proto.String(message),
	}
	if a != nil {
		st.AgentId = a.info.GetId()
	}
	s.sendOperationStatus(f, st)
}

func (s *State) sendOperationStatus(f *framework, st *mesosv1.OperationStatus) {
	s.send(f, &schedulerv1.Event{
		Type:                  schedulerv1.Event_UPDATE_OPERATION_STATUS.Enum(),
		UpdateOperationStatus: &schedulerv1.Event_UpdateOperationStatus{Status: st},
	})
}

// checkOperation validates and authorizes an operation of a framework (f set) or an operator, and gives its conversions.
func (s *State) checkOperation(op *mesosv1.Offer_Operation, f *framework, principal string, a *agent) ([]resources.Conversion, error) {
	if op.GetId() != nil {
		if err := ids.Validate(op.GetId().GetValue()); err != nil {
			return nil, fmt.Errorf("invalid operation id: %w", err)
		}
		if !a.has(mesosv1.AgentInfo_Capability_AGENT_OPERATION_FEEDBACK) {
			return nil, errors.New("agent does not have the AGENT_OPERATION_FEEDBACK capability, which an operation id needs")
		}
		if f != nil {
			for _, o := range f.ops {
				if o.proto.GetInfo().GetId().GetValue() == op.GetId().GetValue() {
					return nil, fmt.Errorf("operation id '%s' is in use", op.GetId().GetValue())
				}
			}
		}
	}
	if f != nil && !f.caps.refinement {
		for _, list := range resourcesIn(op) {
			for _, r := range list {
				if len(r.GetReservations()) > 0 {
					return nil, errors.New("'Resource.reservations' must not be set by a framework without the RESERVATION_REFINEMENT capability")
				}
			}
		}
	}
	var err error
	switch op.GetType() {
	case mesosv1.Offer_Operation_RESERVE:
		err = s.checkReserve(op.GetReserve(), f, principal)
	case mesosv1.Offer_Operation_UNRESERVE:
		err = s.checkUnreserve(op.GetUnreserve(), principal)
	case mesosv1.Offer_Operation_CREATE:
		err = s.checkCreate(op.GetCreate(), f, principal, a)
	case mesosv1.Offer_Operation_DESTROY:
		err = s.checkDestroy(op.GetDestroy().GetVolumes(), principal, a)
	case mesosv1.Offer_Operation_GROW_VOLUME:
		err = s.checkResize(op.GetGrowVolume().GetVolume(), principal, a)
	case mesosv1.Offer_Operation_SHRINK_VOLUME:
		err = s.checkResize(op.GetShrinkVolume().GetVolume(), principal, a)
	case mesosv1.Offer_Operation_CREATE_DISK, mesosv1.Offer_Operation_DESTROY_DISK:
		return nil, fmt.Errorf("%s works on resources of a resource provider, and agent %s has none", op.GetType(), a.id)
	default:
		return nil, fmt.Errorf("unknown operation type %s", op.GetType())
	}
	if err != nil {
		return nil, err
	}
	return resources.Conversions(op)
}

func (s *State) checkReserve(op *mesosv1.Offer_Operation_Reserve, f *framework, principal string) error {
	if f != nil && len(op.GetSource()) > 0 {
		return errors.New("'source' of RESERVE is for operators only")
	}
	list, err := resources.FromProto(op.GetResources())
	if err != nil {
		return fmt.Errorf("invalid resources: %w", err)
	}
	for r := range list.All() {
		switch {
		case !r.IsDynamicallyReserved():
			return fmt.Errorf("resource %s is not dynamically reserved", r.Resources())
		case r.IsPersistentVolume():
			return fmt.Errorf("%s is a persistent volume: reserve first, then create", r.Resources())
		case r.IsRevocable():
			return fmt.Errorf("%s is revocable and can't be reserved", r.Resources())
		case r.ReservationPrincipal() != principal:
			return fmt.Errorf("a reservation was attempted with principal '%s' by principal '%s'", r.ReservationPrincipal(), principal)
		case f != nil && !slices.Contains(f.roles, r.Role()):
			return fmt.Errorf("a reservation was attempted for role '%s', but the framework can only reserve for its own roles %v", r.Role(), f.roles)
		case !s.authorized(principal, ActionReserve, r.Role()):
			return forbiddenError{fmt.Sprintf("not authorized to reserve for role '%s'", r.Role())}
		}
	}
	return nil
}

func (s *State) checkUnreserve(op *mesosv1.Offer_Operation_Unreserve, principal string) error {
	list, err := resources.FromProto(op.GetResources())
	if err != nil {
		return fmt.Errorf("invalid resources: %w", err)
	}
	for r := range list.All() {
		switch {
		case !r.IsDynamicallyReserved():
			return fmt.Errorf("resource %s is not dynamically reserved", r.Resources())
		case r.IsPersistentVolume():
			return fmt.Errorf("%s is a persistent volume: destroy it first", r.Resources())
		case !s.authorized(principal, ActionUnreserve, r.ReservationPrincipal()):
			return forbiddenError{fmt.Sprintf("not authorized to unreserve what principal '%s' reserved", r.ReservationPrincipal())}
		}
	}
	return nil
}

func (s *State) checkCreate(op *mesosv1.Offer_Operation_Create, f *framework, principal string, a *agent) error {
	list, err := resources.FromProto(op.GetVolumes())
	if err != nil {
		return fmt.Errorf("invalid volumes: %w", err)
	}
	existing := map[string]bool{}
	for r := range a.total.PersistentVolumes().All() {
		existing[r.Role()+"\x00"+r.PersistenceID()] = true
	}
	for r := range list.All() {
		if !r.IsPersistentVolume() {
			return fmt.Errorf("%s is no persistent volume", r.Resources())
		}
		key := r.Role() + "\x00" + r.PersistenceID()
		v := r.Disk().GetVolume()
		p := v.GetContainerPath()
		switch {
		case !r.IsReserved():
			return errors.New("a persistent volume can only be created of reserved disk")
		case v == nil:
			return errors.New("expecting 'volume' to be set for persistent volume")
		case v.HostPath != nil:
			return errors.New("expecting 'host_path' to be unset for persistent volume")
		case v.GetMode() != mesosv1.Volume_RW:
			return errors.New("a persistent volume must be created with mode RW")
		case p == "" || path.IsAbs(p) || slices.Contains(strings.Split(p, "/"), ".."):
			return fmt.Errorf("container path '%s' of a persistent volume must be relative and without '..'", p)
		case ids.Validate(r.PersistenceID()) != nil:
			return fmt.Errorf("persistence ID '%s' is invalid: %w", r.PersistenceID(), ids.Validate(r.PersistenceID()))
		case existing[key]:
			return fmt.Errorf("persistence ID '%s' already exists for role '%s' on the agent", r.PersistenceID(), r.Role())
		case r.IsShared() && f != nil && !f.caps.shared:
			return errors.New("a shared volume needs the SHARED_RESOURCES capability")
		case r.Disk().GetPersistence().Principal != nil && r.Disk().GetPersistence().GetPrincipal() != principal:
			return fmt.Errorf("a volume of principal '%s' was to be created by principal '%s'", r.Disk().GetPersistence().GetPrincipal(), principal)
		case !s.authorized(principal, ActionCreateVolume, r.Role()):
			return forbiddenError{fmt.Sprintf("not authorized to create volumes for role '%s'", r.Role())}
		}
		existing[key] = true
	}
	return nil
}

func (s *State) checkDestroy(volumes []*mesosv1.Resource, principal string, a *agent) error {
	list, err := resources.FromProto(volumes)
	if err != nil {
		return fmt.Errorf("invalid volumes: %w", err)
	}
	for r := range list.All() {
		if !r.IsPersistentVolume() {
			return fmt.Errorf("%s is no persistent volume", r.Resources())
		}
		if err := volumeFree(r, a); err != nil {
			return err
		}
		if !s.authorized(principal, ActionDestroyVolume, r.Disk().GetPersistence().GetPrincipal()) {
			return forbiddenError{fmt.Sprintf("not authorized to destroy volumes of principal '%s'", r.Disk().GetPersistence().GetPrincipal())}
		}
	}
	return nil
}

// volumeFree says which task or executor uses a volume.
func volumeFree(r resources.Resource, a *agent) error {
	uses := func(res resources.Resources) bool {
		for x := range res.PersistentVolumes().All() {
			if x.PersistenceID() == r.PersistenceID() && x.Role() == r.Role() {
				return true
			}
		}
		return false
	}
	for t := range a.tasks {
		if uses(t.held()) {
			return fmt.Errorf("persistent volume '%s' is in use by task %s", r.PersistenceID(), t.id)
		}
	}
	for _, execs := range a.executors {
		for id, x := range execs {
			if uses(x.res) {
				return fmt.Errorf("persistent volume '%s' is in use by executor %s", r.PersistenceID(), id)
			}
		}
	}
	return nil
}

func (s *State) checkResize(volume *mesosv1.Resource, principal string, a *agent) error {
	if !a.has(mesosv1.AgentInfo_Capability_RESIZE_VOLUME) {
		return fmt.Errorf("agent %s does not have the RESIZE_VOLUME capability", a.id)
	}
	list, err := resources.FromProto(single(volume))
	if err != nil {
		return fmt.Errorf("invalid volume: %w", err)
	}
	for r := range list.All() {
		switch {
		case !r.IsPersistentVolume():
			return fmt.Errorf("%s is no persistent volume", r.Resources())
		case r.IsShared():
			return errors.New("a shared volume can't be resized")
		case !s.authorized(principal, ActionResizeVolume, r.Role()):
			return forbiddenError{fmt.Sprintf("not authorized to resize volumes of role '%s'", r.Role())}
		}
		if err := volumeFree(r, a); err != nil {
			return err
		}
	}
	return nil
}

// operateFor carries out an operation that an operator asks for: 202, or why not and nothing has changed. Offers that hold
// what is needed are rescinded.
func (s *State) operateFor(t Token, principal string, agentID *mesosv1.AgentID, op *mesosv1.Offer_Operation) {
	a := s.agents[ids.Agent(agentID.GetValue())]
	if a == nil {
		s.reply(t, 400, "No agent found with specified ID")
		return
	}
	conv, err := s.checkOperation(op, nil, principal, a)
	if err != nil {
		status := 400
		if isForbidden(err) {
			status = 403
		}
		s.reply(t, status, "Invalid %s operation on agent %s: %s", op.GetType(), a.id, err)
		return
	}
	if !a.connected() {
		s.reply(t, 409, "Agent %s is not connected", a.id)
		return
	}
	for i := range conv {
		conv[i] = conv[i].Unallocated()
	}
	free := a.total.Minus(a.used())
	if _, err := free.ApplyAll(conv); err != nil {
		s.reply(t, 409, "Invalid %s operation on agent %s: what it needs is not there or in use: %s", op.GetType(), a.id, err)
		return
	}
	// Enough is free or offered: offers go back, newest first, until what is needed is not in an offer.
	for {
		unoffered := free
		for _, o := range a.offers {
			unoffered = unoffered.Minus(o.res.Unallocate().NonShared())
		}
		if _, err := unoffered.ApplyAll(conv); err == nil || len(a.offers) == 0 {
			break
		}
		list := sortedOffers(a.offers)
		s.rescind(list[len(list)-1])
	}
	if op.GetType() == mesosv1.Offer_Operation_DESTROY {
		for _, c := range conv {
			s.rescindHolding(a, c.Consumed)
		}
	}
	s.applyOperation(nil, a, op, conv)
	s.updateAllocatorAgent(a)
	s.reply(t, 202, "")
}

// used is what tasks, executors and waiting operations hold on the agent.
func (a *agent) used() resources.Resources {
	var sum resources.Resources
	for t := range a.tasks {
		sum = sum.Add(t.held().Unallocate())
	}
	for _, execs := range a.executors {
		for _, x := range execs {
			sum = sum.Add(x.res.Unallocate())
		}
	}
	for _, op := range a.ops {
		sum = sum.Add(op.held().Unallocate())
	}
	return sum
}

// operationUpdate handles an agent's word on an operation.
func (s *State) operationUpdate(a *agent, u *linkv1.OperationUpdate) {
	op := a.ops[string(u.GetOperationUuid())]
	st := u.GetStatus()
	if op == nil {
		// Nobody follows it any more: the agent may forget it.
		if st.GetUuid() != nil {
			s.sendOperationAck(a, u.GetOperationUuid(), st.GetUuid().GetValue())
		}
		return
	}
	latest := st
	if u.LatestStatus != nil {
		latest = u.GetLatestStatus()
	}
	p := &mesosv1.Operation{
		FrameworkId: op.proto.FrameworkId, AgentId: op.proto.AgentId, Info: op.proto.Info, LatestStatus: latest,
		Statuses: append(slices.Clone(op.proto.Statuses), st), Uuid: op.proto.Uuid,
	}
	op.proto = p
	if terminalOperation(latest.GetState()) {
		s.endWait(op, latest.GetState() == mesosv1.OperationState_OPERATION_FINISHED)
	}
	if st.GetState() != mesosv1.OperationState_OPERATION_FINISHED && terminalOperation(st.GetState()) {
		s.log(slog.LevelWarn, "operation failed on the agent", "agent_id", a.id, "operation", p.GetInfo().GetType().String(), "why", st.GetMessage())
	}
	s.touchAgent(a)
	if op.framework != nil {
		s.touchFramework(op.framework)
	}
	if op.feedback() {
		s.sendOperationStatus(op.framework, st)
		return // it waits for the framework's acknowledgement
	}
	if st.GetUuid() != nil {
		s.sendOperationAck(a, u.GetOperationUuid(), st.GetUuid().GetValue())
	}
	if terminalOperation(st.GetState()) {
		s.forgetOperation(op)
	}
}

func (s *State) sendOperationAck(a *agent, operation, status []byte) {
	s.sendAgent(a, &linkv1.Message{Kind: &linkv1.Message_OperationAck{OperationAck: &linkv1.OperationAck{OperationUuid: operation, StatusUuid: status}}})
}

func (s *State) forgetOperation(op *operation) {
	delete(op.agent.ops, op.uuid())
	s.touchAgent(op.agent)
	if op.framework != nil {
		delete(op.framework.ops, op.uuid())
		s.touchFramework(op.framework)
	}
	s.checkDrained(op.agent)
}

// acknowledgeOperation handles ACKNOWLEDGE_OPERATION_STATUS.
func (s *State) acknowledgeOperation(f *framework, c *schedulerv1.Call_AcknowledgeOperationStatus) {
	for _, op := range f.ops {
		if op.proto.GetInfo().GetId().GetValue() != c.GetOperationId().GetValue() {
			continue
		}
		st := op.proto.GetLatestStatus()
		if !bytes.Equal(st.GetUuid().GetValue(), c.GetUuid()) {
			s.counters.InvalidAcks++
			return
		}
		s.counters.ValidAcks++
		s.sendOperationAck(op.agent, op.proto.GetUuid().GetValue(), c.GetUuid())
		if terminalOperation(st.GetState()) {
			s.forgetOperation(op)
		}
		return
	}
	s.counters.InvalidAcks++
}

// takeOperation makes an operation that a re-registering agent reports the master's.
func (s *State) takeOperation(a *agent, p *mesosv1.Operation) {
	uuid := string(p.GetUuid().GetValue())
	if old := a.ops[uuid]; old != nil {
		old.proto = p
		return
	}
	op := &operation{agent: a, proto: p, framework: s.frameworks[ids.Framework(p.GetFrameworkId().GetValue())]}
	a.ops[uuid] = op
	if op.framework != nil {
		op.framework.ops[uuid] = op
		s.touchFramework(op.framework)
	}
	s.touchAgent(a)
}

// dropUnreported ends the operations of which an agent that came back knows nothing: it never heard of them, or, where nobody follows
// them, has done them and told of it in vain.
func (s *State) dropUnreported(a *agent, r *linkv1.Reregister) {
	reported := make(map[string]bool, len(r.GetOperations()))
	for _, p := range r.GetOperations() {
		reported[string(p.GetUuid().GetValue())] = true
	}
	for _, uuid := range slices.Sorted(maps.Keys(a.ops)) {
		op := a.ops[uuid]
		if reported[uuid] {
			continue
		}
		if op.feedback() && !terminalOperation(op.proto.GetLatestStatus().GetState()) {
			s.sendOperationStatus(op.framework, &mesosv1.OperationStatus{
				OperationId: op.proto.GetInfo().GetId(), State: mesosv1.OperationState_OPERATION_DROPPED.Enum(), AgentId: a.info.GetId(),
				Message: proto.String("The agent came back without it"),
			})
		}
		s.forgetOperation(op)
	}
}

// loseOperations ends the operations of an agent that is no longer there; frameworks that follow one are told.
func (s *State) loseOperations(a *agent, tasks mesosv1.TaskState) {
	state := mesosv1.OperationState_OPERATION_UNREACHABLE
	if tasks == mesosv1.TaskState_TASK_GONE_BY_OPERATOR {
		state = mesosv1.OperationState_OPERATION_GONE_BY_OPERATOR
	}
	for _, uuid := range slices.Sorted(maps.Keys(a.ops)) {
		op := a.ops[uuid]
		if op.feedback() {
			s.sendOperationStatus(op.framework, &mesosv1.OperationStatus{
				OperationId: op.proto.GetInfo().GetId(), State: state.Enum(), AgentId: a.info.GetId(),
			})
		}
		if op.framework != nil {
			delete(op.framework.ops, uuid)
			s.touchFramework(op.framework)
		}
	}
	clear(a.ops)
}
