package monitor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/version"
)

// maxExported bounds the series of one scrape.
const maxExported = 50_000

// metrics is the Prometheus export: the monitor's own figures, and with ?entities=host,container the estate's newest values.
func (m *Monitor) metrics(w http.ResponseWriter, r *http.Request) {
	if !m.cfg.MetricsOpen {
		if _, err := m.allow(r, RoleViewer); err != nil {
			m.writeError(w, err)
			return
		}
	}
	var b strings.Builder
	gauge := func(name, help string, v float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s %s\n", name, help, name, name, strconv.FormatFloat(v, 'g', -1, 64))
	}
	counter := func(name, help string, v float64) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s counter\n%s %s\n", name, help, name, name, strconv.FormatFloat(v, 'g', -1, 64))
	}
	states := map[string]int{"connected": 0, "stale": 0, "lost": 0}
	for _, p := range m.probes.list() {
		p.mu.Lock()
		states[p.state]++
		p.mu.Unlock()
	}
	b.WriteString("# HELP orchestrator_monitor_probes Probes by state.\n# TYPE orchestrator_monitor_probes gauge\n")
	for _, s := range []string{"connected", "stale", "lost"} {
		fmt.Fprintf(&b, "orchestrator_monitor_probes{state=%q} %d\n", s, states[s])
	}
	var counts map[string]int
	edges, series := 0, 0
	m.estate.Read(func(rd *estate.Reader) { counts, edges, series = rd.Counts(), rd.EdgeCount(), rd.SeriesBytes() })
	b.WriteString("# HELP orchestrator_monitor_entities Entities by kind.\n# TYPE orchestrator_monitor_entities gauge\n")
	kinds := make([]string, 0, len(counts))
	for k := range counts {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		fmt.Fprintf(&b, "orchestrator_monitor_entities{kind=\"%s\"} %d\n", escapeLabel(k), counts[k])
	}
	gauge("orchestrator_monitor_edges", "Edges of the estate.", float64(edges))
	views, readers := m.hub.active()
	gauge("orchestrator_monitor_views", "Pictures that are kept up to date.", float64(views))
	gauge("orchestrator_monitor_subscribers", "Subscriptions to pictures.", float64(readers))
	gauge("orchestrator_monitor_sockets", "Open WebSockets of pages.", float64(m.sockets.Load()))
	counter("orchestrator_monitor_frames_total", "Frames received from probes.", float64(m.probes.frames.Load()))
	counter("orchestrator_monitor_received_bytes_total", "Bytes received from probes.", float64(m.probes.bytes.Load()))
	m.hub.mu.Lock()
	flushes, spent := m.hub.flushes, m.hub.spent
	m.hub.mu.Unlock()
	counter("orchestrator_monitor_flushes_total", "Rounds in which pictures were brought up to date.", float64(flushes))
	counter("orchestrator_monitor_flush_seconds_total", "Time spent in them.", spent.Seconds())
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	gauge("orchestrator_monitor_heap_bytes", "Heap in use.", float64(mem.HeapInuse))
	gauge("orchestrator_monitor_replay_bytes", "What the last hour takes, which can be replayed.", float64(m.recorder.Size()))
	gauge("orchestrator_monitor_series_bytes", "What the metrics of the last hour take.", float64(series))
	gauge("orchestrator_monitor_goroutines", "Goroutines.", float64(runtime.NumGoroutine()))
	if want := r.URL.Query().Get("entities"); want != "" {
		m.exportEntities(&b, strings.Split(want, ","))
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
}

var unitOf = map[string]string{
	topology.FormatPercent: "_percent", topology.FormatBytes: "_bytes", topology.FormatRate: "_bytes_per_second", topology.FormatMillis: "_milliseconds", topology.FormatCount: "",
}

