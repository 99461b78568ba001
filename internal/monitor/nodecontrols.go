package monitor

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/monitor/estate"
	"github.com/orchestrator/orchestrator/internal/topology"
)

const (
	maxBulk      = 500
	bulkParallel = 16
)

type controlArgs struct {
	Args map[string]any `json:"args"`
}

func (c controlArgs) text() (map[string]string, error) {
	if len(c.Args) > 50 {
		return nil, fail("bad_request", "too many arguments", "")
	}
	out := map[string]string{}
	for k, v := range c.Args {
		switch v := v.(type) {
		case string:
			out[k] = v
		case float64:
			out[k] = strconv.FormatFloat(v, 'f', -1, 64)
		case bool:
			out[k] = strconv.FormatBool(v)
		default:
			return nil, fail("bad_request", "argument "+k+" is neither text, number nor true or false", "")
		}
	}
	return out, nil
}

// patienceFor is how long a probe has for a control: a minute, and what a container is given to end by itself.
func patienceFor(args map[string]string) time.Duration {
	grace, _ := strconv.ParseUint(args["timeout"], 10, 16) // what is no number the probe refuses
	return time.Minute + time.Duration(grace)*time.Second
}

// act does one control, checked and audited.
func (m *Monitor) act(r *http.Request, who identity, id, control string, args map[string]string, dry bool) (label, message string, err error) {
	probe, label, _, offered, err := m.target(id)
	if err == nil {
		d := m.controlOf(control)
		switch {
		case who.role < d.role:
			err = fail("forbidden", "role "+who.role.String()+" may not run control "+control, "it needs the role "+d.role.String())
		case d.group == "logs" || d.group == "exec" || d.group == "host-exec":
			err = fail("bad_request", control+" is a stream", "use GET /api/v1/logs or /api/v1/exec")
		case !slices.Contains(offered, control):
			err = fail("conflict", label+" does not offer "+control+" now", "its state or the probe's policy does not allow it")
		}
	}
	if dry {
		return label, "would " + control, err
	}
	var body json.RawMessage
	if err == nil {
		body, err = m.probes.ask(r.Context(), probe, request{verb: control, node: id, who: who, args: args, timeout: patienceFor(args)})
	}
	detail := ""
	if err != nil {
		detail = asAPI(err).Message
	}
	m.record(r, who, "control."+control, id, outcome(err), detail, 0)
	if err != nil {
		return label, "", err
	}
	m.events.Add(estate.Event{At: m.hub.now().UnixMilli(), ID: id, Kind: topology.KindOf(id), Label: label, What: "control", To: control, Text: control + " by " + who.name, Severity: 1})
	var answer struct{ Message string }
	_ = json.Unmarshal(body, &answer)
	return label, answer.Message, nil
}

func (m *Monitor) control(w http.ResponseWriter, r *http.Request, who identity) error {
	var in controlArgs
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	args, err := in.text()
	if err != nil {
		return err
	}
	return m.doControl(w, r, who, r.PathValue("id"), r.PathValue("control"), args)
}

func (m *Monitor) doControl(w http.ResponseWriter, r *http.Request, who identity, id, control string, args map[string]string) error {
	_, message, err := m.act(r, who, id, control, args, false)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": id, "control": control, "ok": true, "message": message})
	return nil
}

// containerControl finds a container by its bare id.
func (m *Monitor) containerControl(w http.ResponseWriter, r *http.Request, who identity) error {
	bare := r.PathValue("id")
	var found []string
	m.estate.Read(func(rd *estate.Reader) {
		rd.Entities(func(e *estate.Entity) bool {
			if full := e.Attr(topology.AttrContainerID); e.Kind == topology.KindContainer && full != "" && (full == bare || len(bare) >= 12 && strings.HasPrefix(full, bare)) {
				found = append(found, e.ID)
			}
			return true
		})
	})
	switch len(found) {
	case 0:
		return fail("not_found", "no container with this id", "")
	case 1:
		return m.doControl(w, r, who, found[0], r.PathValue("control"), nil)
	}
	return fail("conflict", "several containers begin with this id", "give more of it")
}

func (m *Monitor) bulk(w http.ResponseWriter, r *http.Request, who identity) error {
	var in struct {
		controlArgs
		Control string   `json:"control"`
		IDs     []string `json:"ids"`
		DryRun  bool     `json:"dry_run"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	args, err := in.text()
	if err != nil {
		return err
	}
	if len(in.IDs) == 0 || len(in.IDs) > maxBulk || in.Control == "" {
		return fail("bad_request", "a control and 1 to 500 ids are needed", "")
	}
	type result struct {
		ID      string    `json:"id"`
		Label   string    `json:"label"`
		OK      bool      `json:"ok"`
		Message string    `json:"message,omitempty"`
		Error   *apiError `json:"error,omitempty"`
	}
	out := make([]result, len(in.IDs))
	var wg sync.WaitGroup
	slots := make(chan struct{}, bulkParallel)
	for i, id := range in.IDs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			label, message, err := m.act(r, who, id, in.Control, args, in.DryRun)
			out[i] = result{ID: id, Label: label, OK: err == nil}
			if err != nil {
				out[i].Error = asAPI(err)
			} else {
				out[i].Message = message
			}
		})
	}
	wg.Wait()
	writeJSON(w, http.StatusOK, map[string]any{"dry_run": in.DryRun, "results": out})
	return nil
}
