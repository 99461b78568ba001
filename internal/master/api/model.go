package api

import (
	"net"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// The JSON of the legacy endpoints (facts 3.5): hand-made shapes with "slave" names, in the order in which Mesos writes them.

type writer = mesosjson.Writer

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// message writes a message in Mesos' JSON; one that can't be written is shown as null rather than spoiling the whole answer.
func message(w *writer, key string, m proto.Message) {
	w.Key(key)
	if err := w.Message(m); err != nil {
		w.Raw([]byte("null"))
	}
}

// baseNames are always shown, and first.
var baseNames = [...]string{resources.CPUs, resources.GPUs, resources.Mem, resources.Disk}

// resourceObject writes sums by name. The common case, scalars of the four base names and at most one of any other resource,
// is added up without building Resources: there is one such object per task.
func resourceObject(w *writer, list []*mesosv1.Resource) {
	var sums [len(baseNames)]float64
	others := 0
	for _, r := range list {
		if r.GetType() == mesosv1.Value_SCALAR && r.Revocable == nil && r.Shared == nil {
			if at := baseIndex(r.GetName()); at >= 0 {
				sums[at] += r.GetScalar().GetValue()
				continue
			}
		}
		if others++; r.GetType() != mesosv1.Value_RANGES || r.Revocable != nil || r.Shared != nil || others > 1 || baseIndex(r.GetName()) >= 0 {
			modelObject(w, resources.FromProtoTrusted(list))
			return
		}
	}
	w.BeginObject()
	for i, name := range baseNames {
		w.Key(name).Float(round(sums[i]))
	}
	if others > 0 {
		for _, r := range list {
			if r.GetType() == mesosv1.Value_RANGES {
				w.Key(r.GetName())
				rangesText(w, r.GetRanges().GetRange())
			}
		}
	}
	w.EndObject()
}

func baseIndex(name string) int {
	for i, n := range baseNames {
		if n == name {
			return i
		}
	}
	return -1
}

// round takes the noise of adding binary fractions away: resources have a precision of a thousandth.
func round(v float64) float64 {
	const precision = 1000
	if scaled := v * precision; scaled < 1<<52 && scaled > -1<<52 {
		if scaled < 0 {
			return float64(int64(scaled-0.5)) / precision
		}
		return float64(int64(scaled+0.5)) / precision
	}
	return v
}

func rangesText(w *writer, ranges []*mesosv1.Value_Range) {
	buf := make([]byte, 0, 32)
	buf = append(buf, '[')
	for i, r := range ranges {
		if i > 0 {
			buf = append(buf, ", "...)
		}
		buf = strconv.AppendUint(buf, r.GetBegin(), 10)
		buf = append(buf, '-')
		buf = strconv.AppendUint(buf, r.GetEnd(), 10)
	}
	w.String(string(append(buf, ']')))
}

// modelObject is resourceObject for resources that are added up already.
func modelObject(w *writer, r resources.Resources) {
	w.BeginObject()
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

// resourceList writes full Resource messages.
func resourceList(w *writer, r resources.Resources) {
	w.BeginArray()
	for _, p := range r.ProtoForEndpoints() {
		if err := w.Message(p); err != nil {
			w.Raw([]byte("null"))
		}
	}
	w.EndArray()
}

// roleOf is the allocation role of a list: one task's resources are of one role.
func roleOf(list []*mesosv1.Resource) string {
	if len(list) == 0 {
		return ""
	}
	return list[0].GetAllocationInfo().GetRole()
}

func labels(w *writer, l *mesosv1.Labels) {
	w.BeginArray()
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

// taskWriter writes tasks. Most tasks in a row are alike (of one app), and what they have in common is encoded once.
type taskWriter struct {
	shape        core.TaskShape
	executor     string
	middle, tail writer // the members between state and statuses, and behind statuses
}

func (tw *taskWriter) write(w *writer, t *core.TaskPage) {
	if shape := t.Shape(); shape != tw.shape {
		tw.encode(shape)
	}
	w.BeginObject()
	w.Key("id").String(string(t.ID()))
	w.Key("name").String(t.Name())
	w.Key("framework_id").String(string(t.Framework()))
	w.Key("executor_id").String(tw.executor)
	w.Key("slave_id").String(string(t.Agent()))
	w.Key("state").String(t.State().String())
	w.Raw(tw.middle.Buf)
	w.Key("statuses").BeginArray()
	for st := range t.Statuses() {
		taskStatus(w, st)
	}
	w.EndArray()
	if len(tw.tail.Buf) > 0 {
		w.Raw(tw.tail.Buf)
	}
	w.EndObject()
}

func (tw *taskWriter) encode(shape core.TaskShape) {
	t := shape.Proto()
	tw.shape, tw.executor = shape, t.GetExecutorId().GetValue()
	tw.middle.Buf, tw.tail.Buf = tw.middle.Buf[:0], tw.tail.Buf[:0]
	w := &tw.middle
	w.Key("resources")
	resourceObject(w, t.GetResources())
	if len(t.GetLimits()) > 0 {
		w.Key("limits").BeginObject()
		for _, name := range baseNames {
			if v, ok := t.GetLimits()[name]; ok {
				w.Key(name).Float(v.GetValue())
			}
		}
		w.EndObject()
	}
	w.Key("role").String(roleOf(t.GetResources()))
	w = &tw.tail
	if t.User != nil {
		w.Key("user").String(t.GetUser())
	}
	if t.Labels != nil {
		w.Key("labels")
		labels(w, t.GetLabels())
	}
	if t.Discovery != nil {
		message(w, "discovery", t.GetDiscovery())
	}
	if t.Container != nil {
		message(w, "container", t.GetContainer())
	}
	if t.HealthCheck != nil {
		message(w, "health_check", t.GetHealthCheck())
	}
}

func taskStatus(w *writer, st *mesosv1.TaskStatus) {
	w.BeginObject()
	w.Key("state").String(st.GetState().String())
	w.Key("timestamp").Float(st.GetTimestamp())
	if st.Labels != nil {
		w.Key("labels")
		labels(w, st.GetLabels())
	}
	if st.ContainerStatus != nil {
		message(w, "container_status", st.GetContainerStatus())
	}
	if st.Healthy != nil {
		w.Key("healthy").Bool(st.GetHealthy())
	}
	w.EndObject()
}

func executor(w *writer, x core.ExecutorPage, framework string) {
	info := x.Info
	w.BeginObject()
	w.Key("executor_id").String(info.GetExecutorId().GetValue())
	w.Key("name").String(info.GetName())
	w.Key("framework_id").String(framework)
	w.Key("command")
	command(w, info.GetCommand())
	w.Key("resources")
	resourceObject(w, info.GetResources())
	if len(info.GetResources()) > 0 {
		w.Key("role").String(roleOf(info.GetResources()))
	}
	if info.Labels != nil {
		w.Key("labels")
		labels(w, info.GetLabels())
	}
	if info.Type != nil {
		w.Key("type").String(info.GetType().String())
	}
	w.Key("slave_id").String(string(x.Agent))
	w.EndObject()
}

func command(w *writer, c *mesosv1.CommandInfo) {
	w.BeginObject()
	if c != nil && c.Shell != nil {
		w.Key("shell").Bool(c.GetShell())
	}
	if c != nil && c.Value != nil {
		w.Key("value").String(c.GetValue())
	}
	w.Key("argv").BeginArray()
	for _, a := range c.GetArguments() {
		w.String(a)
	}
	w.EndArray()
	if c != nil && c.Environment != nil {
		message(w, "environment", c.GetEnvironment())
	}
	w.Key("uris").BeginArray()
	for _, u := range c.GetUris() {
		w.BeginObject()
		w.Key("value").String(u.GetValue())
		w.Key("executable").Bool(u.GetExecutable())
		w.EndObject()
	}
	w.EndArray()
	w.EndObject()
}

func offer(w *writer, o *core.OfferPage) {
	w.BeginObject()
	w.Key("id").String(string(o.ID))
	w.Key("framework_id").String(string(o.Framework))
	w.Key("allocation_info").BeginObject()
	w.Key("role").String(o.Role)
	w.EndObject()
	w.Key("slave_id").String(string(o.Agent))
	w.Key("resources")
	modelObject(w, o.Resources)
	w.EndObject()
}

// agentInfo writes what json(SlaveInfo) does, inside an open object.
func agentInfo(w *writer, info *mesosv1.AgentInfo) {
	w.Key("id").String(info.GetId().GetValue())
	w.Key("hostname").String(info.GetHostname())
	w.Key("port").Int(int64(info.GetPort()))
	w.Key("attributes").BeginObject()
	for _, a := range info.GetAttributes() {
		w.Key(a.GetName())
		switch a.GetType() {
		case mesosv1.Value_SCALAR:
			w.Float(a.GetScalar().GetValue())
		case mesosv1.Value_RANGES:
			rangesText(w, a.GetRanges().GetRange())
		case mesosv1.Value_SET:
			text := "{"
			for i, item := range a.GetSet().GetItem() {
				if i > 0 {
					text += ", "
				}
				text += item
			}
			w.String(text + "}")
		default:
			w.String(a.GetText().GetValue())
		}
	}
	w.EndObject()
	if info.Domain != nil {
		message(w, "domain", info.GetDomain())
	}
}

// agent writes the fields of a registered agent, inside an open object.
func (v *view) agent(w *writer, a *core.AgentPage) {
	agentInfo(w, a.Info)
	w.Key("pid").String("slave(1)@" + a.Address)
	w.Key("registered_time").Float(seconds(a.RegisteredTime))
	if !a.ReregisteredTime.IsZero() {
		w.Key("reregistered_time").Float(seconds(a.ReregisteredTime))
	}
	w.Key("resources")
	modelObject(w, a.Total)
	w.Key("used_resources")
	modelObject(w, v.usedOn(a.ID))
	w.Key("offered_resources")
	modelObject(w, offeredOn(a))
	w.Key("reserved_resources").BeginObject()
	reserved := a.Total.Reservations()
	for _, role := range sortedKeys(reserved) {
		if v.role(role) {
			w.Key(role)
			modelObject(w, reserved[role])
		}
	}
	w.EndObject()
	w.Key("unreserved_resources")
	modelObject(w, a.Total.Unreserved())
	w.Key("active").Bool(a.Active)
	w.Key("deactivated").Bool(a.Deactivated)
	w.Key("version").String(a.Version)
	w.Key("capabilities").BeginArray()
	for _, c := range a.Capabilities {
		w.String(c.String())
	}
	w.EndArray()
	if a.Drain != nil {
		message(w, "drain_info", a.Drain)
		if !a.DrainStartTime.IsZero() {
			w.Key("estimated_drain_start_time_seconds").Float(seconds(a.DrainStartTime))
		}
	}
}

func offeredOn(a *core.AgentPage) resources.Resources {
	var sum resources.Resources
	for _, o := range a.Offers {
		sum = sum.Add(o.Resources)
	}
	return sum
}

// frameworkSummary writes the fields that /state-summary has, inside an open object.
func (v *view) frameworkSummary(w *writer, f *core.FrameworkPage) (used, offered resources.Resources) {
	for _, r := range v.s.state.usedBy(f, v.pace) {
		used = used.Add(r)
	}
	for _, o := range f.Offers {
		offered = offered.Add(o.Resources)
	}
	w.Key("id").String(string(f.ID))
	w.Key("name").String(f.Info.GetName())
	w.Key("used_resources")
	modelObject(w, used)
	w.Key("offered_resources")
	modelObject(w, offered)
	w.Key("capabilities").BeginArray()
	for _, c := range f.Info.GetCapabilities() {
		w.String(c.GetType().String())
	}
	w.EndArray()
	w.Key("hostname").String(f.Info.GetHostname())
	w.Key("webui_url").String(f.Info.GetWebuiUrl())
	w.Key("active").Bool(f.Active)
	w.Key("connected").Bool(f.Connected)
	w.Key("recovered").Bool(f.Recovered)
	return used, offered
}

// frameworkObject writes a whole framework.
func (v *view) frameworkObject(w *writer, f *core.FrameworkPage) {
	w.BeginObject()
	used, offered := v.frameworkSummary(w, f)
	w.Key("user").String(f.Info.GetUser())
	w.Key("failover_timeout").Float(f.Info.GetFailoverTimeout())
	w.Key("checkpoint").Bool(f.Info.GetCheckpoint())
	w.Key("registered_time").Float(seconds(f.RegisteredTime))
	w.Key("unregistered_time").Float(seconds(f.UnregisteredTime))
	if f.Principal != "" {
		w.Key("principal").String(f.Principal)
	}
	w.Key("resources")
	modelObject(w, used.Add(offered))
	if !f.ReregisteredTime.IsZero() {
		w.Key("reregistered_time").Float(seconds(f.ReregisteredTime))
	}
	if isMultiRole(f.Info) {
		w.Key("roles").BeginArray()
		for _, r := range f.Info.GetRoles() {
			w.String(r)
		}
		w.EndArray()
	} else {
		w.Key("role").String(f.Info.GetRole())
	}
	v.taskLists(w, f)
	w.Key("offers").BeginArray()
	for _, o := range f.Offers {
		offer(w, o)
	}
	w.EndArray()
	w.Key("executors").BeginArray()
	for _, x := range f.Executors {
		if v.executor(f, x) {
			executor(w, x, string(f.ID))
		}
	}
	w.EndArray()
	if f.Info.Labels != nil {
		w.Key("labels")
		labels(w, f.Info.GetLabels())
	}
	if f.OfferConstraints != nil {
		message(w, "offer_constraints", f.OfferConstraints)
	}
	w.EndObject()
}

func isMultiRole(info *mesosv1.FrameworkInfo) bool {
	for _, c := range info.GetCapabilities() {
		if c.GetType() == mesosv1.FrameworkInfo_Capability_MULTI_ROLE {
			return true
		}
	}
	return false
}
