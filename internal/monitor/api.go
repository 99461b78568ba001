package monitor

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/query"
	"github.com/orchestrator/orchestrator/internal/version"
)

type handler func(w http.ResponseWriter, r *http.Request, id identity) error

// route is one entry of the API: what answers, and the least role. The table is the whole of it; OpenAPI is made from it.
type route struct {
	method, path string
	role         Role
	run          handler
	summary      string
	body         string // an example, for OpenAPI
}

func (m *Monitor) table() []route {
	own := []route{
		{"GET", "/api/v1/session", RoleNone, m.session, "Who is logged in", ""},
		{"POST", "/api/v1/logout", RoleNone, m.logout, "End the session", ""},
		{"POST", "/api/v1/handover", RoleViewer, m.handOver, "Write the session down for a replica", ""},
		{"GET", "/api/v1/status", RoleViewer, m.status, "The monitor itself", ""},
		{"GET", "/api/v1/probes", RoleViewer, m.listProbes, "Probes and their collectors", ""},
		{"GET", "/api/v1/plugins", RoleViewer, m.listPlugins, "Plugins of the probes", ""},
		{"GET", "/api/v1/views", RoleViewer, m.listViews, "Kinds of views", ""},
		{"GET", "/api/v1/topology", RoleViewer, m.topology, "One picture", ""},
		{"GET", "/api/v1/live", RoleViewer, m.live, "Live pictures, events and series (WebSocket)", ""},
		{"GET", "/api/v1/events", RoleViewer, m.listEvents, "What has happened", ""},
		{"GET", "/api/v1/search", RoleViewer, m.search, "Search all nodes", ""},
		{"GET", "/api/v1/search/fields", RoleViewer, m.fields, "Fields that can be searched now", ""},
		{"GET", "/api/v1/nodes/{id}", RoleViewer, m.node, "One node", ""},
		{"GET", "/api/v1/nodes/{id}/series", RoleViewer, m.series, "A node's metrics over time", ""},
		{"GET", "/api/v1/nodes/{id}/processes", RoleViewer, m.pull("processes"), "A node's processes, now", ""},
		{"GET", "/api/v1/nodes/{id}/sockets", RoleViewer, m.pull("sockets"), "A node's sockets, now", ""},
		{"GET", "/api/v1/nodes/{id}/env", RoleOperator, m.pull("env"), "A node's environment, secrets masked", ""},
		{"GET", "/api/v1/nodes/{id}/inspect", RoleOperator, m.pull("inspect"), "The runtime's own description", ""},
		{"GET", "/api/v1/nodes/{id}/files", RoleOperator, m.pull("files", "path"), "A directory in a container", ""},
		{"GET", "/api/v1/nodes/{id}/file", RoleOperator, m.file, "A file in a container", ""},
		{"GET", "/api/v1/nodes/{id}/logs", RoleViewer, m.logFile, "A container's log as text", ""},
		{"POST", "/api/v1/nodes/{id}/controls/{control}", RoleOperator, m.control, "Do something to a node", `{"args":{}}`},
		{"POST", "/api/v1/controls", RoleOperator, m.bulk, "Do something to several nodes", `{"control":"stop","ids":[],"args":{},"dry_run":true}`},
		{"POST", "/api/containers/{id}/{control}", RoleOperator, m.containerControl, "Do something to a container, by its bare id", ""},
		{"GET", "/api/v1/logs", RoleViewer, m.logs, "Logs of several nodes (WebSocket)", ""},
		{"GET", "/api/v1/exec", RoleOperator, m.exec, "A terminal (WebSocket)", ""},
		{"GET", "/api/v1/saved", RoleViewer, m.listSaved, "Saved views", ""},
		{"POST", "/api/v1/saved", RoleViewer, m.putSaved, "Save a view", `{"name":"Hot web","shared":false,"view":"containers","options":{}}`},
		{"PUT", "/api/v1/saved/{id}", RoleViewer, m.putSaved, "Change a saved view", `{"name":"Hot web","shared":false,"view":"containers","options":{}}`},
		{"DELETE", "/api/v1/saved/{id}", RoleViewer, m.deleteSaved, "Delete a saved view", ""},
		{"GET", "/api/v1/replay", RoleViewer, m.replayRange, "What can be replayed", ""},
		{"GET", "/api/v1/users", RoleAdmin, m.listUsers, "Users", ""},
		{"PUT", "/api/v1/users/{name}", RoleAdmin, m.putUser, "Make or change a user", `{"role":"operator","password":"at least 8"}`},
		{"DELETE", "/api/v1/users/{name}", RoleAdmin, m.deleteUser, "Delete a user", ""},
		{"GET", "/api/v1/tokens", RoleAdmin, m.listTokens, "Tokens", ""},
		{"POST", "/api/v1/tokens", RoleAdmin, m.postToken, "Make a token", `{"name":"grafana","role":"viewer","kind":"user","ttl_seconds":0}`},
		{"DELETE", "/api/v1/tokens/{id}", RoleAdmin, m.deleteToken, "Delete a token", ""},
		{"GET", "/api/v1/audit", RoleAdmin, m.listAudit, "Who has done what", ""},
	}
	return append(own, m.scopeAPI.table()...)
}

