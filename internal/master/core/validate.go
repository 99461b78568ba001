package core

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// forbiddenError is a refusal by the authorizer: 403 where a status is sent.
type forbiddenError struct{ msg string }

func (e forbiddenError) Error() string { return e.msg }

func isForbidden(err error) bool {
	var f forbiddenError
	return errors.As(err, &f)
}

// maxDurationSeconds is what fits into Mesos' Duration (int64 nanoseconds).
const maxDurationSeconds = float64(math.MaxInt64) / 1e9

// validateSubscription checks what SUBSCRIBE and UPDATE_FRAMEWORK say of a framework (facts 1.1, 1.5).
func (s *State) validateSubscription(info *mesosv1.FrameworkInfo, suppressed []string, constraints *schedulerv1.OfferConstraints, principal string) error {
	caps := capabilitiesOf(info)
	if caps.multiRole && info.Role != nil {
		return errors.New("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable")
	}
	if !caps.multiRole && len(info.GetRoles()) > 0 {
		return errors.New("'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable")
	}
	roles := rolesOf(info)
	seen := map[string]bool{}
	for _, r := range roles {
		if err := resources.ValidateRole(r); err != nil {
			return fmt.Errorf("'FrameworkInfo.role' is not a valid role: %w", err)
		}
		if seen[r] {
			return fmt.Errorf("'FrameworkInfo.roles' contains the duplicate item '%s'", r)
		}
		seen[r] = true
		if s.cfg.RoleWhitelist != nil && !s.cfg.RoleWhitelist[r] {
			return fmt.Errorf("Role '%s' is not present in the master's --roles", r)
		}
	}
	if id := info.GetId().GetValue(); id != "" {
		if err := ids.Validate(id); err != nil {
			return fmt.Errorf("'FrameworkInfo.id' is invalid: %w", err)
		}
	}
	if t := info.GetFailoverTimeout(); math.IsNaN(t) || t < 0 || t > maxDurationSeconds {
		return errors.New("'FrameworkInfo.failover_timeout' is invalid: it must be a number of seconds between 0 and 9223372036")
	}
	if !s.cfg.RootSubmissions && info.GetUser() == "root" {
		return errors.New("User 'root' is not allowed to run frameworks without --root_submissions set")
	}
	for _, r := range suppressed {
		if !seen[r] {
			return fmt.Errorf("Suppressed role '%s' is not contained in the list of roles", r)
		}
	}
	if principal != "" && info.Principal != nil && info.GetPrincipal() != principal {
		return forbiddenError{fmt.Sprintf("Framework principal '%s' does not match the authenticated principal '%s'", info.GetPrincipal(), principal)}
	}
	for r, f := range info.GetOfferFilters() {
		if !seen[r] {
			return fmt.Errorf("'FrameworkInfo.offer_filters' names role '%s', which the framework is not subscribed to", r)
		}
		for _, q := range f.GetMinAllocatableResources().GetQuantities() {
			if _, err := resources.QuantitiesOfScalars(q.GetQuantities()); err != nil {
				return fmt.Errorf("'FrameworkInfo.offer_filters' of role '%s' is invalid: %w", r, err)
			}
		}
	}
	for r := range constraints.GetRoleConstraints() {
		if !seen[r] {
			return fmt.Errorf("Offer constraints name role '%s', which the framework is not subscribed to", r)
		}
	}
	if err := validateConstraints(constraints, s.cfg.OfferConstraintsMaxProgramSize); err != nil {
		return fmt.Errorf("Offer constraints are not valid: %w", err)
	}
	for _, r := range roles {
		who := principal
		if who == "" {
			who = info.GetPrincipal()
		}
		if !s.authorized(who, ActionRegisterFramework, r) {
			return forbiddenError{fmt.Sprintf("Not authorized to use role '%s'", r)}
		}
	}
	return nil
}

