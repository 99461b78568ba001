package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// maxContainerID bounds a container id as text (facts 7.1), and maxNesting its depth.
const (
	maxContainerID = 242
	maxNesting     = 32
)

// containerID makes the text form of a message: the values from the root to the leaf, joined by dots.
func containerID(m *mesosv1.ContainerID) (ids.Container, error) {
	var parts []string
	for ; m != nil; m = m.GetParent() {
		if len(parts) == maxNesting {
			return "", fmt.Errorf("'container_id' is nested deeper than %d", maxNesting)
		}
		v := m.GetValue()
		if err := ids.Validate(v); err != nil {
			return "", fmt.Errorf("'container_id.value' is invalid: %w", err)
		}
		if strings.ContainsAny(v, ". \t\n") {
			return "", fmt.Errorf("'container_id.value' '%s' contains a dot or white space", v)
		}
		parts = append(parts, v)
	}
	if len(parts) == 0 {
		return "", errors.New("Expecting 'container_id' to be present") //nolint:staticcheck // Mesos' own words
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	id := strings.Join(parts, ".")
	if len(id) > maxContainerID {
		return "", fmt.Errorf("'container_id' is longer than %d characters", maxContainerID)
	}
	return ids.Container(id), nil
}

// containerMessage is the message of a text form.
func containerMessage(id ids.Container) *mesosv1.ContainerID {
	var m *mesosv1.ContainerID
	for part := range strings.SplitSeq(string(id), ".") {
		m = &mesosv1.ContainerID{Value: proto.String(part), Parent: m}
	}
	return m
}

func isNested(id ids.Container) bool { return strings.Contains(string(id), ".") }

func rootOf(id ids.Container) ids.Container {
	root, _, _ := strings.Cut(string(id), ".")
	return ids.Container(root)
}

// unixMode is the st_mode of Go's mode.
func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	switch {
	case m.IsDir():
		out |= 0o040000
	case m&fs.ModeSymlink != 0:
		out |= 0o120000
	case m&fs.ModeNamedPipe != 0:
		out |= 0o010000
	case m&fs.ModeSocket != 0:
		out |= 0o140000
	default:
		out |= 0o100000
	}
	return out
}

// containerCall answers the calls that launch, wait for, kill and remove containers. The nested ones are the older names
// of the same.
func (a *Agent) containerCall(ctx context.Context, who wire.Principal, c *agentv1.Call) (int, *agentv1.Response, error) {
	var m *mesosv1.ContainerID
	var verb string
	switch c.GetType() {
	case agentv1.Call_LAUNCH_NESTED_CONTAINER:
		verb, m = "launch", c.GetLaunchNestedContainer().GetContainerId()
	case agentv1.Call_LAUNCH_CONTAINER:
		verb, m = "launch", c.GetLaunchContainer().GetContainerId()
	case agentv1.Call_WAIT_NESTED_CONTAINER:
		verb, m = "wait", c.GetWaitNestedContainer().GetContainerId()
	case agentv1.Call_WAIT_CONTAINER:
		verb, m = "wait", c.GetWaitContainer().GetContainerId()
	case agentv1.Call_KILL_NESTED_CONTAINER:
		verb, m = "kill", c.GetKillNestedContainer().GetContainerId()
	case agentv1.Call_KILL_CONTAINER:
		verb, m = "kill", c.GetKillContainer().GetContainerId()
	case agentv1.Call_REMOVE_NESTED_CONTAINER:
		verb, m = "remove", c.GetRemoveNestedContainer().GetContainerId()
	case agentv1.Call_REMOVE_CONTAINER:
		verb, m = "remove", c.GetRemoveContainer().GetContainerId()
	default:
		return 0, nil, &apiError{http.StatusNotImplemented, "The call " + c.GetType().String() + " is not known to this agent"}
	}
	id, err := containerID(m)
	if err != nil {
		return 0, nil, badRequest("%v", err)
	}
	kind := "nested_containers"
	if !isNested(id) {
		kind = "standalone_containers"
	}
	if !a.deps.Authorizer.Allowed(who, verb+"_"+kind, string(id)) {
		return 0, nil, &apiError{http.StatusForbidden, "Not allowed: " + verb + "_" + kind}
	}
	if verb != "launch" && !isNested(id) {
		if err := a.standaloneOnly(id, verb); err != nil {
			return 0, nil, err
		}
	}
	switch c.GetType() {
	case agentv1.Call_LAUNCH_NESTED_CONTAINER:
		n := c.GetLaunchNestedContainer()
		if !isNested(id) {
			return 0, nil, badRequest("Expecting 'container_id.parent' to be present")
		}
		return a.launchBelow(ctx, id, n.GetCommand(), n.GetContainer(), nil, nil)
	case agentv1.Call_LAUNCH_CONTAINER:
		l := c.GetLaunchContainer()
		if isNested(id) {
			return a.launchBelow(ctx, id, l.GetCommand(), l.GetContainer(), l.GetResources(), l.GetLimits())
		}
		return a.launchStandalone(ctx, id, l)
	case agentv1.Call_WAIT_NESTED_CONTAINER, agentv1.Call_WAIT_CONTAINER:
		return a.waitContainer(ctx, id, c.GetType())
	case agentv1.Call_KILL_NESTED_CONTAINER:
		return a.killContainer(id, c.GetKillNestedContainer().GetSignal())
	case agentv1.Call_KILL_CONTAINER:
		return a.killContainer(id, c.GetKillContainer().GetSignal())
	}
	return a.removeContainer(ctx, id)
}