// router is a ServeMux that remembers its patterns: a test walks them all, so that none is forgotten.
type router struct {
	http.ServeMux
	patterns []string
}

// HandleFunc adds a route.
func (r *router) HandleFunc(pattern string, f func(http.ResponseWriter, *http.Request)) {
	r.Handle(pattern, http.HandlerFunc(f))
}

// Handle adds a route.
func (r *router) Handle(pattern string, h http.Handler) {
	r.patterns = append(r.patterns, pattern)
	r.ServeMux.Handle(pattern, h)
}

func (m *Monitor) routes(page http.Handler) *router {
	mux := &router{}
	for _, rt := range m.table() {
		mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, r *http.Request) {
			id, err := m.allow(r, rt.role)
			if err == nil {
				held, leave := m.staying(r, id)
				defer leave()
				err = rt.run(w, held, id)
			}
			if err != nil {
				m.denied(r, id, rt, err)
				m.writeError(w, err)
			}
		})
	}
	mux.HandleFunc("GET /api/topology", func(w http.ResponseWriter, r *http.Request) {
		id, err := m.allow(r, RoleViewer)
		if err == nil {
			switch {
			case r.URL.Query().Get("view") != "":
				err = m.topology(w, r, id)
			case m.cfg.ScopeAPI:
				err = m.scopeAPI.list(w, r, id)
			default:
				err = m.listViews(w, r, id)
			}
		}
		if err != nil {
			m.writeError(w, err)
		}
	})
	m.scopeAPI.only(mux)
	mux.HandleFunc("POST /api/v1/login", m.login)
	mux.HandleFunc("GET /api/v1/openapi.json", m.openAPI)
	mux.HandleFunc("GET /api/v1/probe", m.serveProbe)
	if m.cfg.ScopeProbes != "off" {
		m.scopeRoutes(mux)
	}
	mux.HandleFunc("GET /metrics", m.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("/api/v1/proxy/", m.proxy)
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		m.writeError(w, fail("not_found", "no such route: "+r.Method+" "+r.URL.Path, "GET /api/v1/openapi.json lists them"))
	})
	mux.Handle("/", page)
	return mux
}

// denied audits what was refused because of the role.
func (m *Monitor) denied(r *http.Request, id identity, rt route, err error) {
	if a := asAPI(err); a.Code == "forbidden" && rt.role > RoleViewer {
		m.record(r, id, rt.method+" "+rt.path, r.PathValue("id"), "denied", a.Message, 0)
	}
}

// record writes an audit entry.
func (m *Monitor) record(r *http.Request, id identity, action, object, outcome, detail string, n int64) {
	e := auditEntry{At: m.hub.now().UnixMilli(), User: id.name, Role: id.role.String(), From: clientAddr(r), Action: action, Object: object, Outcome: outcome, Detail: detail, Bytes: n}
	if err := m.audit.add(e); err != nil {
		m.log.Error("audit failed", "err", err)
	}
}

