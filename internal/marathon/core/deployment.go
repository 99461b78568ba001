package core

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Deployment is what readers see of one: a copy that doesn't change.
type Deployment struct {
	ID           string
	Version      spec.Version
	AffectedApps []string
	AffectedPods []string
	Steps        [][]Action
	CurrentStep  int // from 1; 0 before the first
	Started      spec.Version
	Deadline     spec.Version // zero: none
	Paused       string       // why it does nothing, if it doesn't
	Canary       map[string]Canary
	pending      map[string]bool
}

// Current are the actions under way.
func (d *Deployment) Current() []Action {
	if d.CurrentStep < 1 || d.CurrentStep > len(d.Steps) {
		return nil
	}
	return d.Steps[d.CurrentStep-1]
}

// Info is the light form of the plan.
func (d *Deployment) Info() PlanInfo {
	p := PlanInfo{ID: d.ID, Version: d.Version, Steps: []StepInfo{}}
	for _, s := range d.Steps {
		p.Steps = append(p.Steps, stepInfo(s))
	}
	return p
}

// Affects reports whether a spec is touched.
func (d *Deployment) Affects(id string) bool {
	_, a := slices.BinarySearch(d.AffectedApps, id)
	_, p := slices.BinarySearch(d.AffectedPods, id)
	return a || p
}

// deployment is the machine's own view.
type deployment struct {
	Deployment
	original map[string]spec.Version // of the affected specs; zero: there was none
	policy   spec.Policy
	view     *Deployment // what readers have; nil when it is out of date
}

// storedDeployment is the record of a deployment. The definitions are found by their versions.
type storedDeployment struct {
	ID       string                  `json:"id"`
	Version  spec.Version            `json:"version"`
	Steps    [][]Action              `json:"steps"`
	Original map[string]spec.Version `json:"original"`
	Target   map[string]spec.Version `json:"target"`
	Started  spec.Version            `json:"started"`
	Deadline spec.Version            `json:"deadline,omitzero"`
	Policy   spec.Policy             `json:"policy,omitempty"`
	Paused   string                  `json:"paused,omitempty"`
	Canary   map[string]Canary       `json:"canary,omitempty"`
}

func (m *Machine) deployment(id string) *deployment {
	for _, d := range m.deployments {
		if d.ID == id {
			return d
		}
	}
	return nil
}

// chunk is how much of a deployment's record goes into one value of the store.
const chunk = 256 << 10

func (m *Machine) storeDeployment(d *deployment) {
	d.view = nil
	m.deployEpoch++
	rec := storedDeployment{
		ID: d.ID, Version: d.Version, Steps: d.Steps, Original: d.original, Target: map[string]spec.Version{},
		Started: d.Started, Deadline: d.Deadline, Policy: d.policy, Paused: d.Paused, Canary: d.Canary,
	}
	for id := range d.original {
		if s := m.root.Get(id); s != nil {
			rec.Target[id] = s.Version
		}
	}
	b, err := json.Marshal(rec)
	if err != nil {
		panic(fmt.Sprintf("deployment %s can't be encoded: %v", d.ID, err))
	}
	n := (len(b) + chunk - 1) / chunk
	for i := range n {
		m.emit(Put{Key: fmt.Sprintf("%s%s/%04d-%04d", deploymentPrefix, d.ID, i, n), Value: b[i*chunk : min(len(b), (i+1)*chunk)]})
	}
}

func (m *Machine) deleteDeployment(d *deployment) {
	// The number of chunks follows from what would be written now: steps and versions never change, and the rest is small,
	// so one more is tried.
	size := 0
	b, _ := json.Marshal(d.Steps)
	size += len(b)
	b, _ = json.Marshal(d.original)
	size += 2 * len(b)
	n := (size+4096)/chunk + 2
	for total := 1; total <= n; total++ {
		for i := range total {
			m.emit(Delete{Key: fmt.Sprintf("%s%s/%04d-%04d", deploymentPrefix, d.ID, i, total)})
		}
	}
}

// Result is the answer to a change: the deployment that carries it out.
type Result struct {
	Deployment string
	Version    spec.Version
	Plan       *Deployment // of a dry run
}