// validateTask checks a task alone, before its resources are looked for in the offers (facts 1.6). The error is what
// TASK_ERROR says.
func (s *State) validateTask(f *framework, a *agent, t *mesosv1.TaskInfo, group bool) error {
	id := t.GetTaskId().GetValue()
	if err := ids.Validate(id); err != nil {
		return fmt.Errorf("Task has invalid ID: %w", err)
	}
	if f.tasks[ids.Task(id)] != nil {
		return fmt.Errorf("Task has duplicate ID: %s", id)
	}
	if _, ok := f.unreachable.Get(ids.Task(id)); ok {
		return fmt.Errorf("Task reuses the ID of an unreachable task: %s", id)
	}
	if t.GetAgentId().GetValue() != string(a.id) {
		return fmt.Errorf("Task uses invalid agent %s while agent %s is expected", t.GetAgentId().GetValue(), a.id)
	}
	if t.GetKillPolicy().GetGracePeriod().GetNanoseconds() < 0 {
		return errors.New("Task's 'kill_policy.grace_period' must be non-negative")
	}
	if t.GetMaxCompletionTime().GetNanoseconds() < 0 {
		return errors.New("Task's `max_completion_time` must be non-negative")
	}
	if t.Check != nil {
		if err := validateCheck(t.Check); err != nil {
			return fmt.Errorf("Task uses invalid check: %w", err)
		}
	}
	if t.HealthCheck != nil {
		if err := validateHealthCheck(t.HealthCheck); err != nil {
			return fmt.Errorf("Task uses invalid health check: %w", err)
		}
	}
	if err := validateCommand(t.GetCommand()); err != nil {
		return err
	}
	if err := validateContainer(t.GetContainer()); err != nil {
		return fmt.Errorf("Task's `ContainerInfo` is invalid: %w", err)
	}
	if group {
		if t.GetContainer().GetType() == mesosv1.ContainerInfo_DOCKER && t.Container != nil {
			return errors.New("Docker ContainerInfo is not supported on the task")
		}
		if len(t.GetContainer().GetNetworkInfos()) > 0 {
			return errors.New("NetworkInfos must not be set on the task")
		}
	} else {
		if (t.Executor != nil) == (t.Command != nil) {
			return errors.New("Task should have at least one (but not both) of CommandInfo or ExecutorInfo present")
		}
		if li := t.GetContainer().GetLinuxInfo(); li != nil && li.ShareCgroups != nil && !li.GetShareCgroups() {
			return errors.New("Only tasks in a task group may have 'share_cgroups' set to 'false'")
		}
	}
	return validateLimits(t, a)
}

func validateLimits(t *mesosv1.TaskInfo, a *agent) error {
	if len(t.GetLimits()) == 0 {
		return nil
	}
	if !a.has(mesosv1.AgentInfo_Capability_TASK_RESOURCE_LIMITS) {
		return fmt.Errorf("Task has resource limits but agent %s has no TASK_RESOURCE_LIMITS capability", a.id)
	}
	requests := map[string]float64{}
	for _, r := range t.GetResources() {
		if r.GetType() == mesosv1.Value_SCALAR {
			requests[r.GetName()] += r.GetScalar().GetValue()
		}
	}
	for name, v := range t.GetLimits() {
		if name != "cpus" && name != "mem" {
			return fmt.Errorf("Task has a limit for '%s': only cpus and mem may have one", name)
		}
		if math.IsNaN(v.GetValue()) || v.GetValue() < requests[name] {
			return fmt.Errorf("Task's %s limit %v is less than its %s request %v", name, v.GetValue(), name, requests[name])
		}
	}
	return nil
}

func validateCommand(c *mesosv1.CommandInfo) error {
	if c == nil {
		return nil
	}
	for _, u := range c.GetUris() {
		if u.GetValue() == "" {
			return errors.New("Task's `CommandInfo` has a URI without a value")
		}
	}
	for _, v := range c.GetEnvironment().GetVariables() {
		switch v.GetType() {
		case mesosv1.Environment_Variable_SECRET:
			if v.Secret == nil {
				return fmt.Errorf("Environment variable '%s' of type 'SECRET' must have a secret set", v.GetName())
			}
			if v.Value != nil {
				return fmt.Errorf("Environment variable '%s' of type 'SECRET' must not have a value set", v.GetName())
			}
		case mesosv1.Environment_Variable_VALUE:
			if v.Secret != nil {
				return fmt.Errorf("Environment variable '%s' of type 'VALUE' must not have a secret set", v.GetName())
			}
			if v.Value == nil {
				return fmt.Errorf("Environment variable '%s' of type 'VALUE' must have a value set", v.GetName())
			}
		default:
			return fmt.Errorf("Environment variable '%s' is of an unknown type", v.GetName())
		}
	}
	return nil
}

