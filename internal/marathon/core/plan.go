package core

import (
	"slices"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// ActionKind is what a plan does to a spec.
type ActionKind string

// The kinds of actions, by the names that Marathon gives them for apps.
const (
	Start   ActionKind = "StartApplication"
	Stop    ActionKind = "StopApplication"
	Scale   ActionKind = "ScaleApplication"
	Restart ActionKind = "RestartApplication"
)

var podNames = map[ActionKind]string{Start: "StartPod", Stop: "StopPod", Scale: "ScalePod", Restart: "RestartPod"}

// Action is one kind of change to one spec.
type Action struct {
	Kind ActionKind `json:"kind"`
	ID   string     `json:"id"`
	Pod  bool       `json:"pod,omitempty"`
}

// Info is the action as the API shows it.
func (a Action) Info() ActionInfo {
	if a.Pod {
		return ActionInfo{Action: podNames[a.Kind], Pod: a.ID}
	}
	return ActionInfo{Action: string(a.Kind), App: a.ID}
}

// buildPlan lists the steps from one tree to another: what is removed stops, what is new starts with no instances, and then
// everything is scaled or replaced in the order of the dependencies of the new tree. stale says of a spec that is only
// scaled whether instances of an earlier configuration are left, because a deployment was abandoned: they are replaced too.
func buildPlan(from, to *spec.Root, stale func(*spec.Spec) bool) [][]Action {
	var stop, start []Action
	kinds := map[string]ActionKind{}
	var order []string
	for _, id := range to.Changed() {
		before, after := from.Get(id), to.Get(id)
		switch {
		case before == nil && after == nil:
		case after == nil:
			stop = append(stop, Action{Stop, id, before.Pod != nil})
		case before == nil:
			start = append(start, Action{Start, id, after.Pod != nil})
			kinds[id] = Scale
			order = append(order, id)
		default:
			kinds[id] = Scale
			if after.Instances() > 0 && (before.ConfigAt != after.ConfigAt || stale(after)) {
				kinds[id] = Restart
			}
			order = append(order, id)
		}
	}
	var steps [][]Action
	if len(stop) > 0 {
		steps = append(steps, stop)
	}
	if len(start) > 0 {
		steps = append(steps, start)
	}
	layers, _ := to.Layers(order)
	for _, layer := range layers {
		var actions []Action
		for _, id := range layer {
			actions = append(actions, Action{kinds[id], id, to.Get(id).Pod != nil})
		}
		steps = append(steps, actions)
	}
	return steps
}

// planIDs are the specs that a plan touches, apps and pods apart.
func planIDs(steps [][]Action) (apps, pods []string) {
	seen := map[string]bool{}
	for _, step := range steps {
		for _, a := range step {
			if seen[a.ID] {
				continue
			}
			seen[a.ID] = true
			if a.Pod {
				pods = append(pods, a.ID)
			} else {
				apps = append(apps, a.ID)
			}
		}
	}
	slices.Sort(apps)
	slices.Sort(pods)
	return apps, pods
}

func stepInfo(step []Action) StepInfo {
	s := StepInfo{Actions: make([]ActionInfo, 0, len(step))}
	for _, a := range step {
		s.Actions = append(s.Actions, a.Info())
	}
	return s
}