func (m *Machine) update(e Update) {
	res, root, err := m.applyUpdate(e)
	if err == nil && !e.DryRun && e.Notices != nil {
		for _, n := range e.Notices(root) {
			n.At = m.stamp()
			m.emit(Publish{n})
		}
	}
	m.emit(Reply{Token: e.Token, Value: res, Err: err})
}

func (m *Machine) applyUpdate(e Update) (*Result, *spec.Root, error) {
	next := m.root.Clone()
	now := m.version()
	if err := e.Mutate(next, now, history{m}); err != nil {
		return nil, nil, err
	}
	if err := next.Check(); err != nil {
		return nil, nil, err
	}
	steps := buildPlan(m.root, next, m.stale)
	d := &deployment{Deployment: Deployment{ID: m.uuid(), Version: now, Steps: steps, Started: m.stamp()}, original: map[string]spec.Version{}}
	d.AffectedApps, d.AffectedPods = planIDs(steps)
	if e.DryRun {
		return &Result{Version: now, Plan: &d.Deployment}, next, nil
	}
	affected := slices.Concat(d.AffectedApps, d.AffectedPods)
	var conflicts []*deployment
	var names []string
	for _, id := range affected {
		if l := m.locks[id]; l != nil && !slices.Contains(conflicts, l) {
			conflicts = append(conflicts, l)
			names = append(names, l.ID)
		}
	}
	if len(conflicts) > 0 && !e.Force {
		return nil, nil, &Locked{Deployments: names}
	}
	if limit := m.opt.MaxRunningDeployments; limit > 0 && len(steps) > 0 && len(m.deployments)-len(conflicts) >= limit {
		return nil, nil, &TooManyDeployments{Max: limit}
	}
	because := e.because
	if because == "" {
		because = "canceled: a deployment that was forced takes its place"
	}
	for _, c := range conflicts {
		m.endDeployment(c, because)
	}
	for _, id := range affected {
		d.original[id] = 0
		if s := m.root.Get(id); s != nil {
			d.original[id] = s.Version
		}
	}
	m.install(next, d)
	for _, id := range e.ResetBackoff {
		m.resetDelay(id)
	}
	for _, id := range e.Sentence {
		if i := m.instance(id); i != nil && i.Goal == GoalRunning {
			goal := GoalDecommissioned
			if s := m.root.Get(i.SpecID); s != nil && s.Resident() {
				goal = GoalStopped
			}
			m.kill(i, goal)
		}
	}
	m.launchDeployment(d)
	return &Result{Deployment: d.ID, Version: now}, next, nil
}

// install makes the tree the one in force and stores it: first the definitions under their versions, then the deployment that
// brings them about, then that they are the current ones. Whoever recovers after the second part rolls the third forward.
func (m *Machine) install(next *spec.Root, d *deployment) {
	changed, groups := next.Changed(), next.ChangedGroups()
	old := m.root
	m.root = next.Clone()
	for _, id := range changed {
		s := next.Get(id)
		if s != nil {
			m.addRevision(id, s.Version, s)
		} else if before := old.Get(id); before != nil {
			m.addRevision(id, d.Version, nil)
			m.tombs = append(m.tombs, id)
		}
	}
	for _, g := range groups {
		grp := next.Group(g)
		if grp == nil {
			m.emit(Delete{Key: groupPrefix + groupKey(g)})
			continue
		}
		b, _ := json.Marshal(grp)
		m.emit(Put{Key: groupPrefix + groupKey(g), Value: b})
	}
	if len(d.Steps) > 0 {
		m.storeDeployment(d)
	}
	for _, id := range changed {
		key := currentPrefix + spec.SafeID(id)
		if s := next.Get(id); s != nil {
			m.emit(Put{Key: key, Value: []byte(s.Version.String())})
		} else {
			m.emit(Delete{Key: key})
		}
		m.touch(id)
	}
	m.reviveDue = true // another definition has no delay
	m.pruneTombs()
	m.updateRoles(changed)
}

// stale reports whether active instances are left that the definition wants replaced.
func (m *Machine) stale(s *spec.Spec) bool {
	for _, i := range m.of(s.ID) {
		if i.Active() && !m.current(i, s) {
			return true
		}
	}
	return false
}