func validateContainer(c *mesosv1.ContainerInfo) error {
	if c == nil {
		return nil
	}
	for _, v := range c.GetVolumes() {
		if v.HostPath != nil && v.Image != nil {
			return errors.New("'host_path' and 'image' must not both be set for a volume")
		}
		if v.GetContainerPath() == "" {
			return errors.New("a volume needs a 'container_path'")
		}
	}
	if c.GetType() == mesosv1.ContainerInfo_DOCKER && c.Docker == nil {
		return errors.New("DockerInfo 'docker' is not set for DOCKER typed ContainerInfo")
	}
	return nil
}

func validSeconds(name string, v float64) error {
	if math.IsNaN(v) || v < 0 || v > maxDurationSeconds {
		return fmt.Errorf("expecting '%s' to be non-negative", name)
	}
	return nil
}

func validateCheck(c *mesosv1.CheckInfo) error {
	switch c.GetType() {
	case mesosv1.CheckInfo_COMMAND:
		if c.Command == nil {
			return errors.New("expecting 'command' to be set for COMMAND check")
		}
		if c.Command.GetCommand().Value == nil {
			return errors.New("Command check must contain 'shell command' or 'executable'")
		}
		if err := validateCommand(c.Command.GetCommand()); err != nil {
			return err
		}
	case mesosv1.CheckInfo_HTTP:
		if c.Http == nil {
			return errors.New("expecting 'http' to be set for HTTP check")
		}
		if p := c.Http.GetPath(); p != "" && p[0] != '/' {
			return fmt.Errorf("the path '%s' of HTTP check must start with '/'", p)
		}
	case mesosv1.CheckInfo_TCP:
		if c.Tcp == nil {
			return errors.New("expecting 'tcp' to be set for TCP check")
		}
	default:
		return errors.New("'type' must be COMMAND, HTTP or TCP")
	}
	return errors.Join(
		validSeconds("delay_seconds", c.GetDelaySeconds()),
		validSeconds("interval_seconds", c.GetIntervalSeconds()),
		validSeconds("timeout_seconds", c.GetTimeoutSeconds()),
	)
}

func validateHealthCheck(c *mesosv1.HealthCheck) error {
	if c.Type == nil {
		return errors.New("HealthCheck must specify 'type'")
	}
	switch c.GetType() {
	case mesosv1.HealthCheck_COMMAND:
		if c.Command == nil {
			return errors.New("expecting 'command' to be set for COMMAND health check")
		}
		if c.Command.Value == nil {
			return errors.New("Command health check must contain 'shell command' or 'executable'")
		}
		if err := validateCommand(c.Command); err != nil {
			return err
		}
	case mesosv1.HealthCheck_HTTP:
		if c.Http == nil {
			return errors.New("expecting 'http' to be set for HTTP health check")
		}
		if sch := c.Http.GetScheme(); sch != "" && sch != "http" && sch != "https" {
			return fmt.Errorf("unsupported HTTP health check scheme: '%s'", sch)
		}
		if p := c.Http.GetPath(); p != "" && p[0] != '/' {
			return fmt.Errorf("the path '%s' of HTTP health check must start with '/'", p)
		}
	case mesosv1.HealthCheck_TCP:
		if c.Tcp == nil {
			return errors.New("expecting 'tcp' to be set for TCP health check")
		}
	default:
		return fmt.Errorf("'%s' is not a valid health check type", c.GetType())
	}
	return errors.Join(
		validSeconds("delay_seconds", c.GetDelaySeconds()),
		validSeconds("grace_period_seconds", c.GetGracePeriodSeconds()),
		validSeconds("interval_seconds", c.GetIntervalSeconds()),
		validSeconds("timeout_seconds", c.GetTimeoutSeconds()),
	)
}

