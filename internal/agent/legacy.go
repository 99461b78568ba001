package agent

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/version"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// The agent's older endpoints (facts 3.5): hand-made shapes with "slave" names, in the order in which Mesos writes them.

type writer = mesosjson.Writer

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

func member(w *writer, key string, m proto.Message) {
	w.Key(key)
	if w.Message(m) != nil {
		w.Raw([]byte("null"))
	}
}

// model writes sums of resources by name.
func model(w *writer, key string, r resources.Resources) {
	w.Key(key).BeginObject()
	for _, v := range r.ModelValues() {
		w.Key(v.Name)
		if v.IsText {
			w.String(v.Text)
		} else {
			w.Float(v.Number)
		}
	}
	w.EndObject()
}

func byRole(w *writer, key string, m map[string]resources.Resources) {
	w.Key(key).BeginObject()
	for _, role := range slices.Sorted(maps.Keys(m)) {
		model(w, role, m[role])
	}
	w.EndObject()
}

func fullList(w *writer, key string, r resources.Resources) {
	w.Key(key).BeginArray()
	for _, p := range r.ProtoForEndpoints() {
		if w.Message(p) != nil {
			w.Raw([]byte("null"))
		}
	}
	w.EndArray()
}

func labels(w *writer, l *mesosv1.Labels) {
	w.Key("labels").BeginArray()
	for _, label := range l.GetLabels() {
		w.BeginObject()
		w.Key("key").String(label.GetKey())
		if label.Value != nil {
			w.Key("value").String(label.GetValue())
		}
		w.EndObject()
	}
	w.EndArray()
}

func allocationRole(list []*mesosv1.Resource) string {
	if len(list) == 0 {
		return ""
	}
	return list[0].GetAllocationInfo().GetRole()
}

func taskJSON(w *writer, t *mesosv1.Task) {
	w.BeginObject()
	w.Key("id").String(t.GetTaskId().GetValue())
	w.Key("name").String(t.GetName())
	w.Key("framework_id").String(t.GetFrameworkId().GetValue())
	w.Key("executor_id").String(t.GetExecutorId().GetValue())
	w.Key("slave_id").String(t.GetAgentId().GetValue())
	w.Key("state").String(t.GetState().String())
	model(w, "resources", resources.FromProtoTrusted(t.GetResources()))
	if len(t.GetLimits()) > 0 {
		w.Key("limits").BeginObject()
		for _, name := range slices.Sorted(maps.Keys(t.GetLimits())) {
			w.Key(name).Float(t.GetLimits()[name].GetValue())
		}
		w.EndObject()
	}
	w.Key("role").String(allocationRole(t.GetResources()))
	w.Key("statuses").BeginArray()
	for _, s := range t.GetStatuses() {
		w.BeginObject()
		w.Key("state").String(s.GetState().String())
		w.Key("timestamp").Float(s.GetTimestamp())
		if s.Labels != nil {
			labels(w, s.GetLabels())
		}
		if s.ContainerStatus != nil {
			member(w, "container_status", s.GetContainerStatus())
		}
		if s.Healthy != nil {
			w.Key("healthy").Bool(s.GetHealthy())
		}
		w.EndObject()
	}
	w.EndArray()
	if t.User != nil {
		w.Key("user").String(t.GetUser())
	}
	if t.Labels != nil {
		labels(w, t.GetLabels())
	}
	if t.Discovery != nil {
		member(w, "discovery", t.GetDiscovery())
	}
	if t.Container != nil {
		member(w, "container", t.GetContainer())
	}
	if t.HealthCheck != nil {
		member(w, "health_check", t.GetHealthCheck())
	}
	w.EndObject()
}