// standaloneOnly keeps executors' containers, which are the agent's own, out of these calls.
func (a *Agent) standaloneOnly(id ids.Container, verb string) error {
	info, ok := a.boxes.find(id)
	if !ok {
		return fmt.Errorf("Container %s cannot be found: %w", id, containerizer.ErrNotFound) //nolint:staticcheck // Mesos' own words
	}
	if info.Kind != containerizer.Standalone {
		return badRequest("Container %s belongs to an executor: it is not for these calls to %s", id, verb)
	}
	return nil
}

// launchBelow starts a nested container.
func (a *Agent) launchBelow(ctx context.Context, id ids.Container, cmd *mesosv1.CommandInfo, info *mesosv1.ContainerInfo, res []*mesosv1.Resource, limits map[string]*mesosv1.Value_Scalar) (int, *agentv1.Response, error) {
	if held, ok := a.boxes.find(id); ok && !held.Ended {
		return http.StatusAccepted, nil, nil
	}
	cfg, err := a.boxes.nested(id, containerizer.Nested, cmd, info, nil)
	if err != nil {
		if errors.Is(err, containerizer.ErrNotFound) {
			return 0, nil, badRequest("Parent of container %s cannot be found", id)
		}
		return 0, nil, badRequest("%v", err)
	}
	cfg.Resources = res
	setLimits(&cfg, limits)
	if err := makeSandbox(cfg.Directory, cfg.User); err != nil {
		return 0, nil, badRequest("%v", err)
	}
	return a.launched(ctx, cfg)
}

func setLimits(cfg *containerizer.Config, limits map[string]*mesosv1.Value_Scalar) {
	for name, v := range limits {
		if cfg.Limits == nil {
			cfg.Limits = map[string]float64{}
		}
		cfg.Limits[name] = v.GetValue()
	}
}

func (a *Agent) launched(ctx context.Context, cfg containerizer.Config) (int, *agentv1.Response, error) {
	if err := a.boxes.boxes.Supports(cfg); err != nil {
		return 0, nil, badRequest("Container %s can't be launched: %v", cfg.ID, err)
	}
	// A client that goes away does not undo what it asked for.
	if err := a.boxes.boxes.Launch(context.WithoutCancel(ctx), cfg); err != nil {
		return 0, nil, badRequest("Failed to launch container %s: %v", cfg.ID, err)
	}
	return http.StatusOK, nil, nil
}

// launchStandalone starts a container of the operator's own, without an executor.
func (a *Agent) launchStandalone(ctx context.Context, id ids.Container, l *agentv1.Call_LaunchContainer) (int, *agentv1.Response, error) {
	if held, ok := a.boxes.find(id); ok {
		if held.Kind != containerizer.Standalone {
			return 0, nil, badRequest("Container %s belongs to an executor", id)
		}
		return http.StatusAccepted, nil, nil
	}
	cfg := containerizer.Config{
		ID: id, Kind: containerizer.Standalone, Command: l.GetCommand(), Container: l.GetContainer(), Resources: l.GetResources(),
		Directory: a.layout.StandaloneSandbox(id), Checkpoint: true,
	}
	if os.Geteuid() == 0 && a.cfg.SwitchUser {
		cfg.User = l.GetCommand().GetUser()
	}
	setLimits(&cfg, l.GetLimits())
	env := a.baseEnvironment()
	env.set("MESOS_SANDBOX", seenSandbox(cfg.Container, cfg.Directory))
	env.set("MESOS_DIRECTORY", cfg.Directory)
	a.taskVariables(env, cfg.Resources)
	env.add(l.GetCommand().GetEnvironment())
	cfg.Environment = env.list()
	if err := makeSandbox(cfg.Directory, cfg.User); err != nil {
		return 0, nil, badRequest("%v", err)
	}
	a.files.Attach(cfg.Directory, cfg.Directory, a.allow("access_sandboxes", ""))
	return a.launched(ctx, cfg)
}

func (a *Agent) waitContainer(ctx context.Context, id ids.Container, t agentv1.Call_Type) (int, *agentv1.Response, error) {
	w, err := a.boxes.wait(ctx, id)
	if err != nil {
		return 0, nil, err
	}
	if t == agentv1.Call_WAIT_NESTED_CONTAINER {
		return http.StatusOK, &agentv1.Response{Type: agentv1.Response_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &agentv1.Response_WaitNestedContainer{
			ExitStatus: w.ExitStatus, State: w.State, Reason: w.Reason, Limitation: w.Limitation, Message: w.Message,
		}}, nil
	}
	return http.StatusOK, &agentv1.Response{Type: agentv1.Response_WAIT_CONTAINER.Enum(), WaitContainer: w}, nil
}

func (a *Agent) killContainer(id ids.Container, signal int32) (int, *agentv1.Response, error) {
	info, ok := a.boxes.find(id)
	if !ok || info.Ended {
		return 0, nil, fmt.Errorf("Container %s cannot be found (or is already killed): %w", id, containerizer.ErrNotFound) //nolint:staticcheck // Mesos' own words
	}
	if signal < 0 || signal > 64 {
		return 0, nil, badRequest("%d is no signal", signal)
	}
	if err := a.boxes.signal(id, int(signal)); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nil, nil
}

func (a *Agent) removeContainer(ctx context.Context, id ids.Container) (int, *agentv1.Response, error) {
	info, ok := a.boxes.find(id)
	if !ok {
		return http.StatusOK, nil, nil // gone already: removing twice is no error (Mesos: the call is idempotent)
	}
	if !info.Ended {
		return 0, nil, &apiError{http.StatusInternalServerError, fmt.Sprintf("Container %s has not terminated yet", id)}
	}
	if err := a.boxes.remove(ctx, id); err != nil && !errors.Is(err, containerizer.ErrNotFound) {
		return 0, nil, err
	}
	if info.Kind == containerizer.Standalone {
		a.files.Detach(info.Directory)
		if err := os.RemoveAll(filepath.Clean(info.Directory)); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusOK, nil, nil
}