// validateExecutor checks the ExecutorInfo of a task or a group against itself and against a live one of the same id.
func (s *State) validateExecutor(f *framework, a *agent, x *mesosv1.ExecutorInfo, group bool) error {
	if err := ids.Validate(x.GetExecutorId().GetValue()); err != nil {
		return fmt.Errorf("Executor has invalid ID: %w", err)
	}
	if x.FrameworkId == nil {
		return fmt.Errorf("Task has invalid ExecutorInfo: missing field 'framework_id'")
	}
	if x.GetFrameworkId().GetValue() != string(f.id) {
		return fmt.Errorf("ExecutorInfo has an invalid FrameworkID (Actual: %s vs Expected: %s)", x.GetFrameworkId().GetValue(), f.id)
	}
	switch x.GetType() {
	case mesosv1.ExecutorInfo_DEFAULT:
		if !group {
			return errors.New("'ExecutorInfo.type' must be 'CUSTOM' for a task that is launched alone")
		}
		if x.Command != nil {
			return errors.New("'ExecutorInfo.command' must not be set for 'DEFAULT' executor")
		}
		if c := x.GetContainer(); c != nil {
			if c.GetType() != mesosv1.ContainerInfo_MESOS {
				return errors.New("'ExecutorInfo.container.type' must be 'MESOS' for 'DEFAULT' executor")
			}
			if c.GetMesos().GetImage() != nil {
				return errors.New("'ExecutorInfo.container.mesos.image' must not be set for 'DEFAULT' executor")
			}
		}
	case mesosv1.ExecutorInfo_CUSTOM:
		if x.Command == nil {
			return errors.New("'ExecutorInfo.command' must be set for 'CUSTOM' executor")
		}
	default:
		if group {
			return errors.New("'ExecutorInfo.type' must be set for a task group")
		}
		if x.Command == nil {
			return errors.New("'ExecutorInfo.command' must be set for 'CUSTOM' executor")
		}
	}
	if x.GetShutdownGracePeriod().GetNanoseconds() < 0 {
		return errors.New("ExecutorInfo's 'shutdown_grace_period' must be non-negative")
	}
	if err := validateCommand(x.GetCommand()); err != nil {
		return err
	}
	if live := f.executors[a.id][ids.Executor(x.GetExecutorId().GetValue())]; live != nil && !sameExecutor(live.info, x) {
		return fmt.Errorf("ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID: %s", x.GetExecutorId().GetValue())
	}
	return nil
}

// sameExecutor compares two descriptions of one executor; resources by value, not by the order they are written in.
func sameExecutor(a, b *mesosv1.ExecutorInfo) bool {
	ra, errA := resources.FromProto(a.GetResources())
	rb, errB := resources.FromProto(b.GetResources())
	if errA != nil || errB != nil || !ra.Unallocate().Equal(rb.Unallocate()) {
		return false
	}
	x, y := proto.CloneOf(a), proto.CloneOf(b)
	x.Resources, y.Resources = nil, nil
	if x.Type == nil {
		x.Type = y.Type
	}
	if y.Type == nil {
		y.Type = x.Type
	}
	return proto.Equal(x, y)
}

// validateUsage checks the resources that a task or executor asks for: valid, allocated to the offers' role, not both
// revocable and not for one name.
func validateUsage(list []*mesosv1.Resource, role, who string) (resources.Resources, error) {
	for _, r := range list {
		if r.AllocationInfo == nil {
			continue
		}
		if got := r.GetAllocationInfo().GetRole(); got != role {
			return resources.Resources{}, fmt.Errorf("%s uses resources allocated to role '%s' while the offers are of role '%s'", who, got, role)
		}
	}
	res, err := resources.FromProto(list)
	if err != nil {
		return resources.Resources{}, fmt.Errorf("%s uses invalid resources: %w", who, err)
	}
	if rev := res.Revocable(); !rev.IsEmpty() {
		plain := res.NonRevocable().Names()
		for _, n := range rev.Names() {
			if slices.Contains(plain, n) {
				return resources.Resources{}, fmt.Errorf("%s mixes revocable and non-revocable %s", who, n)
			}
		}
	}
	ids := map[string]bool{}
	for x := range res.All() {
		if x.IsPersistentVolume() {
			key := x.Role() + "\x00" + x.PersistenceID()
			if ids[key] {
				return resources.Resources{}, fmt.Errorf("%s uses the persistence ID '%s' twice", who, x.PersistenceID())
			}
			ids[key] = true
		}
	}
	return res.Allocate(role), nil
}
