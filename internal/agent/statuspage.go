package agent

import (
	"bytes"
	"html/template"
	"net/http"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/version"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// statusLimit bounds the table of the page; the API gives all.
const statusLimit = 500

type statusTask struct {
	ID, Name, Framework, Executor, State, Phase, Sandbox, Since string
}

type statusData struct {
	ID, Hostname, Address, Version, Phase, Master, Total, Used, Uptime, WorkDir string
	Draining                                                                    bool
	Off                                                                         map[string]string
	Tasks                                                                       []statusTask
	More                                                                        int
}

// statusPage serves /: a plain page without scripts.
func (a *Agent) statusPage(w http.ResponseWriter, r *http.Request) {
	v := a.look(w, r)
	if v == nil {
		return
	}
	d := statusData{
		ID: v.Info.GetId().GetValue(), Hostname: v.Info.GetHostname(), Address: a.address, Version: version.Version, Phase: v.Phase.String(),
		Total: v.Total.String(), Used: v.Used.Unallocate().String(), Uptime: time.Since(v.Started).Round(time.Second).String(),
		WorkDir: a.cfg.WorkDir, Draining: v.Drain != nil, Off: a.isolationOf(a.boxes.boxes),
	}
	if v.Master != nil {
		d.Master = v.Master.GetHostname()
	}
	add := func(e *core.ExecutorView, t *core.TaskView) {
		if len(d.Tasks) == statusLimit {
			d.More++
			return
		}
		row := statusTask{
			ID: t.Task.GetTaskId().GetValue(), Name: t.Task.GetName(), Framework: string(e.Run.Framework), Executor: string(e.Run.Executor),
			State: t.Task.GetState().String(), Phase: t.Phase.String(), Sandbox: e.Directory,
		}
		if s := t.Task.GetStatuses(); len(s) > 0 {
			row.Since = time.UnixMicro(int64(s[len(s)-1].GetTimestamp() * 1e6)).UTC().Format(time.RFC3339)
		}
		d.Tasks = append(d.Tasks, row)
	}
	a.each(v, wire.PrincipalOf(r.Context()), func(f *core.FrameworkView, _ bool) {
		for _, e := range f.Executors {
			for _, t := range e.Tasks {
				add(e, t)
			}
		}
	})
	a.each(v, wire.PrincipalOf(r.Context()), func(f *core.FrameworkView, _ bool) {
		for _, e := range f.Completed {
			for _, t := range e.Completed {
				add(e, t)
			}
		}
	})
	var body bytes.Buffer
	if err := statusTemplate.Execute(&body, d); err != nil {
		wire.Error(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	wire.RespondBytes(w, http.StatusOK, "text/html; charset=utf-8", body.Bytes())
}

var statusTemplate = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>agent {{.Hostname}}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:90rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}code{font-size:.9em}
dt{color:#555;float:left;clear:left;width:9rem}dd{margin:0 0 0 9rem}</style>
<h1>Agent {{.Hostname}}</h1>
<dl><dt>Id</dt><dd><code>{{or .ID "not registered yet"}}</code></dd><dt>Address</dt><dd>{{.Address}}</dd>
<dt>State</dt><dd>{{.Phase}}{{if .Draining}}, draining{{end}}{{with .Master}}; master {{.}}{{end}}</dd>
<dt>Resources</dt><dd><code>{{.Total}}</code></dd><dt>Used</dt><dd><code>{{or .Used "nothing"}}</code></dd>
<dt>Work directory</dt><dd><code>{{.WorkDir}}</code></dd><dt>Version</dt><dd>{{.Version}}, up {{.Uptime}}</dd></dl>
{{with .Off}}<h2>Isolation that is off here</h2><ul>{{range $name, $why := .}}<li><code>{{$name}}</code>: {{$why}}</li>{{end}}</ul>{{end}}
<h2>Tasks</h2>
{{if .Tasks}}<table><tr><th>Task</th><th>Name</th><th>Framework</th><th>Executor</th><th>State</th><th>Since</th><th>Sandbox</th></tr>
{{range .Tasks}}<tr><td><code>{{.ID}}</code></td><td>{{.Name}}</td><td><code>{{.Framework}}</code></td><td><code>{{.Executor}}</code></td><td>{{.State}}{{if eq .Phase "queued"}} (queued){{end}}</td><td>{{.Since}}</td>
<td><a href="/files/browse?path={{.Sandbox}}">files</a> <a href="/files/download?path={{.Sandbox}}/stdout">stdout</a> <a href="/files/download?path={{.Sandbox}}/stderr">stderr</a></td></tr>
{{end}}</table>{{with .More}}<p>and {{.}} more: see /state</p>{{end}}{{else}}<p>None.</p>{{end}}
</html>
`))
