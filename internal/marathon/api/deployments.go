package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

type currentAction struct {
	core.ActionInfo
	Readiness []readinessResult `json:"readinessCheckResults"`
}

type deploymentJSON struct {
	ID             string                 `json:"id"`
	Version        spec.Version           `json:"version"`
	AffectedApps   []string               `json:"affectedApps"`
	AffectedPods   []string               `json:"affectedPods"`
	Steps          []core.StepInfo        `json:"steps"`
	CurrentActions []currentAction        `json:"currentActions"`
	CurrentStep    int                    `json:"currentStep"`
	TotalSteps     int                    `json:"totalSteps"`
	Deadline       *spec.Version          `json:"deadline,omitempty"`
	Paused         string                 `json:"paused,omitempty"`
	Canary         map[string]core.Canary `json:"canary,omitempty"`
}

func (s *Server) listDeployments(r *request) (*answer, error) {
	out := []deploymentJSON{}
	for _, d := range r.snap.Deployments {
		out = append(out, deploymentOf(r.snap, d))
	}
	return jsonAnswer(http.StatusOK, out)
}

func deploymentOf(snap *core.Snapshot, d *core.Deployment) deploymentJSON {
	j := deploymentJSON{
		ID: d.ID, Version: d.Version, AffectedApps: orEmpty(d.AffectedApps), AffectedPods: orEmpty(d.AffectedPods), Steps: d.Info().Steps,
		CurrentActions: []currentAction{}, CurrentStep: d.CurrentStep, TotalSteps: len(d.Steps), Paused: d.Paused, Canary: d.Canary,
	}
	if d.Deadline != 0 {
		x := d.Deadline
		j.Deadline = &x
	}
	for _, a := range d.Current() {
		j.CurrentActions = append(j.CurrentActions, currentAction{a.Info(), readinessOf(snap.Instances(a.ID))})
	}
	return j
}

// getDeployment shows a deployment, or how it ended, which Marathon's API doesn't tell: whoever waits for one would have to read
// the event stream from before it began.
func (s *Server) getDeployment(r *request) (*answer, error) {
	id := strings.TrimPrefix(r.id, "/")
	for _, d := range r.snap.Deployments {
		if d.ID == id {
			return jsonAnswer(http.StatusOK, deploymentOf(r.snap, d))
		}
	}
	if o := r.snap.Outcome(id); o != nil {
		return jsonAnswer(http.StatusOK, struct {
			*core.Outcome
			Succeeded bool `json:"succeeded"`
		}{o, o.Reason == ""})
	}
	return nil, &core.NotFound{What: "DeploymentPlan " + id + " does not exist"}
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func (s *Server) cancelDeployment(r *request) (*answer, error) {
	force := r.flag("force", false)
	v, err := s.backend.Do(r.Context(), func(token any) core.Event {
		return core.CancelDeployment{Token: token, ID: strings.TrimPrefix(r.id, "/"), Force: force}
	})
	if err != nil {
		return nil, err
	}
	if force {
		return &answer{status: http.StatusAccepted}, nil
	}
	return deployed(http.StatusOK, v.(*core.Result), nil)
}

func (s *Server) resumeDeployment(r *request) (*answer, error) {
	_, err := s.backend.Do(r.Context(), func(token any) core.Event {
		return core.ResumeDeployment{Token: token, ID: strings.TrimPrefix(r.id, "/")}
	})
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent}, nil
}

type delayJSON struct {
	TimeLeft int  `json:"timeLeftSeconds"`
	Overdue  bool `json:"overdue"`
}

type offersSummary struct {
	Processed   int            `json:"processedOffersCount"`
	Unused      int            `json:"unusedOffersCount"`
	LastUnused  *spec.Version  `json:"lastUnusedOfferAt,omitempty"`
	LastUsed    *spec.Version  `json:"lastUsedOfferAt,omitempty"`
	LastOffers  []core.Rejects `json:"rejectSummaryLastOffers"`
	LastAttempt []core.Rejects `json:"rejectSummaryLaunchAttempt"`
}

