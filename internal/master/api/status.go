package api

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/version"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// statusLimit bounds each table of the status page; the API gives all.
const statusLimit = 200

// statusData is what the page shows.
type statusData struct {
	Cluster, Version, ID, Address, Uptime string
	Agents                                []statusAgent
	Frameworks                            []statusFramework
	AgentCount, FrameworkCount, TaskCount int
	CPUs, CPUsUsed, Mem, MemUsed          string
	Limit                                 int
}

type statusAgent struct {
	ID, Hostname, URL, State, Resources, Used string
	Tasks                                     int
}

type statusFramework struct {
	ID, Name, Roles, State string
	Tasks, Offers          int
}

// statusPage serves /: a plain page without scripts.
func (s *Server) statusPage(w http.ResponseWriter, r *http.Request) {
	v := s.request(w, r)
	if v == nil {
		return
	}
	d := statusData{
		Cluster: s.opts.Cluster, Version: version.Version, ID: v.snap.Master.GetId(), Limit: statusLimit,
		Address: fmt.Sprintf("%s:%d", v.snap.Master.GetHostname(), v.snap.Master.GetPort()),
		Uptime:  s.opts.Now().Sub(v.snap.StartTime).Round(time.Second).String(),
	}
	var cpus, mem, cpusUsed, memUsed float64
	v.snap.Agents.Scan(func(id ids.Agent, a *core.AgentPage) bool {
		used := v.usedOn(id)
		cpus += a.Total.Scalar("cpus")
		mem += a.Total.Scalar("mem")
		cpusUsed += used.Scalar("cpus")
		memUsed += used.Scalar("mem")
		d.AgentCount++
		if len(d.Agents) < statusLimit {
			d.Agents = append(d.Agents, statusAgent{
				ID: string(id), Hostname: a.Info.GetHostname(), URL: "http://" + a.Address + "/", State: agentState(a),
				Resources: a.Total.String(), Used: used.String(), Tasks: a.Tasks,
			})
		}
		return true
	})
	for f := range v.frameworks(false) {
		d.FrameworkCount++
		n := 0
		if f.Tasks != nil {
			n = f.Tasks.Len()
		}
		d.TaskCount += n
		if len(d.Frameworks) < statusLimit {
			state := "disconnected"
			switch {
			case f.Connected && f.Active:
				state = "active"
			case f.Recovered:
				state = "recovered, waiting for its scheduler"
			}
			d.Frameworks = append(d.Frameworks, statusFramework{
				ID: string(f.ID), Name: f.Info.GetName(), Roles: fmt.Sprint(f.Roles), State: state, Tasks: n, Offers: len(f.Offers),
			})
		}
	}
	d.CPUs, d.CPUsUsed = fmt.Sprintf("%.1f", cpus), fmt.Sprintf("%.1f", cpusUsed)
	d.Mem, d.MemUsed = fmt.Sprintf("%.0f MB", mem), fmt.Sprintf("%.0f MB", memUsed)
	var page bytes.Buffer
	if err := statusTemplate.Execute(&page, d); err != nil {
		wire.Error(w, http.StatusInternalServerError, "The page could not be made: "+err.Error())
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	wire.RespondBytes(w, http.StatusOK, "text/html; charset=utf-8", page.Bytes())
}

func agentState(a *core.AgentPage) string {
	switch {
	case a.Drain.GetState() == mesosv1.DrainState_DRAINING:
		return "draining"
	case a.Drain.GetState() == mesosv1.DrainState_DRAINED:
		return "drained"
	case a.Deactivated:
		return "deactivated"
	case !a.Connected:
		return "disconnected"
	}
	return "active"
}

var statusTemplate = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{with .Cluster}}{{.}} – {{end}}master</title>
<style>body{font:14px/1.5 system-ui,sans-serif;margin:2rem;color:#222;max-width:80rem}table{border-collapse:collapse;width:100%;margin-bottom:2rem}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}code{font-size:12px}</style>
<h1>{{with .Cluster}}{{.}}{{else}}Cluster{{end}}</h1>
<p>Leading master <code>{{.ID}}</code> at {{.Address}}, version {{.Version}}, up {{.Uptime}}.
{{.AgentCount}} agents, {{.FrameworkCount}} frameworks, {{.TaskCount}} tasks; {{.CPUsUsed}} of {{.CPUs}} CPUs and {{.MemUsed}} of {{.Mem}} memory in use.</p>
<h2>Agents</h2>
<table><tr><th>Host<th>State<th>Tasks<th>Resources<th>Used<th>ID</tr>
{{range .Agents}}<tr><td><a href="{{.URL}}">{{.Hostname}}</a><td>{{.State}}<td>{{.Tasks}}<td>{{.Resources}}<td>{{.Used}}<td><code>{{.ID}}</code></tr>
{{else}}<tr><td colspan="6">No agent has registered. Start one with <code>orchestrator agent --master={{.Address}}</code>.</tr>{{end}}</table>
<h2>Frameworks</h2>
<table><tr><th>Name<th>State<th>Roles<th>Tasks<th>Offers<th>ID</tr>
{{range .Frameworks}}<tr><td>{{.Name}}<td>{{.State}}<td>{{.Roles}}<td>{{.Tasks}}<td>{{.Offers}}<td><code>{{.ID}}</code></tr>
{{else}}<tr><td colspan="6">No framework has subscribed.</tr>{{end}}</table>
<p>At most {{.Limit}} rows each. Everything: <a href="/state">/state</a>, <a href="/metrics">/metrics</a>, <a href="/help">/help</a>.</p>
</html>
`))