func (m *Machine) launchDeployment(d *deployment) {
	for id := range d.original {
		m.locks[id] = d
	}
	m.deployEpoch++
	if len(d.Steps) == 0 {
		m.noteOutcome(d.ID, "")
		m.publish("deployment_success", DeploymentEnd{ID: d.ID, Plan: d.Info()})
		return
	}
	deadline, policy := m.opt.Deadline, m.opt.Policy
	for id := range d.original {
		s := m.root.Get(id)
		if s == nil {
			continue
		}
		st := s.Strategy()
		if st.Deadline > 0 && (deadline == 0 || st.Deadline < deadline) {
			deadline = st.Deadline
		}
		if st.Policy != spec.PolicyNone {
			policy = st.Policy
		}
	}
	d.policy = policy
	if deadline > 0 && d.Deadline == 0 {
		d.Deadline = spec.VersionOf(m.now.Add(deadline))
	}
	if d.Deadline != 0 {
		m.after(d.Deadline.Time().Sub(m.now), timerDeployment, d.ID)
	}
	m.deployments = append(m.deployments, d)
	m.storeDeployment(d)
	m.nextStep(d)
}

// nextStep begins the step after the current one, or ends the deployment after the last.
func (m *Machine) nextStep(d *deployment) {
	d.view = nil
	m.deployEpoch++
	if d.CurrentStep > 0 {
		m.publish("deployment_step_success", DeploymentStep{Plan: d.Info(), CurrentStep: stepInfo(d.Current())})
	}
	d.CurrentStep++
	if d.CurrentStep > len(d.Steps) {
		m.removeDeployment(d)
		m.noteOutcome(d.ID, "")
		m.publish("deployment_success", DeploymentEnd{ID: d.ID, Plan: d.Info()})
		return
	}
	d.pending = map[string]bool{}
	for _, a := range d.Current() {
		d.pending[a.ID] = true
		m.touch(a.ID)
		if a.Kind == Restart {
			m.resetDelay(a.ID)
		}
	}
	m.publish("deployment_info", DeploymentStep{Plan: d.Info(), CurrentStep: stepInfo(d.Current())})
}

func (m *Machine) removeDeployment(d *deployment) {
	m.deployments = slices.DeleteFunc(m.deployments, func(x *deployment) bool { return x == d })
	for id := range d.original {
		if m.locks[id] == d {
			delete(m.locks, id)
		}
		m.touch(id)
	}
	m.deleteDeployment(d)
	m.deployEpoch++
}

// endDeployment abandons one where it stands.
func (m *Machine) endDeployment(d *deployment, reason string) {
	if step := d.Current(); step != nil {
		m.publish("deployment_step_failure", DeploymentStep{Plan: d.Info(), CurrentStep: stepInfo(step)})
	}
	m.removeDeployment(d)
	m.noteOutcome(d.ID, reason)
	m.publish("deployment_failed", DeploymentEnd{ID: d.ID, Plan: d.Info(), Reason: reason})
}

// convergeAction does what the running deployment wants of a spec now.
func (m *Machine) convergeAction(d *deployment, specID string, target *spec.Spec) {
	if d.Paused != "" || !d.pending[specID] {
		return
	}
	var action Action
	for _, a := range d.Current() {
		if a.ID == specID {
			action = a
		}
	}
	done := false
	switch action.Kind {
	case Start:
		done = true
	case Stop:
		for _, i := range m.of(specID) {
			m.kill(i, GoalDecommissioned)
		}
		if done = len(m.of(specID)) == 0; done {
			m.terminated(specID, action.Pod)
		}
	case Scale:
		m.scaleTo(target, target.Instances())
		done = m.scaled(target)
	case Restart:
		done = m.replace(d, target)
	}
	if !done {
		return
	}
	delete(d.pending, specID)
	d.view = nil
	m.deployEpoch++
	if len(d.pending) == 0 {
		m.nextStep(d)
	}
}

// terminated clears what is known of a spec that was removed and has no instance left.
func (m *Machine) terminated(specID string, pod bool) {
	if f, ok := m.failures.Delete(specID); ok && f != nil {
		m.emit(Delete{Key: failurePrefix + spec.SafeID(specID)})
	}
	delete(m.specs, specID)
	delete(m.waiting, specID)
	if !pod {
		m.publish("app_terminated_event", AppTerminated{AppID: specID})
	}
}