func (m *Monitor) status(w http.ResponseWriter, _ *http.Request, _ identity) error {
	states := map[string]int{"connected": 0, "stale": 0, "lost": 0}
	for _, p := range m.probes.list() {
		p.mu.Lock()
		states[p.state]++
		p.mu.Unlock()
	}
	var counts map[string]int
	edges := 0
	m.estate.Read(func(r *estate.Reader) { counts, edges = r.Counts(), r.EdgeCount() })
	views, readers := m.hub.active()
	from, to := m.replaySpan()
	writeJSON(w, http.StatusOK, map[string]any{
		"version": version.Version, "now_ms": m.hub.now().UnixMilli(), "started_ms": m.started.UnixMilli(), "replica": m.cfg.ReplicaID, "replicas": m.replicas(),
		"probes": states, "entities": counts, "edges": edges, "views_active": views, "subscribers": readers, "auth": m.cfg.Auth,
		"cluster": map[string]bool{"master": m.cfg.Master != "", "marathon": m.cfg.Marathon != "", "zksync": m.cfg.ZkSync != ""},
		"replay":  map[string]int64{"from_ms": from, "to_ms": to},
	})
	return nil
}

func (m *Monitor) listProbes(w http.ResponseWriter, _ *http.Request, _ identity) error {
	type collector struct {
		Name    string `json:"name"`
		State   string `json:"state"`
		Message string `json:"message"`
	}
	out := []map[string]any{}
	for _, p := range m.probes.list() {
		p.mu.Lock()
		row := map[string]any{
			"id": p.id, "host": topology.HostID(p.hello.Hostname), "hostname": p.hello.Hostname, "version": p.hello.Version, "state": p.state,
			"connected_ms": p.connected.UnixMilli(), "last_ms": p.last.UnixMilli(), "lag_ms": max(0, m.hub.now().UnixMilli()-p.last.UnixMilli()),
			"clock_skew_ms": p.skew, "policy": p.hello.Policy, "scope": p.scope,
		}
		collectors, plugins := []collector{}, []map[string]string{}
		if s := p.status; s != nil {
			row["cpu_percent"], row["memory_bytes"], row["dropped"], row["interval_ms"] = s.CpuPercent, s.MemoryBytes, s.Dropped, s.IntervalMs
			for _, c := range s.Collectors {
				collectors = append(collectors, collector{c.Name, c.State, c.Message})
			}
			for _, c := range s.Plugins {
				plugins = append(plugins, map[string]string{"id": c.Name, "label": c.Label, "state": c.State, "message": c.Message})
			}
		}
		p.mu.Unlock()
		row["collectors"], row["plugins"] = collectors, plugins
		out = append(out, row)
	}
	writeJSON(w, http.StatusOK, map[string]any{"probes": out})
	return nil
}

func (m *Monitor) listViews(w http.ResponseWriter, _ *http.Request, _ identity) error {
	type row struct {
		ID      string            `json:"id"`
		Label   string            `json:"label"`
		Kind    string            `json:"kind"`
		Parent  string            `json:"parent"`
		Count   int               `json:"count"`
		Warn    int               `json:"warn"`
		Crit    int               `json:"crit"`
		Groups  []string          `json:"groups"`
		Options []view.Option     `json:"options"`
		Metrics []topology.Metric `json:"metrics"`
	}
	defs := view.Defs()
	out := make([]row, len(defs))
	m.estate.Read(func(r *estate.Reader) {
		count, warn, crit := map[string]int{}, map[string]int{}, map[string]int{}
		ids := map[string]map[string]bool{}
		add := func(kind, id string) {
			if ids[kind] == nil {
				ids[kind] = map[string]bool{}
			}
			ids[kind][id] = true
		}
		r.Entities(func(e *estate.Entity) bool {
			if e.Pseudo {
				return true
			}
			count[e.Kind]++
			switch e.Health {
			case estate.HealthWarn:
				warn[e.Kind]++
			case estate.HealthCrit:
				crit[e.Kind]++
			}
			add(e.Kind, e.ID)
			if e.Kind == topology.KindContainer || e.Kind == topology.KindPod {
				for _, p := range e.Parents {
					add(topology.KindOf(p), p)
				}
			}
			return true
		})
		plugins := r.Templates()
		for i, d := range defs {
			n := len(ids[d.Kind])
			out[i] = row{d.ID, d.Label, d.Kind, d.Parent, n, warn[d.Kind], crit[d.Kind], d.Groups, d.Options, append(topology.CatalogFor(d.Member), plugins...)}
		}
	})
	writeJSON(w, http.StatusOK, map[string]any{"views": out})
	return nil
}

