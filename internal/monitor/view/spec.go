package view

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/query"
)

// Spec is what somebody wants to see.
type Spec struct {
	View   string            `json:"view"`
	Query  string            `json:"q"`
	Find   string            `json:"find"`
	Group  string            `json:"group"`
	Expand []string          `json:"expand"`
	Metric string            `json:"metric"`
	Size   string            `json:"size"`
	Focus  string            `json:"focus"`
	Hops   int               `json:"hops"`
	Layout string            `json:"layout"`
	Flows  bool              `json:"flows"`
	Opts   map[string]string `json:"opts"`
	// Raw is for who reads the picture with Each instead of following its differences: nothing is laid out or encoded, and edges
	// between two nodes that stand for the outside are kept.
	Raw bool `json:"-"`
}

// Limits of a spec.
const (
	maxExpand = 200
	maxHops   = 20
	// autoNodes is up to how many nodes nothing is grouped by itself, autoGroups how many groups a grouping may then have.
	autoNodes  = 2000
	autoGroups = 300
	// layeredNodes is up to how many nodes the layered layout is made.
	layeredNodes = 300
	// autoLayered is up to how many it is chosen by itself.
	autoLayered = 120
	// autoDense is up to how many edges a node it is: where everybody calls everybody there are no layers to see.
	autoDense = 3
)

// Option is a choice that a view offers.
type Option struct {
	ID      string   `json:"id"`
	Label   string   `json:"label"`
	Values  []string `json:"values"`
	Default string   `json:"default"`
}

// Def is a kind of view.
type Def struct {
	ID, Label, Kind, Parent string
	// Member is the kind of entity that makes the nodes: one each, or several a node when it is not Kind.
	Member  string
	Groups  []string
	Options []Option
}

var (
	optState    = Option{"state", "State", []string{"running", "stopped", "all"}, "running"}
	optSystem   = Option{"system", "System containers", []string{"hide", "show"}, "hide"}
	optLonely   = Option{"unconnected", "Unconnected", []string{"show", "hide"}, "show"}
	optProcess  = Option{"unconnected", "Unconnected", []string{"hide", "show"}, "hide"}
	optOutside  = Option{"pseudo", "Outside world", []string{"show", "hide"}, "show"}
	groupsOfBox = []string{"none", "auto", "host", "image", "app", "pod", "service", "framework", "agent", "namespace"}
)

// Defs lists the views. Views of labels ("label:<name>") are made on demand.
func Defs() []Def {
	boxOpts := []Option{optState, optSystem, optLonely, optOutside}
	of := func(id, label, kind string) Def {
		return Def{ID: id, Label: label, Kind: kind, Member: topology.KindContainer, Groups: []string{"none", "auto", "host", "namespace", "framework"}, Options: boxOpts}
	}
	return []Def{
		{ID: "processes", Label: "Processes", Kind: topology.KindProcess, Member: topology.KindProcess, Groups: []string{"none", "auto", "host", "container", "image", "app"}, Options: []Option{optProcess, optOutside}},
		{ID: "processes-by-name", Label: "by name", Kind: topology.KindProcess, Parent: "processes", Member: topology.KindProcess, Groups: []string{"none"}, Options: []Option{optProcess, optOutside}},
		{ID: "containers", Label: "Containers", Kind: topology.KindContainer, Member: topology.KindContainer, Groups: groupsOfBox, Options: boxOpts},
		{ID: "containers-by-image", Label: "by image", Kind: topology.KindImage, Parent: "containers", Member: topology.KindContainer, Groups: []string{"none"}, Options: boxOpts},
		{ID: "containers-by-hostname", Label: "by hostname", Kind: topology.KindContainer, Parent: "containers", Member: topology.KindContainer, Groups: []string{"none"}, Options: boxOpts},
		{ID: "hosts", Label: "Hosts", Kind: topology.KindHost, Member: topology.KindHost, Groups: []string{"none", "auto"}, Options: []Option{optLonely, optOutside}},
		of("pods", "Pods", topology.KindPod),
		of("controllers", "Controllers", topology.KindController),
		of("services", "Services", topology.KindService),
		of("tasks", "Tasks", topology.KindTask),
		of("apps", "Apps", topology.KindApp),
		of("frameworks", "Frameworks", topology.KindFramework),
		of("agents", "Agents", topology.KindAgent),
	}
}

