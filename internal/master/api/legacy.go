package api

import (
	"cmp"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/btree"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/version"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// request is what the handlers of state begin with: the snapshot as the principal sees it, or an answer already given.
func (s *Server) request(w http.ResponseWriter, r *http.Request) *view {
	snap := s.leading(w, r)
	if snap == nil {
		return nil
	}
	return s.viewOf(snap, wire.PrincipalOf(r.Context()).Name)
}

// legacyState serves /state.
func (s *Server) legacyState(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	if !v.all() {
		wire.RespondJSON(w, r, v.stateBody(nil, v.pace))
		return
	}
	s.state.keepOnly(v.snap)
	body := s.state.whole.get(v.snap.Version, wire.AcceptsGzip(r), v.stateBody)
	defer body.release()
	body.Respond(w, r)
}

// stateBody appends the whole state (facts 3.5).
func (v *view) stateBody(buf []byte, pace *wire.Pace) []byte {
	s, snap := v.s, v.snap
	v.pace = pace
	w := &writer{Buf: buf}
	w.BeginObject()
	writeVersion(w)
	w.Key("start_time").Float(seconds(snap.StartTime))
	w.Key("elected_time").Float(seconds(snap.ElectedTime))
	w.Key("id").String(snap.Master.GetId())
	w.Key("pid").String(snap.Master.GetPid())
	w.Key("hostname").String(snap.Master.GetHostname())
	w.Key("capabilities").BeginArray()
	for _, c := range snap.Master.GetCapabilities() {
		w.String(c.GetType().String())
	}
	w.EndArray()
	active, inactive := 0, 0
	snap.Agents.Scan(func(_ ids.Agent, a *core.AgentPage) bool {
		if a.Active {
			active++
		} else {
			inactive++
		}
		return true
	})
	w.Key("activated_slaves").Float(float64(active))
	w.Key("deactivated_slaves").Float(float64(inactive))
	w.Key("unreachable_slaves").Float(float64(snap.UnreachableAgents.Len()))
	if snap.Master.Domain != nil {
		message(w, "domain", snap.Master.GetDomain())
	}
	w.Key("leader").String(snap.Master.GetPid())
	w.Key("leader_info").BeginObject()
	w.Key("id").String(snap.Master.GetId())
	w.Key("pid").String(snap.Master.GetPid())
	w.Key("port").Uint(uint64(snap.Master.GetPort()))
	w.Key("hostname").String(snap.Master.GetHostname())
	if snap.Master.Domain != nil {
		message(w, "domain", snap.Master.GetDomain())
	}
	w.EndObject()
	if v.all() || s.may(v.principal, actionViewFlags, "") {
		optional := func(name, value string) {
			if value != "" {
				w.Key(name).String(value)
			}
		}
		optional("cluster", s.opts.Cluster)
		optional("log_dir", s.opts.LogDir)
		optional("external_log_file", s.opts.ExternalLogFile)
		w.Key("flags")
		s.writeFlags(w)
	}
	n := 0
	w.Key("slaves").BeginArray()
	snap.Agents.Scan(func(_ ids.Agent, a *core.AgentPage) bool {
		w.BeginObject()
		if v.all() {
			w.Buf = append(w.Buf, v.agentJSON(a)...)
		} else {
			v.agent(w, a)
		}
		w.EndObject()
		if n++; n%64 == 0 {
			pace.Step() // as encode does
		}
		return true
	})
	w.EndArray()
	v.recoveredAgents(w, "")
	w.Key("frameworks").BeginArray()
	for f := range v.frameworks(false) {
		v.frameworkObject(w, f)
	}
	w.EndArray()
	v.completedFrameworks(w, "")
	w.Key("orphan_tasks").BeginArray()
	w.EndArray()
	w.Key("unregistered_frameworks").BeginArray()
	w.EndArray()
	w.EndObject()
	return w.Buf
}

func (v *view) recoveredAgents(w *writer, only string) {
	w.Key("recovered_slaves").BeginArray()
	v.snap.RecoveredAgents.Scan(func(id ids.Agent, info *mesosv1.AgentInfo) bool {
		if only == "" || only == string(id) {
			w.BeginObject()
			agentInfo(w, info)
			w.EndObject()
		}
		return true
	})
	w.EndArray()
}

func (v *view) completedFrameworks(w *writer, only string) {
	w.Key("completed_frameworks").BeginArray()
	for _, f := range v.snap.CompletedFrameworks {
		if v.framework(f) && (only == "" || only == string(f.ID)) {
			v.frameworkObject(w, f)
		}
	}
	w.EndArray()
}

// slaves serves /slaves.
func (s *Server) slaves(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	only := r.URL.Query().Get("slave_id")
	var out writer
	out.BeginObject()
	out.Key("slaves").BeginArray()
	v.snap.Agents.Scan(func(id ids.Agent, a *core.AgentPage) bool {
		if only != "" && only != string(id) {
			return true
		}
		out.BeginObject()
		v.agent(&out, a)
		out.Key("reserved_resources_full").BeginObject()
		reserved := a.Total.Reservations()
		for _, role := range sortedKeys(reserved) {
			if v.role(role) {
				out.Key(role)
				resourceList(&out, reserved[role])
			}
		}
		out.EndObject()
		out.Key("unreserved_resources_full")
		resourceList(&out, a.Total.Unreserved())
		out.Key("used_resources_full")
		resourceList(&out, v.usedOn(a.ID))
		out.Key("offered_resources_full")
		resourceList(&out, offeredOn(a))
		out.EndObject()
		return true
	})
	out.EndArray()
	v.recoveredAgents(&out, only)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// frameworks serves /frameworks.
func (s *Server) frameworks(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	only := r.URL.Query().Get("framework_id")
	var out writer
	out.BeginObject()
	out.Key("frameworks").BeginArray()
	for f := range v.frameworks(false) {
		if only == "" || only == string(f.ID) {
			v.frameworkObject(&out, f)
		}
	}
	out.EndArray()
	v.completedFrameworks(&out, only)
	out.Key("unregistered_frameworks").BeginArray()
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// stateSummary serves /state-summary: no tasks, but how many there are.
func (s *Server) stateSummary(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	type tally struct {
		states [32]int
		others map[string]bool
	}
	count := func(m map[string]*tally, key, other string, st mesosv1.TaskState) {
		t := m[key]
		if t == nil {
			t = &tally{others: map[string]bool{}}
			m[key] = t
		}
		t.states[int(st)&31]++
		t.others[other] = true
	}
	agents, fws := map[string]*tally{}, map[string]*tally{}
	for f := range v.frameworks(false) {
		add := func(_ ids.Task, t *core.TaskPage) bool {
			if v.task(f, t) {
				count(agents, string(t.Agent()), string(f.ID), t.State())
				count(fws, string(f.ID), string(t.Agent()), t.State())
			}
			return true
		}
		if f.Tasks != nil {
			f.Tasks.Scan(add)
		}
		if f.UnreachableTasks != nil {
			f.UnreachableTasks.Scan(add)
		}
		for _, t := range f.CompletedTasks {
			add("", t)
		}
	}
	var out writer
	counts := func(t *tally, others string) {
		if t == nil {
			t = &tally{}
		}
		for _, st := range summaryStates {
			out.Key(st.String()).Int(int64(t.states[st]))
		}
		out.Key(others).BeginArray()
		for _, id := range sortedKeys(t.others) {
			out.String(id)
		}
		out.EndArray()
	}
	out.BeginObject()
	out.Key("hostname").String(v.snap.Master.GetHostname())
	if s.opts.Cluster != "" {
		out.Key("cluster").String(s.opts.Cluster)
	}
	out.Key("slaves").BeginArray()
	v.snap.Agents.Scan(func(id ids.Agent, a *core.AgentPage) bool {
		out.BeginObject()
		v.agent(&out, a)
		counts(agents[string(id)], "framework_ids")
		out.EndObject()
		return true
	})
	out.EndArray()
	out.Key("frameworks").BeginArray()
	for f := range v.frameworks(false) {
		out.BeginObject()
		v.frameworkSummary(&out, f)
		counts(fws[string(f.ID)], "slave_ids")
		out.EndObject()
	}
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// summaryStates are the counts that /state-summary shows, in its order.
var summaryStates = []mesosv1.TaskState{
	mesosv1.TaskState_TASK_STAGING, mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_KILLING,
	mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_LOST,
	mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_UNREACHABLE,
}

// tasks serves /tasks: live, unreachable and completed tasks of live and completed frameworks, sorted by their first status.
func (s *Server) tasks(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	q := r.URL.Query()
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(q.Get(name)); err == nil {
			return n
		}
		return otherwise // Mesos ignores what is no number
	}
	limit, offset := number("limit", 100), number("offset", 0)
	onlyFramework, onlyTask := q.Get("framework_id"), q.Get("task_id")
	var list []*core.TaskPage
	for f := range v.frameworks(true) {
		if onlyFramework != "" && onlyFramework != string(f.ID) {
			continue
		}
		add := func(_ ids.Task, t *core.TaskPage) bool {
			if (onlyTask == "" || onlyTask == string(t.ID())) && v.task(f, t) {
				list = append(list, t)
			}
			return true
		}
		if f.Tasks != nil {
			f.Tasks.Scan(add)
		}
		if f.UnreachableTasks != nil {
			f.UnreachableTasks.Scan(add)
		}
		for _, t := range f.CompletedTasks {
			add("", t)
		}
	}
	ascending := q.Get("order") == "asc"
	first := make(map[*core.TaskPage]float64, len(list))
	for _, t := range list {
		first[t] = firstTimestamp(t)
	}
	slices.SortStableFunc(list, func(a, b *core.TaskPage) int {
		c := cmp.Compare(first[a], first[b])
		if !ascending {
			c = -c
		}
		return c
	})
	offset = min(max(offset, 0), len(list))
	list = list[offset:]
	if limit >= 0 {
		list = list[:min(limit, len(list))]
	}
	var out writer
	out.BeginObject()
	out.Key("tasks").BeginArray()
	var tw taskWriter
	for _, t := range list {
		tw.write(&out, t)
	}
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// firstTimestamp sorts tasks without a status before all others.
func firstTimestamp(t *core.TaskPage) float64 {
	if at, ok := t.FirstTimestamp(); ok {
		return at
	}
	return -1
}

// roles serves /roles.
func (s *Server) roles(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	var out writer
	out.BeginObject()
	out.Key("roles").BeginArray()
	for _, role := range v.roles() {
		out.BeginObject()
		out.Key("name").String(role.name)
		out.Key("weight").Float(role.weight)
		if q := role.quota; q != nil {
			out.Key("quota").BeginObject()
			out.Key("role").String(role.name)
			out.Key("guarantee")
			scalars(&out, q.GetGuarantees())
			out.Key("limit")
			scalars(&out, q.GetLimits())
			// What counts against the quota: what is reserved for the role, and what it uses beyond that.
			out.Key("consumed").BeginObject()
			consumed := role.reserved.Quantities().Add(role.allocated.Unreserved().NonRevocable().Quantities())
			for name, amount := range consumed.All() {
				out.Key(name).Float(amount.Float())
			}
			out.EndObject()
			out.EndObject()
		}
		out.Key("resources")
		modelObject(&out, role.allocated.Add(role.offered))
		out.Key("allocated")
		modelObject(&out, role.allocated)
		out.Key("offered")
		modelObject(&out, role.offered)
		out.Key("reserved")
		modelObject(&out, role.reserved)
		out.Key("frameworks").BeginArray()
		for _, id := range role.frameworks {
			out.String(string(id))
		}
		out.EndArray()
		out.EndObject()
	}
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

func scalars(w *writer, m map[string]*mesosv1.Value_Scalar) {
	w.BeginObject()
	for _, name := range sortedKeys(m) {
		w.Key(name).Float(m[name].GetValue())
	}
	w.EndObject()
}

// writeVersion writes what /version has, inside an open object.
func writeVersion(w *writer) {
	v := versionInfo()
	w.Key("version").String(v.GetVersion())
	w.Key("git_sha").String(v.GetGitSha())
	w.Key("build_date").String(v.GetBuildDate())
	w.Key("build_time").Float(v.GetBuildTime())
	w.Key("build_user").String(v.GetBuildUser())
}

func (s *Server) writeFlags(w *writer) {
	w.BeginObject()
	for _, name := range sortedKeys(s.opts.Flags) {
		w.Key(name).String(s.opts.Flags[name])
	}
	w.EndObject()
}

func (s *Server) version(w http.ResponseWriter, r *http.Request) {
	var out writer
	out.BeginObject()
	writeVersion(&out)
	out.Key("orchestrator_version").String(version.Version)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

func (s *Server) flags(w http.ResponseWriter, r *http.Request) {
	if !s.may(wire.PrincipalOf(r.Context()).Name, actionViewFlags, "") {
		wire.Error(w, http.StatusForbidden, "")
		return
	}
	var out writer
	out.BeginObject()
	out.Key("flags")
	s.writeFlags(&out)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) { wire.Empty(w, http.StatusOK) }

// redirect sends to the leader's root; it exists without anything below it.
func (s *Server) redirect(w http.ResponseWriter, _ *http.Request) {
	l := s.opts.Owner.Leadership()
	if l.Leader == nil {
		wire.Error(w, http.StatusServiceUnavailable, "No leader elected")
		return
	}
	w.Header().Set("Location", "//"+l.Leader.Address)
	wire.Empty(w, http.StatusTemporaryRedirect)
}

// systemStats serves /system/stats.json, which some dashboards read.
func (s *Server) systemStats(w http.ResponseWriter, r *http.Request) {
	var out writer
	out.BeginObject()
	stats := map[string]string{
		"system/load_1min": "avg_load_1min", "system/load_5min": "avg_load_5min", "system/load_15min": "avg_load_15min",
		"system/mem_total_bytes": "mem_total_bytes", "system/mem_free_bytes": "mem_free_bytes",
	}
	out.Key("cpus_total").Int(int64(runtime.NumCPU()))
	for _, m := range s.opts.Metrics.Snapshot() {
		if name, ok := stats[m.Name]; ok {
			out.Key(name).Float(m.Value)
		}
	}
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// registry serves /registrar(1)/registry: what must survive a crash of the leader.
func (s *Server) registry(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	var out writer
	out.BeginObject()
	out.Key("master").BeginObject()
	message(&out, "info", v.snap.Master)
	out.EndObject()
	out.Key("slaves").BeginObject()
	out.Key("slaves").BeginArray()
	v.snap.Agents.Scan(func(_ ids.Agent, a *core.AgentPage) bool {
		out.BeginObject()
		message(&out, "info", a.Info)
		if a.Drain != nil {
			message(&out, "drain_info", a.Drain)
		}
		if a.Deactivated {
			out.Key("deactivated").Bool(true)
		}
		out.EndObject()
		return true
	})
	v.snap.RecoveredAgents.Scan(func(_ ids.Agent, info *mesosv1.AgentInfo) bool {
		out.BeginObject()
		message(&out, "info", info)
		out.EndObject()
		return true
	})
	out.EndArray()
	out.EndObject()
	removed := func(key string, agents *btree.Map[ids.Agent, time.Time]) {
		out.Key(key).BeginObject()
		out.Key("slaves").BeginArray()
		agents.Scan(func(id ids.Agent, t time.Time) bool {
			out.BeginObject()
			out.Key("id").BeginObject()
			out.Key("value").String(string(id))
			out.EndObject()
			message(&out, "timestamp", timeInfo(t))
			out.EndObject()
			return true
		})
		out.EndArray()
		out.EndObject()
	}
	removed("unreachable", v.snap.UnreachableAgents)
	removed("gone", v.snap.GoneAgents)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// help lists the endpoints.
func (s *Server) help(w http.ResponseWriter, r *http.Request) {
	var out writer
	out.BeginObject()
	out.Key("endpoints").BeginArray()
	for _, path := range sortedKeys(s.routes) {
		out.String(path)
	}
	out.EndArray()
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}
