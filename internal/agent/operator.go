package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// apiError is an answer other than success.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

func badRequest(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// httpStatus maps every error of this API to its status.
func httpStatus(err error) int {
	var api *apiError
	var launch *containerizer.LaunchError
	switch {
	case errors.As(err, &api):
		return api.status
	case errors.Is(err, containerizer.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, containerizer.ErrNotAttachable):
		return http.StatusBadRequest
	case errors.As(err, &launch):
		return http.StatusBadRequest
	case errors.Is(err, errStopping):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// operator is the v1 operator API (facts 3.2).
func (a *Agent) operator(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.Header.Get("Content-Type") == wire.MediaRecordIO {
		a.attachInput(w, r)
		return
	}
	call := &agentv1.Call{}
	if _, ok := wire.ReadCall(w, r, call, a.callOptions()); !ok {
		return
	}
	if err := validateCall(call); err != nil {
		wire.Error(w, http.StatusBadRequest, "Failed to validate agent::Call: "+err.Error())
		return
	}
	switch call.GetType() {
	case agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION:
		a.launchSession(w, r, call.GetLaunchNestedContainerSession())
		return
	case agentv1.Call_ATTACH_CONTAINER_OUTPUT:
		a.attachOutput(w, r, call.GetAttachContainerOutput().GetContainerId())
		return
	case agentv1.Call_ATTACH_CONTAINER_INPUT:
		wire.Error(w, http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of "+wire.MediaRecordIO+" for ATTACH_CONTAINER_INPUT")
		return
	}
	ct, ok := wire.Negotiate(r)
	if !ok {
		wire.NotAcceptable(w)
		return
	}
	status, answer, err := a.call(r, call)
	if err != nil {
		wire.Error(w, httpStatus(err), err.Error())
		return
	}
	if answer == nil {
		wire.Empty(w, status)
		return
	}
	wire.Respond(w, status, ct, answer)
}

// validateCall checks that what a call needs is there (Mesos: slave/validation.cpp, agent::call).
func validateCall(c *agentv1.Call) error {
	need := func(name string, there bool) error {
		if !there {
			return fmt.Errorf("Expecting '%s' to be present", name) //nolint:staticcheck // Mesos' own words
		}
		return nil
	}
	id := func(name string, m interface{ GetContainerId() *mesosv1.ContainerID }, there bool) error {
		if err := need(name, there); err != nil {
			return err
		}
		_, err := containerID(m.GetContainerId())
		return err
	}
	switch c.GetType() {
	case agentv1.Call_UNKNOWN:
		return need("type", false)
	case agentv1.Call_GET_METRICS:
		return need("get_metrics", c.GetMetrics != nil)
	case agentv1.Call_SET_LOGGING_LEVEL:
		return need("set_logging_level", c.SetLoggingLevel != nil)
	case agentv1.Call_LIST_FILES:
		return need("list_files", c.ListFiles != nil)
	case agentv1.Call_READ_FILE:
		return need("read_file", c.ReadFile != nil)
	case agentv1.Call_LAUNCH_NESTED_CONTAINER:
		return id("launch_nested_container", c.LaunchNestedContainer, c.LaunchNestedContainer != nil)
	case agentv1.Call_WAIT_NESTED_CONTAINER:
		return id("wait_nested_container", c.WaitNestedContainer, c.WaitNestedContainer != nil)
	case agentv1.Call_KILL_NESTED_CONTAINER:
		return id("kill_nested_container", c.KillNestedContainer, c.KillNestedContainer != nil)
	case agentv1.Call_REMOVE_NESTED_CONTAINER:
		return id("remove_nested_container", c.RemoveNestedContainer, c.RemoveNestedContainer != nil)
	case agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION:
		return id("launch_nested_container_session", c.LaunchNestedContainerSession, c.LaunchNestedContainerSession != nil)
	case agentv1.Call_ATTACH_CONTAINER_OUTPUT:
		return id("attach_container_output", c.AttachContainerOutput, c.AttachContainerOutput != nil)
	case agentv1.Call_LAUNCH_CONTAINER:
		return id("launch_container", c.LaunchContainer, c.LaunchContainer != nil)
	case agentv1.Call_WAIT_CONTAINER:
		return id("wait_container", c.WaitContainer, c.WaitContainer != nil)
	case agentv1.Call_KILL_CONTAINER:
		return id("kill_container", c.KillContainer, c.KillContainer != nil)
	case agentv1.Call_REMOVE_CONTAINER:
		return id("remove_container", c.RemoveContainer, c.RemoveContainer != nil)
	case agentv1.Call_ADD_RESOURCE_PROVIDER_CONFIG:
		return need("add_resource_provider_config", c.AddResourceProviderConfig != nil)
	case agentv1.Call_UPDATE_RESOURCE_PROVIDER_CONFIG:
		return need("update_resource_provider_config", c.UpdateResourceProviderConfig != nil)
	case agentv1.Call_REMOVE_RESOURCE_PROVIDER_CONFIG:
		return need("remove_resource_provider_config", c.RemoveResourceProviderConfig != nil)
	case agentv1.Call_MARK_RESOURCE_PROVIDER_GONE:
		return need("mark_resource_provider_gone", c.MarkResourceProviderGone != nil)
	}
	return nil
}

// call answers everything that is one question and one answer.
func (a *Agent) call(r *http.Request, c *agentv1.Call) (int, *agentv1.Response, error) {
	ctx := r.Context()
	who := wire.PrincipalOf(ctx)
	may := func(action, object string) error {
		if a.deps.Authorizer.Allowed(who, action, object) {
			return nil
		}
		return &apiError{http.StatusForbidden, "Not allowed: " + action}
	}
	answer := func(t agentv1.Response_Type, m *agentv1.Response) (int, *agentv1.Response, error) {
		m.Type = t.Enum()
		return http.StatusOK, m, nil
	}
	switch c.GetType() {
	case agentv1.Call_GET_HEALTH:
		return answer(agentv1.Response_GET_HEALTH, &agentv1.Response{GetHealth: &agentv1.Response_GetHealth{Healthy: proto.Bool(true)}})
	case agentv1.Call_GET_FLAGS:
		if err := may("view_flags", ""); err != nil {
			return 0, nil, err
		}
		m := &agentv1.Response_GetFlags{}
		for _, name := range slices.Sorted(maps.Keys(a.deps.Flags)) {
			m.Flags = append(m.Flags, &mesosv1.Flag{Name: proto.String(name), Value: proto.String(a.deps.Flags[name])})
		}
		return answer(agentv1.Response_GET_FLAGS, &agentv1.Response{GetFlags: m})
	case agentv1.Call_GET_VERSION:
		return answer(agentv1.Response_GET_VERSION, &agentv1.Response{GetVersion: &agentv1.Response_GetVersion{VersionInfo: versionInfo()}})
	case agentv1.Call_GET_METRICS:
		if _, err := a.view(ctx); err != nil {
			return 0, nil, err
		}
		m := &agentv1.Response_GetMetrics{}
		for _, v := range a.deps.Metrics.Snapshot() {
			m.Metrics = append(m.Metrics, &mesosv1.Metric{Name: proto.String(v.Name), Value: proto.Float64(v.Value)})
		}
		return answer(agentv1.Response_GET_METRICS, &agentv1.Response{GetMetrics: m})
	case agentv1.Call_GET_LOGGING_LEVEL:
		return answer(agentv1.Response_GET_LOGGING_LEVEL, &agentv1.Response{GetLoggingLevel: &agentv1.Response_GetLoggingLevel{Level: proto.Uint32(uint32(a.levels.verbosity()))}})
	case agentv1.Call_SET_LOGGING_LEVEL:
		if err := may("set_log_level", ""); err != nil {
			return 0, nil, err
		}
		d := time.Duration(c.GetSetLoggingLevel().GetDuration().GetNanoseconds())
		if d <= 0 {
			return 0, nil, badRequest("Expecting a positive 'duration'")
		}
		if err := a.levels.set(int(min(c.GetSetLoggingLevel().GetLevel(), 100)), d); err != nil {
			return 0, nil, &apiError{http.StatusConflict, err.Error()}
		}
		return http.StatusOK, nil, nil
	case agentv1.Call_LIST_FILES:
		return a.listFiles(who, c.GetListFiles())
	case agentv1.Call_READ_FILE:
		return a.readFile(who, c.GetReadFile())
	case agentv1.Call_GET_STATE, agentv1.Call_GET_FRAMEWORKS, agentv1.Call_GET_EXECUTORS, agentv1.Call_GET_TASKS, agentv1.Call_GET_AGENT, agentv1.Call_GET_OPERATIONS, agentv1.Call_GET_CONTAINERS:
		return a.query(r, c)
	case agentv1.Call_GET_RESOURCE_PROVIDERS:
		return answer(agentv1.Response_GET_RESOURCE_PROVIDERS, &agentv1.Response{GetResourceProviders: &agentv1.Response_GetResourceProviders{}})
	case agentv1.Call_ADD_RESOURCE_PROVIDER_CONFIG, agentv1.Call_UPDATE_RESOURCE_PROVIDER_CONFIG:
		return 0, nil, badRequest("This agent has no local resource providers: --resource_provider_config_dir is not supported")
	case agentv1.Call_REMOVE_RESOURCE_PROVIDER_CONFIG:
		return http.StatusOK, nil, nil // removing what is not there is no error (facts 3.2)
	case agentv1.Call_MARK_RESOURCE_PROVIDER_GONE:
		return 0, nil, &apiError{http.StatusNotFound, "Unknown resource provider " + c.GetMarkResourceProviderGone().GetResourceProviderId().GetValue()}
	case agentv1.Call_PRUNE_IMAGES:
		if err := may("prune_images", ""); err != nil {
			return 0, nil, err
		}
		return a.pruneImages(ctx, c.GetPruneImages())
	}
	return a.containerCall(ctx, who, c)
}

// pruneImages deletes the images that no container uses.
func (a *Agent) pruneImages(ctx context.Context, c *agentv1.Call_PruneImages) (int, *agentv1.Response, error) {
	excluded, err := excludedNames(c.GetExcludedImages())
	if err != nil {
		return 0, nil, badRequest("%v", err)
	}
	if a.images == nil {
		return http.StatusOK, nil, nil
	}
	done, err := a.images.Prune(ctx, excluded)
	if err != nil {
		return 0, nil, fmt.Errorf("Failed to prune images: %w", err) //nolint:staticcheck // Mesos' own words
	}
	a.log.Info("images pruned", "images", len(done.Images), "layers", done.Layers, "bytes", done.Bytes)
	return http.StatusOK, nil, nil
}

// query answers from a view.
func (a *Agent) query(r *http.Request, c *agentv1.Call) (int, *agentv1.Response, error) {
	v, err := a.view(r.Context())
	if err != nil {
		return 0, nil, err
	}
	if v.Phase <= core.Recovering {
		return 0, nil, &apiError{http.StatusServiceUnavailable, "Agent has not finished recovery"}
	}
	who := wire.PrincipalOf(r.Context())
	out := &agentv1.Response{}
	switch c.GetType() {
	case agentv1.Call_GET_STATE:
		out.Type = agentv1.Response_GET_STATE.Enum()
		out.GetState = &agentv1.Response_GetState{GetTasks: a.tasksOf(v, who), GetExecutors: a.executorsOf(v, who), GetFrameworks: a.frameworksOf(v, who)}
	case agentv1.Call_GET_FRAMEWORKS:
		out.Type, out.GetFrameworks = agentv1.Response_GET_FRAMEWORKS.Enum(), a.frameworksOf(v, who)
	case agentv1.Call_GET_EXECUTORS:
		out.Type, out.GetExecutors = agentv1.Response_GET_EXECUTORS.Enum(), a.executorsOf(v, who)
	case agentv1.Call_GET_TASKS:
		out.Type, out.GetTasks = agentv1.Response_GET_TASKS.Enum(), a.tasksOf(v, who)
	case agentv1.Call_GET_AGENT:
		m := &agentv1.Response_GetAgent{AgentInfo: v.Info, DrainConfig: v.Drain}
		if v.Drain != nil {
			m.EstimatedDrainStartTime = &mesosv1.TimeInfo{Nanoseconds: proto.Int64(v.DrainStart.UnixNano())}
		}
		out.Type, out.GetAgent = agentv1.Response_GET_AGENT.Enum(), m
	case agentv1.Call_GET_OPERATIONS:
		out.Type, out.GetOperations = agentv1.Response_GET_OPERATIONS.Enum(), &agentv1.Response_GetOperations{Operations: v.Operations}
	case agentv1.Call_GET_CONTAINERS:
		out.Type, out.GetContainers = agentv1.Response_GET_CONTAINERS.Enum(), a.containersOf(v, who, c.GetGetContainers())
	}
	return http.StatusOK, out, nil
}

// each visits the frameworks that the principal may see, live ones first.
func (a *Agent) each(v *core.View, who wire.Principal, f func(fw *core.FrameworkView, completed bool)) {
	for i, list := range [][]*core.FrameworkView{v.Frameworks, v.Completed} {
		for _, fw := range list {
			if a.deps.Authorizer.Allowed(who, "view_frameworks", fw.Info.GetUser()) {
				f(fw, i == 1)
			}
		}
	}
}

func (a *Agent) frameworksOf(v *core.View, who wire.Principal) *agentv1.Response_GetFrameworks {
	out := &agentv1.Response_GetFrameworks{}
	a.each(v, who, func(fw *core.FrameworkView, completed bool) {
		m := &agentv1.Response_GetFrameworks_Framework{FrameworkInfo: fw.Info}
		if completed {
			out.CompletedFrameworks = append(out.CompletedFrameworks, m)
		} else {
			out.Frameworks = append(out.Frameworks, m)
		}
	})
	return out
}

func (a *Agent) executorsOf(v *core.View, who wire.Principal) *agentv1.Response_GetExecutors {
	out := &agentv1.Response_GetExecutors{}
	a.each(v, who, func(fw *core.FrameworkView, _ bool) {
		for _, e := range fw.Executors {
			out.Executors = append(out.Executors, &agentv1.Response_GetExecutors_Executor{ExecutorInfo: e.Info})
		}
		for _, e := range fw.Completed {
			out.CompletedExecutors = append(out.CompletedExecutors, &agentv1.Response_GetExecutors_Executor{ExecutorInfo: e.Info})
		}
	})
	return out
}

func (a *Agent) tasksOf(v *core.View, who wire.Principal) *agentv1.Response_GetTasks {
	out := &agentv1.Response_GetTasks{}
	a.each(v, who, func(fw *core.FrameworkView, _ bool) {
		for _, e := range slices.Concat(fw.Executors, fw.Completed) {
			for _, t := range slices.Concat(e.Tasks, e.Completed) {
				switch t.Phase {
				case core.TaskQueued:
					out.QueuedTasks = append(out.QueuedTasks, t.Task)
				case core.TaskDelivered:
					out.LaunchedTasks = append(out.LaunchedTasks, t.Task)
				case core.TaskTerminated:
					out.TerminatedTasks = append(out.TerminatedTasks, t.Task)
				default:
					out.CompletedTasks = append(out.CompletedTasks, t.Task)
				}
			}
		}
	})
	return out
}

func (a *Agent) containersOf(v *core.View, who wire.Principal, c *agentv1.Call_GetContainers) *agentv1.Response_GetContainers {
	out := &agentv1.Response_GetContainers{}
	names := map[string]string{}
	a.each(v, who, func(fw *core.FrameworkView, _ bool) {
		for _, e := range fw.Executors {
			names[string(e.Run.Container)] = e.Info.GetName()
		}
	})
	for _, info := range a.boxes.boxes.Containers() {
		name, root := names[string(info.ID)]
		switch {
		case info.Ended:
			continue
		case root:
		case isNested(info.ID) && c.GetShowNested(), info.Kind == containerizer.Standalone && c.GetShowStandalone():
			name = names[string(rootOf(info.ID))]
		default:
			continue
		}
		m := &agentv1.Response_GetContainers_Container{ContainerId: containerMessage(info.ID)}
		if info.FrameworkID != "" {
			m.FrameworkId = &mesosv1.FrameworkID{Value: proto.String(string(info.FrameworkID))}
			m.ExecutorId = &mesosv1.ExecutorID{Value: proto.String(string(info.ExecutorID))}
			m.ExecutorName = &name
		}
		if s, err := a.boxes.boxes.Status(info.ID); err == nil {
			m.ContainerStatus = s
		}
		if s, err := a.boxes.boxes.Usage(info.ID); err == nil {
			m.ResourceStatistics = s
		}
		out.Containers = append(out.Containers, m)
	}
	return out
}

func (a *Agent) listFiles(who wire.Principal, c *agentv1.Call_ListFiles) (int, *agentv1.Response, error) {
	list, err := a.files.List(who.Name, c.GetPath())
	if err != nil {
		return 0, nil, &apiError{files.Status(err), err.Error()}
	}
	m := &agentv1.Response_ListFiles{}
	for _, f := range list {
		owner, group := f.Owner()
		m.FileInfos = append(m.FileInfos, &mesosv1.FileInfo{
			Path: proto.String(f.Path), Nlink: proto.Int32(int32(min(f.Links, 1<<31-1))), Size: proto.Uint64(uint64(f.Size)),
			Mtime: &mesosv1.TimeInfo{Nanoseconds: proto.Int64(f.MTime.UnixNano())}, Mode: proto.Uint32(unixMode(f.Mode)), Uid: &owner, Gid: &group,
		})
	}
	return http.StatusOK, &agentv1.Response{Type: agentv1.Response_LIST_FILES.Enum(), ListFiles: m}, nil
}

func (a *Agent) readFile(who wire.Principal, c *agentv1.Call_ReadFile) (int, *agentv1.Response, error) {
	length := int64(-1)
	if c.Length != nil {
		length = int64(min(c.GetLength(), uint64(files.MaxRead)))
	}
	offset := c.GetOffset()
	if offset > 1<<62 {
		return 0, nil, badRequest("offset %d is beyond any file", offset)
	}
	chunk, err := a.files.Read(who.Name, c.GetPath(), int64(offset), length)
	if err != nil {
		return 0, nil, &apiError{files.Status(err), err.Error()}
	}
	return http.StatusOK, &agentv1.Response{
		Type: agentv1.Response_READ_FILE.Enum(), ReadFile: &agentv1.Response_ReadFile{Size: proto.Uint64(uint64(chunk.Size)), Data: nonNil(chunk.Data)},
	}, nil
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