func (m *Monitor) exportEntities(b *strings.Builder, kinds []string) {
	byName := map[string][]string{}
	n, left := 0, 0
	m.estate.Read(func(rd *estate.Reader) {
		var list []*estate.Entity
		rd.Entities(func(e *estate.Entity) bool {
			if slices.Contains(kinds, e.Kind) && !e.Stale {
				list = append(list, e)
			}
			return true
		})
		// In order, so that of more than is taken the same ones are in every scrape.
		slices.SortFunc(list, func(a, b *estate.Entity) int { return cmp.Compare(a.ID, b.ID) })
		for _, e := range list {
			ids := e.MetricNames()
			if left > 0 || n+len(ids) > maxExported {
				left += len(ids)
				continue
			}
			n += len(ids)
			for _, id := range ids {
				v, ok := e.Number(id)
				if !ok {
					continue
				}
				t := rd.Template(id)
				name := "orchestrator_" + metricName(e.Kind) + "_" + metricName(id) + unitOf[t.Format]
				byName[name] = append(byName[name], fmt.Sprintf("%s{host=\"%s\",%s=\"%s\",id=\"%s\"} %s\n", name, escapeLabel(e.Hostname()), labelName(e.Kind), escapeLabel(e.Label), escapeLabel(e.ID), strconv.FormatFloat(v, 'g', 6, 64)))
			}
		}
	})
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(b, "# TYPE %s gauge\n", name)
		lines := byName[name]
		slices.Sort(lines)
		for _, l := range lines {
			b.WriteString(l)
		}
	}
	if left > 0 {
		fmt.Fprintf(b, "# %d series are left out: name fewer kinds\n", left)
	}
}

func labelName(kind string) string {
	if kind == topology.KindHost {
		return "name" // host is there already
	}
	return metricName(kind)
}

func metricName(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
			return c
		}
		return '_'
	}, s)
}

func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

// openAPI describes the API, made from the table of routes.
func (m *Monitor) openAPI(w http.ResponseWriter, _ *http.Request) {
	paths := map[string]map[string]any{}
	for _, rt := range append(m.table(), route{"POST", "/api/v1/login", RoleNone, nil, "Log in", `{"user":"ana","password":"…"}`}) {
		op := map[string]any{
			"summary": rt.summary, "x-role": rt.role.String(),
			"responses": map[string]any{
				"200":     map[string]any{"description": "done", "content": map[string]any{"application/json": map[string]any{}}},
				"default": map[string]any{"description": "an error", "content": map[string]any{"application/json": map[string]any{"schema": map[string]string{"$ref": "#/components/schemas/Error"}}}},
			},
		}
		var params []map[string]any
		for part := range strings.SplitSeq(rt.path, "/") {
			if strings.HasPrefix(part, "{") {
				params = append(params, map[string]any{"name": strings.Trim(part, "{}"), "in": "path", "required": true, "schema": map[string]string{"type": "string"}})
			}
		}
		if params != nil {
			op["parameters"] = params
		}
		if rt.body != "" {
			op["requestBody"] = map[string]any{"content": map[string]any{"application/json": map[string]any{"example": json.RawMessage(rt.body)}}}
		}
		if paths[rt.path] == nil {
			paths[rt.path] = map[string]any{}
		}
		paths[rt.path][strings.ToLower(rt.method)] = op
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"openapi": "3.1.0", "info": map[string]string{"title": "Orchestrator monitor", "version": version.Version},
		"paths":    paths,
		"security": []map[string][]string{{"bearer": {}}, {"session": {}}},
		"components": map[string]any{
			"securitySchemes": map[string]any{"bearer": map[string]string{"type": "http", "scheme": "bearer"}, "session": map[string]string{"type": "apiKey", "in": "cookie", "name": sessionCookie}},
			"schemas": map[string]any{"Error": map[string]any{"type": "object", "properties": map[string]any{"error": map[string]any{"type": "object", "properties": map[string]any{
				"code": map[string]string{"type": "string"}, "message": map[string]string{"type": "string"}, "hint": map[string]string{"type": "string"},
			}}}}},
		},
	})
}