// specOf reads a picture's options out of a query string.
func specOf(r *http.Request) (view.Spec, int64, error) {
	q := r.URL.Query()
	s := view.Spec{
		View: q.Get("view"), Query: q.Get("q"), Find: q.Get("find"), Group: q.Get("group"), Expand: q["expand"], Metric: q.Get("metric"),
		Size: q.Get("size"), Focus: q.Get("focus"), Layout: q.Get("layout"), Flows: q.Get("flows") == "true" || q.Get("flows") == "1", Opts: map[string]string{},
	}
	if s.View == "" {
		s.View = "containers"
	}
	var err error
	if v := q.Get("hops"); v != "" {
		if s.Hops, err = strconv.Atoi(v); err != nil {
			return s, 0, fail("bad_request", "hops is not a number", "")
		}
	}
	for k, v := range q {
		if name, ok := strings.CutPrefix(k, "opt."); ok && len(v) > 0 {
			s.Opts[name] = v[0]
		}
	}
	at := int64(0)
	if v := q.Get("at"); v != "" {
		if at, err = strconv.ParseInt(v, 10, 64); err != nil {
			return s, 0, fail("bad_request", "at is not a time in milliseconds", "")
		}
	}
	return s, at, nil
}

func (m *Monitor) topology(w http.ResponseWriter, r *http.Request, _ identity) error {
	spec, at, err := specOf(r)
	if err != nil {
		return err
	}
	var body []byte
	if at != 0 {
		body, err = m.replayFrame(spec, at)
	} else {
		body, err = m.hub.once(spec)
	}
	if err != nil {
		return err
	}
	body = append([]byte(`{"type":"frame","sub":0,`), body...)
	if r.URL.Query().Get("format") == "csv" || strings.Contains(r.Header.Get("Accept"), "text/csv") {
		return writeCSV(w, spec, body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	_, _ = w.Write(append(body, '\n'))
	return nil
}

// writeCSV turns the nodes of a frame into a table. Cells that a spreadsheet would take for formulas are quoted.
func writeCSV(w http.ResponseWriter, spec view.Spec, frame []byte) error {
	var f struct {
		Nodes struct {
			ID, Label, Minor, Kind, State, Reason []string
			N, Health                             []int
			M, Z                                  []*float64
		}
	}
	if err := json.Unmarshal(frame, &f); err != nil {
		return err
	}
	var buf bytes.Buffer
	c := csv.NewWriter(&buf)
	_ = c.Write([]string{"id", "label", "minor", "kind", "n", "state", "health", "reason", cmpOr(spec.Metric, "metric"), cmpOr(spec.Size, "size")})
	number := func(v *float64) string {
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'g', -1, 64)
	}
	safe := func(s string) string {
		if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
			return "'" + s
		}
		return s
	}
	n := &f.Nodes
	for i := range n.ID {
		_ = c.Write([]string{safe(n.ID[i]), safe(n.Label[i]), safe(n.Minor[i]), n.Kind[i], strconv.Itoa(n.N[i]), safe(n.State[i]), estate.Health(n.Health[i]).String(), safe(n.Reason[i]), number(n.M[i]), number(n.Z[i])})
	}
	c.Flush()
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="nodes.csv"`)
	_, _ = w.Write(buf.Bytes())
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// number reads a whole number out of the query, within bounds.
func number(r *http.Request, name string, otherwise, low, high int64) (int64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high {
		return 0, fail("bad_request", fmt.Sprintf("%s is not a number between %d and %d", name, low, high), "")
	}
	return n, nil
}

func (m *Monitor) listEvents(w http.ResponseWriter, r *http.Request, _ identity) error {
	limit, err := number(r, "limit", 100, 1, 1000)
	if err != nil {
		return err
	}
	before, err := number(r, "before", 0, 0, 1<<62)
	if err != nil {
		return err
	}
	list := m.events.Before(uint64(before), int(limit))
	if list == nil {
		list = []estate.Event{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"events": list})
	return nil
}

func (m *Monitor) search(w http.ResponseWriter, r *http.Request, _ identity) error {
	q, err := query.Parse(r.URL.Query().Get("q"))
	if err != nil {
		return fail("bad_request", err.Error(), "")
	}
	limit, err := number(r, "limit", 50, 1, 1000)
	if err != nil {
		return err
	}
	kind := ""
	if v := r.URL.Query().Get("view"); v != "" {
		def, ok := view.Find(v)
		if !ok {
			return fail("not_found", "no such view", "")
		}
		kind = def.Member
	}
	type result struct {
		ID     string        `json:"id"`
		Kind   string        `json:"kind"`
		Label  string        `json:"label"`
		Minor  string        `json:"minor"`
		State  string        `json:"state"`
		Health estate.Health `json:"health"`
		View   string        `json:"view"`
	}
	order := map[string]int{topology.KindHost: 1, topology.KindContainer: 2, topology.KindPod: 3, topology.KindService: 4, topology.KindProcess: 9}
	found := []result{}
	first := func(n int64) { // keeps those that come first
		slices.SortFunc(found, func(a, b result) int {
			return cmp.Or(cmp.Compare(order[a.Kind], order[b.Kind]), cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
		})
		found = found[:min(len(found), int(n))]
	}
	total := 0
	m.estate.Read(func(rd *estate.Reader) {
		rd.Entities(func(e *estate.Entity) bool {
			if kind != "" && e.Kind != kind || !q.Match(view.Doc{E: e}) {
				return true
			}
			total++
			if len(found) >= 10_000 { // all at once would be much for a moment
				first(limit)
			}
			minor := e.Hostname()
			if e.Kind == topology.KindHost {
				minor = ""
			}
			found = append(found, result{ID: e.ID, Kind: e.Kind, Label: e.Label, Minor: minor, State: e.State, Health: e.Health})
			return true
		})
	})
	first(limit)
	for i := range found {
		found[i].View = viewOf(found[i].Kind)
	}
	writeJSON(w, http.StatusOK, map[string]any{"total": total, "results": found})
	return nil
}

func viewOf(kind string) string {
	for _, d := range view.Defs() {
		if d.Kind == kind && d.Parent == "" {
			return d.ID
		}
	}
	return "hosts"
}

func (m *Monitor) fields(w http.ResponseWriter, r *http.Request, _ identity) error {
	kind := ""
	if v := r.URL.Query().Get("view"); v != "" {
		def, ok := view.Find(v)
		if !ok {
			return fail("not_found", "no such view", "")
		}
		kind = def.Member
	}
	type field struct {
		Name     string   `json:"name"`
		Kind     string   `json:"kind"`
		Format   string   `json:"format,omitempty"`
		Examples []string `json:"examples,omitempty"`
	}
	text := map[string]map[string]bool{}
	metrics := map[string]topology.Metric{}
	add := func(name, value string) {
		if text[name] == nil {
			if len(text) > 500 {
				return
			}
			text[name] = map[string]bool{}
		}
		if value != "" && len(text[name]) < 5 && len(value) < 100 {
			text[name][value] = true
		}
	}
	m.estate.Read(func(rd *estate.Reader) {
		rd.Entities(func(e *estate.Entity) bool {
			if kind != "" && e.Kind != kind || e.Pseudo {
				return true
			}
			add("kind", e.Kind)
			add("host", e.Hostname())
			add("health", e.Health.String())
			if e.State != "" {
				add("state", e.State)
			}
			for _, a := range e.Attrs {
				if a.Key != topology.AttrAddrs {
					add(a.Key, a.Value)
				}
			}
			for _, p := range e.Parents {
				k, v, _ := strings.Cut(p, ";")
				add(k, v)
			}
			for _, name := range e.MetricNames() {
				metrics[name] = rd.Template(name)
			}
			return true
		})
	})
	var out []field
	for name, values := range text {
		f := field{Name: name, Kind: "text"}
		for v := range values {
			f.Examples = append(f.Examples, v)
		}
		sort.Strings(f.Examples)
		out = append(out, f)
	}
	for name, t := range metrics {
		out = append(out, field{Name: name, Kind: "number", Format: t.Format})
	}
	for _, name := range []string{"ip", "port", "label", "id", "reason"} {
		if _, ok := text[name]; !ok {
			out = append(out, field{Name: name, Kind: "text"})
		}
	}
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	writeJSON(w, http.StatusOK, map[string]any{"fields": out})
	return nil
}

func (m *Monitor) listUsers(w http.ResponseWriter, _ *http.Request, _ identity) error {
	writeJSON(w, http.StatusOK, map[string]any{"users": m.accounts.users()})
	return nil
}

func (m *Monitor) putUser(w http.ResponseWriter, r *http.Request, id identity) error {
	var in struct{ Role, Password string }
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	u, err := m.accounts.putUser(r.PathValue("name"), in.Role, in.Password)
	if err != nil {
		return err
	}
	m.record(r, id, "user.put", u.Name, "ok", u.Role, 0)
	writeJSON(w, http.StatusOK, u)
	return nil
}

func (m *Monitor) deleteUser(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := m.accounts.deleteUser(r.PathValue("name")); err != nil {
		return err
	}
	m.record(r, id, "user.delete", r.PathValue("name"), "ok", "", 0)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (m *Monitor) listTokens(w http.ResponseWriter, _ *http.Request, _ identity) error {
	writeJSON(w, http.StatusOK, map[string]any{"tokens": m.accounts.tokens()})
	return nil
}

func (m *Monitor) postToken(w http.ResponseWriter, r *http.Request, id identity) error {
	var in struct {
		Name, Role, Kind string
		TTL              int64 `json:"ttl_seconds"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	t, s, err := m.accounts.newToken(in.Name, in.Role, in.Kind, in.TTL)
	if err != nil {
		return err
	}
	m.record(r, id, "token.make", t.ID, "ok", t.Kind+" "+t.Role+" "+t.Name, 0)
	writeJSON(w, http.StatusCreated, struct {
		token
		Secret string `json:"secret"`
	}{t, s})
	return nil
}