type unusedOffer struct {
	Offer struct {
		ID       string `json:"id"`
		Hostname string `json:"hostname"`
		AgentID  string `json:"agentId"`
	} `json:"offer"`
	Reason    []core.Reason `json:"reason"`
	Detail    string        `json:"detail,omitempty"`
	Timestamp spec.Version  `json:"timestamp"`
}

type queueItem struct {
	App        *spec.App      `json:"app,omitempty"`
	Pod        *spec.Pod      `json:"pod,omitempty"`
	Count      int            `json:"count"`
	Role       string         `json:"role"`
	Delay      delayJSON      `json:"delay"`
	Since      spec.Version   `json:"since"`
	Summary    offersSummary  `json:"processedOffersSummary"`
	LastUnused *[]unusedOffer `json:"lastUnusedOffers,omitempty"`
}

func at(v spec.Version) *spec.Version {
	if v == 0 {
		return nil
	}
	return &v
}

func queueJSON(q core.QueueItem, unused bool) queueItem {
	j := queueItem{
		App: q.Spec.App, Pod: q.Spec.Pod, Count: q.Count, Role: q.Spec.Role(), Since: q.Since,
		Delay: delayJSON{TimeLeft: int((q.TimeLeft + time.Second - 1) / time.Second), Overdue: q.TimeLeft == 0},
		Summary: offersSummary{
			Processed: q.Stats.Processed, Unused: q.Stats.Unused, LastUnused: at(q.Stats.LastUnused), LastUsed: at(q.Stats.LastUsed),
			LastOffers: q.LastOffers, LastAttempt: q.LastAttempt,
		},
	}
	if unused {
		list := []unusedOffer{}
		for _, u := range q.Unused {
			x := unusedOffer{Reason: u.Reasons, Detail: u.Detail, Timestamp: u.At}
			x.Offer.ID, x.Offer.Hostname, x.Offer.AgentID = u.OfferID, u.Host, u.AgentID
			list = append(list, x)
		}
		j.LastUnused = &list
	}
	return j
}

func (s *Server) queue(r *request) (*answer, error) {
	v, err := s.backend.Do(r.Context(), func(token any) core.Event {
		return core.Inspect{Token: token, Look: func(m *core.Machine, _ time.Time) any { return m.Queue() }}
	})
	if err != nil {
		return nil, err
	}
	unused := false
	for _, e := range r.URL.Query()["embed"] {
		unused = unused || e == "lastUnusedOffers"
	}
	out := []queueItem{}
	for _, q := range v.([]core.QueueItem) {
		out = append(out, queueJSON(q, unused))
	}
	return jsonAnswer(http.StatusOK, struct {
		Queue []queueItem `json:"queue"`
	}{out})
}

func (s *Server) resetDelay(r *request) (*answer, error) {
	if _, err := s.backend.Do(r.Context(), func(token any) core.Event {
		return core.ResetDelay{Token: token, SpecID: r.id}
	}); err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent}, nil
}

// whyJSON says how far an app is from what it should be, and what is in the way.
type whyJSON struct {
	ID          string         `json:"id"`
	Wanted      int            `json:"wanted"`
	Running     int            `json:"running"`
	Healthy     int            `json:"healthy"`
	Waiting     int            `json:"waiting"`
	Reasons     []string       `json:"reasons"`
	Refused     []core.Rejects `json:"refusedOffers,omitempty"`
	Offers      []unusedOffer  `json:"lastUnusedOffers,omitempty"`
	Deployments []string       `json:"deployments"`
}

// maxReasons bounds how many instances are explained one by one.
const maxReasons = 50