// Find gives the definition of a view.
func Find(id string) (Def, bool) {
	for _, d := range Defs() {
		if d.ID == id {
			return d, true
		}
	}
	if name, ok := strings.CutPrefix(id, "label:"); ok && name != "" && len(name) <= 200 {
		return Def{
			ID: id, Label: "by " + name, Kind: topology.KindLabel, Parent: "containers", Member: topology.KindContainer, Groups: []string{"none"},
			Options: []Option{optState, optSystem, optLonely, optOutside},
		}, true
	}
	return Def{}, false
}

// Error is a spec that can't be shown; Code is the API's.
type Error struct{ Code, Message, Hint string }

func (e *Error) Error() string { return e.Message }

func bad(format string, args ...any) error {
	return &Error{Code: "bad_request", Message: fmt.Sprintf(format, args...)}
}

// parsed is a spec that was understood.
type parsed struct {
	Spec
	def         Def
	query, find *query.Expr
	expand      map[string]bool
}

// parse checks a spec and fills in what it leaves out.
func parse(s Spec) (*parsed, error) {
	def, ok := Find(s.View)
	if !ok {
		return nil, &Error{"not_found", fmt.Sprintf("no view %q", topology.Clean(s.View, 100)), "GET /api/v1/views lists them"}
	}
	p := &parsed{Spec: s, def: def, expand: map[string]bool{}}
	var err error
	if p.query, err = query.Parse(s.Query); err != nil {
		return nil, bad("q: %v", err)
	}
	if p.find, err = query.Parse(s.Find); err != nil {
		return nil, bad("find: %v", err)
	}
	if p.Group == "" {
		p.Group = "auto"
	}
	if !slices.Contains(def.Groups, p.Group) && p.Group != "auto" && (!strings.HasPrefix(p.Group, "label:") || len(p.Group) > 200) {
		return nil, bad("group: %q is none of %s", topology.Clean(p.Group, 100), strings.Join(def.Groups, ", "))
	}
	if len(s.Expand) > maxExpand {
		return nil, bad("expand: at most %d groups", maxExpand)
	}
	for _, g := range s.Expand {
		p.expand[g] = true
	}
	if p.Hops == 0 {
		p.Hops = 1
	}
	if p.Hops < 0 || p.Hops > maxHops {
		return nil, bad("hops: not between 1 and %d", maxHops)
	}
	if p.Layout == "" {
		p.Layout = "auto"
	}
	if !slices.Contains([]string{"auto", "layered", "force", "grid"}, p.Layout) {
		return nil, bad("layout: %q is none of auto, layered, force, grid", topology.Clean(p.Layout, 100))
	}
	opts := map[string]string{}
	for _, o := range def.Options {
		opts[o.ID] = o.Default
		if v, ok := s.Opts[o.ID]; ok {
			if !slices.Contains(o.Values, v) {
				return nil, bad("opts.%s: %q is none of %s", o.ID, topology.Clean(v, 100), strings.Join(o.Values, ", "))
			}
			opts[o.ID] = v
		}
	}
	p.Opts = opts
	return p, nil
}

// Key names the spec, so that all who want the same look at one view.
func (s Spec) Key() (string, error) {
	p, err := parse(s)
	if err != nil {
		return "", err
	}
	expand := slices.Clone(p.Expand)
	sort.Strings(expand)
	opts := make([]string, 0, len(p.Opts))
	for k, v := range p.Opts {
		opts = append(opts, k+"="+v)
	}
	sort.Strings(opts)
	hops := p.Hops
	if p.Focus == "" {
		hops = 0
	}
	return fmt.Sprintf("%q %q %q %q %q %q %q %q %d %q %v %v %q", p.View, p.Query, p.Find, p.Group, expand, p.Metric, p.Size, p.Focus, hops, p.Layout, p.Flows, p.Raw, opts), nil
}