func (a *Agent) executorJSON(w *writer, e *core.ExecutorView) {
	w.BeginObject()
	w.Key("id").String(string(e.Run.Executor))
	w.Key("name").String(e.Info.GetName())
	w.Key("source").String(e.Info.GetSource())
	w.Key("container").String(string(e.Run.Container))
	w.Key("directory").String(e.Directory)
	model(w, "resources", e.Resources)
	w.Key("role").String(executorRole(e))
	if e.Info.Labels != nil {
		labels(w, e.Info.GetLabels())
	}
	if e.Info.Type != nil {
		w.Key("type").String(e.Info.GetType().String())
	}
	taskList := func(key string, tasks []*core.TaskView, want ...core.TaskPhase) {
		w.Key(key).BeginArray()
		for _, t := range tasks {
			if slices.Contains(want, t.Phase) {
				taskJSON(w, t.Task)
			}
		}
		w.EndArray()
	}
	taskList("tasks", e.Tasks, core.TaskDelivered)
	taskList("queued_tasks", e.Tasks, core.TaskQueued)
	// Terminated ones whose updates await acknowledgement count as completed, as with Mesos.
	taskList("completed_tasks", slices.Concat(e.Completed, e.Tasks), core.TaskCompleted, core.TaskTerminated)
	w.EndObject()
}

func executorRole(e *core.ExecutorView) string {
	if role := allocationRole(e.Info.GetResources()); role != "" {
		return role
	}
	for _, t := range slices.Concat(e.Tasks, e.Completed) {
		if role := allocationRole(t.Task.GetResources()); role != "" {
			return role
		}
	}
	return ""
}

func (a *Agent) frameworkJSON(w *writer, f *core.FrameworkView) {
	w.BeginObject()
	w.Key("id").String(f.Info.GetId().GetValue())
	w.Key("name").String(f.Info.GetName())
	w.Key("user").String(f.Info.GetUser())
	w.Key("failover_timeout").Float(f.Info.GetFailoverTimeout())
	w.Key("checkpoint").Bool(f.Info.GetCheckpoint())
	w.Key("hostname").String(f.Info.GetHostname())
	if f.Info.Principal != nil {
		w.Key("principal").String(f.Info.GetPrincipal())
	}
	multi := false
	for _, c := range f.Info.GetCapabilities() {
		multi = multi || c.GetType() == mesosv1.FrameworkInfo_Capability_MULTI_ROLE
	}
	if multi {
		w.Key("roles").BeginArray()
		for _, role := range f.Info.GetRoles() {
			w.String(role)
		}
		w.EndArray()
	} else {
		w.Key("role").String(f.Info.GetRole())
	}
	w.Key("executors").BeginArray()
	for _, e := range f.Executors {
		a.executorJSON(w, e)
	}
	w.EndArray()
	w.Key("completed_executors").BeginArray()
	for _, e := range f.Completed {
		a.executorJSON(w, e)
	}
	w.EndArray()
	w.EndObject()
}

