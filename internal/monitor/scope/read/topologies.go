package read

import (
	"net/url"
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// desc is one topology of the list.
type desc struct {
	id, parent, name string
	rank             int
	hideIfEmpty      bool
	options          []group
	view             string // of internal/monitor/view; "" for what we never have
	kind             string // of the entities that its nodes are
	always           bool   // shown although no entity is of the kind
	namespaces       bool   // gets the option namespace where there are any
}

// group is an option of a topology.
type group struct {
	ID      string   `json:"id"`
	Default string   `json:"defaultValue"`
	Options []option `json:"options,omitempty"`
	Select  string   `json:"selectType,omitempty"`
	None    string   `json:"noneLabel,omitempty"`
}

// option is a value of an option. keep says which nodes it leaves, nil all of them; those that stand for the outside stay in any
// case, but for options that are about these.
type option struct {
	Value  string `json:"value"`
	Label  string `json:"label"`
	keep   func(*node) bool
	pseudo bool
}

// notPseudo leaves the Internet: it is no node that hides something of the estate.
func notPseudo(n *node) bool { return !n.pseudo || n.internet }

func stays(*node) bool { return true }

func pseudoGroup(what string) group {
	return group{ID: "pseudo", Default: "hide", Options: []option{
		{Value: "show", Label: "Show " + what},
		{Value: "hide", Label: "Hide " + what, keep: notPseudo, pseudo: true},
	}}
}

// descs lists the topologies: Scope's own, in the order in which sub-topologies come, then those that Scope has not.
func descs() []desc {
	boxes := []group{
		{ID: "system", Default: "application", Options: []option{
			{Value: "all", Label: "All"},
			{Value: "system", Label: "System containers", keep: func(n *node) bool { return n.system }},
			{Value: "application", Label: "Application containers", keep: func(n *node) bool { return !n.system }},
		}},
		{ID: "stopped", Default: "running", Options: []option{
			{Value: "stopped", Label: "Stopped containers", keep: func(n *node) bool { return n.stopped }},
			{Value: "running", Label: "Running containers", keep: func(n *node) bool { return !n.stopped }},
			{Value: "both", Label: "Both"},
		}},
		pseudoGroup("uncontained"),
	}
	lonely := []group{{ID: "unconnected", Default: "hide", Options: []option{
		{Value: "show", Label: "Show unconnected"},
		{Value: "hide", Label: "Hide unconnected", keep: func(n *node) bool { return n.connected }},
	}}}
	// We have neither volumes nor snapshots of them, so these hide nothing.
	storage := []group{
		{ID: "snapshot", Default: "hide", Options: []option{{Value: "show", Label: "Show snapshots"}, {Value: "hide", Label: "Hide snapshots", keep: stays}}},
		{ID: "storage", Default: "hide", Options: []option{{Value: "show", Label: "Show storage"}, {Value: "hide", Label: "Hide storage", keep: stays}}},
	}
	pods := []group{pseudoGroup("unmanaged")}
	return []desc{
		{id: "processes", name: "Processes", rank: 1, hideIfEmpty: true, options: lonely, view: "processes", kind: topology.KindProcess},
		{id: "processes-by-name", parent: "processes", name: "by name", hideIfEmpty: true, options: lonely, view: "processes-by-name", kind: topology.KindProcess},
		{id: "containers", name: "Containers", rank: 2, options: boxes, view: "containers", kind: topology.KindContainer, always: true, namespaces: true},
		{id: "containers-by-hostname", parent: "containers", name: "by DNS name", options: boxes, view: "containers-by-hostname", kind: topology.KindContainer, always: true, namespaces: true},
		{id: "containers-by-image", parent: "containers", name: "by image", options: boxes, view: "containers-by-image", kind: topology.KindImage, always: true, namespaces: true},
		{id: "pods", name: "Pods", rank: 3, hideIfEmpty: true, options: append(storage, pods...), view: "pods", kind: topology.KindPod, namespaces: true},
		{id: "kube-controllers", parent: "pods", name: "Controllers", hideIfEmpty: true, options: pods, view: "controllers", kind: topology.KindController, namespaces: true},
		{id: "services", parent: "pods", name: "Services", hideIfEmpty: true, options: pods, view: "services", kind: topology.KindService, namespaces: true},
		{id: "ecs-tasks", name: "Tasks", rank: 3, hideIfEmpty: true, options: pods},
		{id: "ecs-services", parent: "ecs-tasks", name: "Services", hideIfEmpty: true, options: pods},
		{id: "swarm-services", name: "Services", rank: 3, hideIfEmpty: true, options: pods},
		{id: "hosts", name: "Hosts", rank: 4, view: "hosts", kind: topology.KindHost, always: true},
		{id: "weave", parent: "hosts", name: "Weave Net"},
		{id: "tasks", name: "Mesos tasks", rank: 3, hideIfEmpty: true, options: pods, view: "tasks", kind: topology.KindTask},
		{id: "apps", parent: "tasks", name: "Apps", hideIfEmpty: true, options: pods, view: "apps", kind: topology.KindApp},
		{id: "frameworks", parent: "tasks", name: "Frameworks", hideIfEmpty: true, options: pods, view: "frameworks", kind: topology.KindFramework},
		{id: "agents", parent: "tasks", name: "Agents", hideIfEmpty: true, options: pods, view: "agents", kind: topology.KindAgent},
	}
}

// find gives a topology by its id.
func find(id string) (*desc, bool) {
	list := descs()
	for i := range list {
		if list[i].id == id {
			return &list[i], true
		}
	}
	return nil, false
}

// spec is the picture that a topology is made of: everything, since options leave things out afterwards as they do in Scope, and
// so are no pictures of their own. What runs no more belongs to nothing above containers.
func (t *desc) spec() view.Spec {
	s := view.Spec{View: t.view, Group: "none", Layout: "grid", Raw: true, Opts: map[string]string{}}
	def, _ := view.Find(t.view)
	for _, o := range def.Options {
		switch o.ID {
		case "state":
			s.Opts[o.ID] = "all"
			if !t.always {
				s.Opts[o.ID] = "running"
			}
		case "system", "unconnected", "pseudo":
			s.Opts[o.ID] = "show"
		}
	}
	return s
}

// with gives the options of a topology in an estate with these namespaces.
func (t *desc) with(namespaces []string) []group {
	if !t.namespaces || len(namespaces) == 0 {
		return t.options
	}
	g := group{ID: "namespace", Select: "union", None: "All Namespaces"}
	for _, ns := range namespaces {
		g.Options = append(g.Options, option{Value: ns, Label: ns, keep: func(n *node) bool { return n.namespace == ns }})
	}
	return append(slices.Clone(t.options), g)
}

// filters gives what a request's options keep. Without any option in the request there is no filter, not even the
// defaults: so it is in Scope.
func filters(groups []group, asked url.Values) []func(*node) bool {
	if len(asked) == 0 {
		return nil
	}
	var out []func(*node) bool
	for _, g := range groups {
		value := g.Default
		if v := asked[g.ID]; len(v) > 0 {
			value = v[0]
		}
		values := []string{value}
		if g.Select == "union" {
			values = strings.Split(value, ",")
		}
		var either []func(*node) bool
		for _, o := range g.Options {
			if !slices.Contains(values, o.Value) {
				continue
			}
			switch {
			case o.keep == nil:
				either = append(either, stays)
			case o.pseudo:
				either = append(either, o.keep)
			default:
				either = append(either, func(n *node) bool { return n.pseudo || o.keep(n) })
			}
		}
		if len(either) > 0 {
			out = append(out, func(n *node) bool { return slices.ContainsFunc(either, func(f func(*node) bool) bool { return f(n) }) })
		}
	}
	return out
}