// why answers the question why an app is not as it should be.
func (s *Server) why(r *request) (*answer, error) {
	sp := r.snap.Root.Get(r.id)
	if sp == nil {
		return nil, noApp(r.id)
	}
	v, err := s.backend.Do(r.Context(), func(token any) core.Event {
		return core.Inspect{Token: token, Look: func(m *core.Machine, _ time.Time) any {
			q, ok := m.QueueItem(r.id)
			if !ok {
				return nil
			}
			return &q
		}}
	})
	if err != nil {
		return nil, err
	}
	out := whyJSON{ID: r.id, Wanted: sp.Instances(), Reasons: []string{}, Deployments: []string{}}
	for _, i := range r.snap.Instances(r.id) {
		var c lifeCounts
		c.count(i)
		out.Running += c.Running
		out.Healthy += c.Healthy
		if len(out.Reasons) >= maxReasons {
			continue
		}
		switch {
		case i.Condition == core.Unreachable:
			out.Reasons = append(out.Reasons, fmt.Sprintf("%s is on agent %s, which is unreachable since %s", i.ID, i.AgentID, i.Since))
		case i.Condition == core.Staging || i.Condition == core.Provisioned || i.Condition == core.Starting:
			out.Reasons = append(out.Reasons, fmt.Sprintf("%s is %s on %s since %s", i.ID, strings.ToLower(string(i.Condition)), i.Host, i.Since))
		case i.Condition == core.Running && sp.HasHealthChecks() && i.Healthy == nil:
			out.Reasons = append(out.Reasons, fmt.Sprintf("%s runs, but no health check has succeeded yet", i.ID))
		case i.Condition == core.Running && i.Healthy != nil && !*i.Healthy:
			cause := ""
			for _, h := range i.Health {
				if !h.Alive {
					cause = ": " + h.LastFailureCause
				}
			}
			out.Reasons = append(out.Reasons, fmt.Sprintf("%s is unhealthy%s", i.ID, cause))
		case i.Condition == core.Running && sp.HasReadiness() && !i.Ready:
			out.Reasons = append(out.Reasons, fmt.Sprintf("%s is not ready yet", i.ID))
		}
	}
	if q, ok := v.(*core.QueueItem); ok && q != nil {
		out.Waiting = q.Count
		j := queueJSON(*q, true)
		out.Refused, out.Offers = q.LastOffers, *j.LastUnused
		if q.Blocked != "" {
			text := q.Blocked
			if q.TimeLeft > 0 {
				text += fmt.Sprintf(" for %v; DELETE /v2/queue%s/delay starts it at once", q.TimeLeft.Round(time.Second), r.id)
			}
			out.Reasons = append(out.Reasons, text)
		}
		for _, x := range q.LastOffers {
			if x.Declined > 0 {
				out.Reasons = append(out.Reasons, fmt.Sprintf("%d of the last %d agents that made an offer were refused for %s", x.Declined, len(q.Unused), x.Reason))
			}
		}
		switch {
		case q.Blocked != "":
		case q.Stats.Processed == 0:
			out.Reasons = append(out.Reasons, "no agent has made an offer for role "+sp.Role()+" since the instances began to wait")
		case q.Count > 0 && !slices.ContainsFunc(q.LastOffers, func(x core.Rejects) bool { return x.Declined > 0 }):
			// Offers that came before say nothing about those that wait now.
			out.Reasons = append(out.Reasons, "no agent makes an offer for role "+sp.Role()+" now: its nodes may be full, drained or away (see `orchestrator node ls`)")
		}
	}
	if f := r.snap.Failure(r.id); f != nil {
		out.Reasons = append(out.Reasons, fmt.Sprintf("the last failure was %s at %s on %s: %s", f.State, f.Timestamp, f.Host, firstLine(f.Message)))
	}
	for _, d := range r.snap.DeploymentsOf(r.id) {
		out.Deployments = append(out.Deployments, d.ID)
		if d.Paused != "" {
			out.Reasons = append(out.Reasons, fmt.Sprintf("deployment %s is paused: %s", d.ID, d.Paused))
		}
		for _, a := range d.Current() {
			if a.ID != r.id {
				out.Reasons = append(out.Reasons, fmt.Sprintf("deployment %s is at step %d of %d and waits for %s of %s", d.ID, d.CurrentStep, len(d.Steps), a.Kind, a.ID))
			}
		}
	}
	return jsonAnswer(http.StatusOK, out)
}

// firstLine is what a message says: an exhausted memory's goes on with pages of the kernel's account.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