// stateEndpoint serves /state.
func (a *Agent) stateEndpoint(w http.ResponseWriter, r *http.Request) {
	v := a.look(w, r)
	if v == nil {
		return
	}
	var out writer
	out.BeginObject()
	writeVersion(&out)
	out.Key("start_time").Float(seconds(v.Started))
	out.Key("id").String(v.Info.GetId().GetValue())
	out.Key("pid").String("slave(1)@" + a.address)
	out.Key("hostname").String(v.Info.GetHostname())
	if v.Info.Domain != nil {
		member(&out, "domain", v.Info.GetDomain())
	}
	model(&out, "resources", v.Total)
	byRole(&out, "reserved_resources", v.Total.Reservations())
	model(&out, "unreserved_resources", v.Total.Unreserved())
	out.Key("reserved_resources_full").BeginObject()
	reserved := v.Total.Reservations()
	for _, role := range slices.Sorted(maps.Keys(reserved)) {
		fullList(&out, role, reserved[role])
	}
	out.EndObject()
	fullList(&out, "unreserved_resources_full", v.Total.Unreserved())
	byRole(&out, "reserved_resources_allocated", v.Used.Unallocate().Reservations())
	model(&out, "unreserved_resources_allocated", v.Used.Unallocate().Unreserved())
	out.Key("attributes").BeginObject()
	for _, attribute := range v.Info.GetAttributes() {
		attributeJSON(&out, attribute)
	}
	out.EndObject()
	if v.Master != nil {
		out.Key("master_hostname").String(v.Master.GetHostname())
	}
	out.Key("log_dir").String(a.cfg.LogDir)
	out.Key("flags")
	a.writeFlags(&out)
	principal := wire.PrincipalOf(r.Context())
	out.Key("frameworks").BeginArray()
	for _, f := range v.Frameworks {
		if a.deps.Authorizer.Allowed(principal, "view_frameworks", f.Info.GetUser()) {
			a.frameworkJSON(&out, f)
		}
	}
	out.EndArray()
	out.Key("completed_frameworks").BeginArray()
	for _, f := range v.Completed {
		if a.deps.Authorizer.Allowed(principal, "view_frameworks", f.Info.GetUser()) {
			a.frameworkJSON(&out, f)
		}
	}
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

func attributeJSON(w *writer, at *mesosv1.Attribute) {
	w.Key(at.GetName())
	switch at.GetType() {
	case mesosv1.Value_SCALAR:
		w.Float(at.GetScalar().GetValue())
	case mesosv1.Value_RANGES:
		var parts []string
		for _, x := range at.GetRanges().GetRange() {
			parts = append(parts, strconv.FormatUint(x.GetBegin(), 10)+"-"+strconv.FormatUint(x.GetEnd(), 10))
		}
		w.String("[" + strings.Join(parts, ", ") + "]")
	case mesosv1.Value_SET:
		w.String("{" + strings.Join(at.GetSet().GetItem(), ", ") + "}")
	default:
		w.String(at.GetText().GetValue())
	}
}

func versionInfo() *mesosv1.VersionInfo {
	return &mesosv1.VersionInfo{
		Version: proto.String(version.Mesos), BuildDate: proto.String("unknown"), BuildTime: proto.Float64(0),
		BuildUser: proto.String("orchestrator"), GitSha: proto.String(version.Revision()),
	}
}

func writeVersion(w *writer) {
	v := versionInfo()
	w.Key("version").String(v.GetVersion())
	w.Key("git_sha").String(v.GetGitSha())
	w.Key("build_date").String(v.GetBuildDate())
	w.Key("build_time").Float(v.GetBuildTime())
	w.Key("build_user").String(v.GetBuildUser())
}

func (a *Agent) versionEndpoint(w http.ResponseWriter, r *http.Request) {
	var out writer
	out.BeginObject()
	writeVersion(&out)
	out.Key("orchestrator_version").String(version.Version)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

func (a *Agent) writeFlags(w *writer) {
	w.BeginObject()
	for _, name := range slices.Sorted(maps.Keys(a.deps.Flags)) {
		w.Key(name).String(a.deps.Flags[name])
	}
	w.EndObject()
}

func (a *Agent) flagsEndpoint(w http.ResponseWriter, r *http.Request) {
	if !a.may(w, r, "view_flags", "") {
		return
	}
	var out writer
	out.BeginObject()
	out.Key("flags")
	a.writeFlags(&out)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// named is a container with what the core knows of its executor.
type named struct {
	info containerizer.Info
	ex   *core.ExecutorView
}

// executorContainers are the running containers of executors, by id.
func (a *Agent) executorContainers(v *core.View) []named {
	byID := map[ids.Container]*core.ExecutorView{}
	for _, f := range v.Frameworks {
		for _, e := range f.Executors {
			if e.Phase != core.ExecutorTerminated {
				byID[e.Run.Container] = e
			}
		}
	}
	var out []named
	for _, info := range a.boxes.boxes.Containers() {
		if e := byID[info.ID]; e != nil && !info.Ended {
			out = append(out, named{info, e})
		}
	}
	slices.SortFunc(out, func(x, y named) int { return strings.Compare(string(x.info.ID), string(y.info.ID)) })
	return out
}

func (a *Agent) containersEndpoint(w http.ResponseWriter, r *http.Request) {
	v := a.look(w, r)
	if v == nil || !a.may(w, r, "get_endpoints", "/containers") {
		return
	}
	var out writer
	out.BeginArray()
	for _, c := range a.executorContainers(v) {
		if want := r.URL.Query().Get("container_id"); want != "" && want != string(c.info.ID) {
			continue
		}
		out.BeginObject()
		out.Key("container_id").String(string(c.info.ID))
		out.Key("executor_id").String(string(c.ex.Run.Executor))
		out.Key("executor_name").String(c.ex.Info.GetName())
		out.Key("framework_id").String(string(c.ex.Run.Framework))
		out.Key("source").String(c.ex.Info.GetSource())
		if s, err := a.boxes.boxes.Usage(c.info.ID); err == nil {
			member(&out, "statistics", s)
		}
		if s, err := a.boxes.boxes.Status(c.info.ID); err == nil {
			member(&out, "status", a.boxes.withAddress(s, c.ex.Info.GetContainer()))
		}
		out.EndObject()
	}
	out.EndArray()
	wire.RespondJSON(w, r, out.Buf)
}

func (a *Agent) statisticsEndpoint(w http.ResponseWriter, r *http.Request) {
	v := a.look(w, r)
	if v == nil || !a.may(w, r, "get_endpoints", "/monitor/statistics") {
		return
	}
	var out writer
	out.BeginArray()
	for _, c := range a.executorContainers(v) {
		s, err := a.boxes.boxes.Usage(c.info.ID)
		if err != nil {
			continue // it has just ended
		}
		out.BeginObject()
		out.Key("executor_id").String(string(c.ex.Run.Executor))
		out.Key("executor_name").String(c.ex.Info.GetName())
		out.Key("framework_id").String(string(c.ex.Run.Framework))
		out.Key("source").String(c.ex.Info.GetSource())
		member(&out, "statistics", s)
		out.EndObject()
	}
	out.EndArray()
	wire.RespondJSON(w, r, out.Buf)
}

func (a *Agent) containerizerDebug(w http.ResponseWriter, r *http.Request) {
	if !a.may(w, r, "get_endpoints", "/containerizer/debug") {
		return
	}
	wire.RespondJSON(w, r, []byte(`{"pending":[]}`))
}

// loggingToggle is Mesos' /logging/toggle: without a level it shows the current one.
func (a *Agent) loggingToggle(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("level") == "" && q.Get("duration") == "" {
		wire.Error(w, http.StatusOK, strconv.Itoa(a.levels.verbosity()))
		return
	}
	if r.Method != http.MethodPost {
		wire.MethodNotAllowed(w, r, http.MethodPost)
		return
	}
	if !a.may(w, r, "set_log_level", "") {
		return
	}
	level, err := strconv.ParseUint(q.Get("level"), 10, 8)
	if err != nil {
		wire.Error(w, http.StatusBadRequest, "Expecting 'level=value' in query")
		return
	}
	if q.Get("duration") == "" {
		wire.Error(w, http.StatusBadRequest, "Expecting 'duration=value' in query")
		return
	}
	d, err := parseDuration(q.Get("duration"))
	if err != nil || d <= 0 {
		wire.Error(w, http.StatusBadRequest, "Expecting a positive 'duration' such as 5mins in query")
		return
	}
	if err := a.levels.set(int(level), d); err != nil {
		wire.Error(w, http.StatusConflict, err.Error())
		return
	}
	wire.Empty(w, http.StatusOK)
}

func (a *Agent) help(w http.ResponseWriter, r *http.Request) {
	var out writer
	out.BeginObject()
	out.Key("endpoints").BeginArray()
	for _, path := range slices.Sorted(maps.Keys(a.routeTable())) {
		out.String(path)
	}
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}