// scaled reports whether a spec has exactly the instances it should, all of them good.
func (m *Machine) scaled(target *spec.Spec) bool {
	good := 0
	for _, i := range m.of(target.ID) {
		switch {
		case i.Condition == UnreachableInactive || i.Goal == GoalStopped && i.Condition.Terminal():
		case i.Goal != GoalRunning:
			return false
		case !m.good(i, target):
			return false
		default:
			good++
		}
	}
	return good == target.Instances()
}

func (m *Machine) cancelDeployment(e CancelDeployment) {
	d := m.deployment(e.ID)
	if d == nil {
		m.emit(Reply{Token: e.Token, Err: &NotFound{What: "DeploymentPlan " + e.ID + " does not exist"}})
		return
	}
	if e.Force {
		m.endDeployment(d, "canceled")
		m.emit(Reply{Token: e.Token})
		return
	}
	res, err := m.rollback(d, "canceled: rolled back on request")
	m.emit(Reply{Token: e.Token, Value: res, Err: err})
}

// rollback starts a deployment that undoes what d changes, on top of the tree as it is now.
func (m *Machine) rollback(d *deployment, reason string) (*Result, error) {
	res, _, err := m.applyUpdate(Update{Force: true, because: reason, Mutate: func(root *spec.Root, now spec.Version, _ spec.History) error {
		for _, id := range slices.Concat(d.AffectedApps, d.AffectedPods) {
			v := d.original[id]
			if v == 0 {
				root.Remove(id, now)
				continue
			}
			r, _ := m.revisions.Get(revisionKey(id, v))
			if r == nil || r.Spec == nil {
				return &NotFound{What: fmt.Sprintf("%s has no version %s to go back to any more", id, v)}
			}
			if err := root.Put(r.Spec, now, false); err != nil {
				return err
			}
		}
		return nil
	}})
	if m.deployment(d.ID) != nil && err == nil {
		m.endDeployment(d, reason)
	}
	return res, err
}

func (m *Machine) resumeDeployment(e ResumeDeployment) {
	d := m.deployment(e.ID)
	if d == nil {
		m.emit(Reply{Token: e.Token, Err: &NotFound{What: "DeploymentPlan " + e.ID + " does not exist"}})
		return
	}
	d.Paused, d.Deadline = "", 0
	m.storeDeployment(d)
	for id := range d.pending {
		m.touch(id)
	}
	m.emit(Reply{Token: e.Token})
}

// deploymentTimer looks at deadlines and at canaries that have held.
func (m *Machine) deploymentTimer(d *deployment) {
	for id := range d.pending {
		m.touch(id)
	}
	if d.Deadline == 0 || d.Paused != "" || m.now.Before(d.Deadline.Time()) {
		return
	}
	m.overdue(d, "not done by its deadline "+d.Deadline.String())
}

// overdue applies the policy to a deployment that can't go on.
func (m *Machine) overdue(d *deployment, why string) {
	switch d.policy {
	case spec.PolicyRollback:
		if _, err := m.rollback(d, why+"; rolled back"); err == nil {
			return
		}
		fallthrough
	case spec.PolicyPause, spec.PolicyNone:
		d.Paused = why
		m.storeDeployment(d)
		m.publish("deployment_step_failure", DeploymentStep{Plan: d.Info(), CurrentStep: stepInfo(d.Current())})
	case spec.PolicyKeep:
		m.endDeployment(d, why+"; ended where it stood")
	}
}

func (m *Machine) killInstances(e KillInstances) {
	var killed []*Instance
	for _, id := range e.IDs {
		i := m.instance(id)
		if i == nil || i.Goal != GoalRunning {
			continue
		}
		killed = append(killed, i)
		if e.Wipe {
			m.kill(i, GoalDecommissioned)
		} else {
			m.kill(i, GoalRunning)
		}
	}
	m.emit(Reply{Token: e.Token, Value: killed})
}

// canaryCheckEvery is how often a canary that holds is looked at when its gate is a query.
const canaryCheckEvery = 10 * time.Second