func (m *Monitor) deleteToken(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := m.accounts.deleteToken(r.PathValue("id")); err != nil {
		return err
	}
	m.record(r, id, "token.delete", r.PathValue("id"), "ok", "", 0)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (m *Monitor) listAudit(w http.ResponseWriter, r *http.Request, _ identity) error {
	limit, err := number(r, "limit", 100, 1, 1000)
	if err != nil {
		return err
	}
	before, err := number(r, "before", 0, 0, 1<<62)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"entries": m.audit.before(uint64(before), int(limit))})
	return nil
}

func (m *Monitor) listSaved(w http.ResponseWriter, _ *http.Request, id identity) error {
	writeJSON(w, http.StatusOK, map[string]any{"saved": m.accounts.saved(id.name)})
	return nil
}

func (m *Monitor) putSaved(w http.ResponseWriter, r *http.Request, id identity) error {
	var in Saved
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if _, ok := view.Find(in.View); !ok {
		return fail("bad_request", "no such view", "GET /api/v1/views lists them")
	}
	if len(in.Options) == 0 || string(in.Options) == "null" {
		in.Options = json.RawMessage("{}")
	}
	if in.Options[0] != '{' {
		return fail("bad_request", "options is not an object", "they are those of a subscription")
	}
	s, err := m.accounts.putSaved(r.PathValue("id"), id, in)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		status = http.StatusCreated
	}
	writeJSON(w, status, s)
	return nil
}

func (m *Monitor) deleteSaved(w http.ResponseWriter, r *http.Request, id identity) error {
	if err := m.accounts.deleteSaved(r.PathValue("id"), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
