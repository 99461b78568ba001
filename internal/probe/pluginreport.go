package probe

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

// Limits of one plugin's report.
const (
	maxPluginReply     = 4 << 20
	maxPluginMarks     = 200_000 // members and elements: what bounds the memory that decoding takes
	maxPluginNodes     = 5000
	maxPluginAttrs     = 100 // a node
	maxPluginControls  = 20  // a node
	maxPluginMetrics   = 20  // a node
	maxPluginTemplates = 200
	maxPluginNames     = 50 // different metrics
)

// pluginNodeFound is what a plugin adds to one entity.
type pluginNodeFound struct {
	id       string // as the plugin calls it
	attrs    []*probev1.Attr
	controls []string
	metrics  []scope.Figure
}

// pluginFound is a report after it was checked and translated. It is not changed any more.
type pluginFound struct {
	nodes     map[string]*pluginNodeFound // by decorationKey
	templates []*probev1.Template         // sorted
	foreign   int                         // nodes that are of no kind or host that is known here
	cut       int                         // what was beyond a limit
	size      int
}

// decodePlugin reads a reply. The plugin's own word about itself is checked apart, because a shortcut report may lack it.
func decodePlugin(b []byte) (*scope.Report, error) {
	r, err := scope.DecodeJSON(b, scope.Limits{Depth: 32, Values: 2 * maxPluginMarks, Text: maxPluginReply, Nodes: maxPluginMarks})
	switch {
	case scope.TooLarge(err):
		return nil, fmt.Errorf("the reply has too much in it: %w", err)
	case err != nil:
		return nil, fmt.Errorf("the reply is not the JSON that it should be: %w", err)
	}
	return r, nil
}

// handshake checks what the plugin says of itself against the name of its socket.
func handshake(r *scope.Report, id string) (scope.PluginSpec, error) {
	if len(r.Plugins) != 1 {
		return scope.PluginSpec{}, fmt.Errorf("the report must describe exactly one plugin under Plugins, and describes %d", len(r.Plugins))
	}
	s := r.Plugins[0]
	switch {
	case s.ID != id:
		return s, fmt.Errorf("the plugin calls itself %q and its socket %q: the names must be the same", topology.Printable(s.ID, 64), id)
	case s.APIVersion != pluginAPIVersion:
		return s, fmt.Errorf("the plugin speaks version %q of the interface, this probe version %q", topology.Printable(s.APIVersion, 32), pluginAPIVersion)
	case s.Label == "":
		return s, errors.New("the plugin has no label")
	case !slices.Contains(s.Interfaces, "reporter"):
		return s, errors.New(`the plugin does not name "reporter" among its interfaces`)
	}
	s.Label, s.Description = topology.Printable(s.Label, 200), topology.Printable(s.Description, 500)
	s.Interfaces = slices.DeleteFunc(s.Interfaces, func(v string) bool { return v != "reporter" && v != "controller" })
	slices.Sort(s.Interfaces)
	s.Interfaces = slices.Compact(s.Interfaces)
	return s, nil
}

// pluginVerb is the control that the monitor asks for.
func pluginVerb(plugin, control string) string { return plugin + "~" + control }

// translator makes a reply into findings.
type translator struct {
	hosts    []string // names of this host
	hostname string   // the one that entities carry
	brought  scope.Brought
	out      *pluginFound
}

// translate makes a reply of a plugin into what it adds to this host's entities.
func (w *pluginWatch) translate(plugin string, r *scope.Report, size int, controller bool) *pluginFound {
	t := &translator{
		hosts: w.hosts, hostname: w.hosts[0], out: &pluginFound{nodes: map[string]*pluginNodeFound{}, size: size},
		brought: scope.Brought{
			Prefix: plugin, Attrs: maxPluginAttrs, Metrics: maxPluginMetrics, Controls: maxPluginControls, Names: maxPluginNames, Templates: maxPluginTemplates,
			Verb: func(control string) string {
				if !controller {
					return ""
				}
				return pluginVerb(plugin, control)
			},
		},
	}
	t.topology(r.Topologies[scope.Host], t.hostKey)
	t.topology(r.Topologies[scope.Container], t.containerKey)
	t.topology(r.Topologies[scope.Process], t.processKey)
	t.topology(r.Topologies[scope.Pod], func(id string) string {
		if uid := scope.Tagged(id, "pod"); uid != "" {
			return topology.ID(topology.KindPod, uid)
		}
		return ""
	})
	t.out.templates, t.out.cut = t.brought.List(), t.out.cut+t.brought.Cut
	return t.out
}

func (t *translator) hostKey(id string) string {
	if name := scope.Tagged(id, "host"); name != "" && slices.Contains(t.hosts, name) {
		return topology.HostID(t.hostname)
	}
	return ""
}

func (t *translator) containerKey(id string) string {
	if name := scope.Tagged(id, "container"); name != "" {
		return topology.ContainerID(t.hostname, name)
	}
	return ""
}

func (t *translator) processKey(id string) string {
	host, pid, ok := strings.Cut(id, ";")
	if n, err := strconv.ParseUint(pid, 10, 31); !ok || err != nil || n == 0 || !slices.Contains(t.hosts, host) {
		return ""
	}
	return topology.ID(topology.KindProcess, t.hostname, pid)
}

// decorationKey is the key under which findings about an entity are kept: its id, or of a process that without the start time,
// which plugins don't know.
func decorationKey(e *probev1.Entity) string {
	if e.Kind == topology.KindProcess {
		return e.Id[:strings.LastIndexByte(e.Id, ';')]
	}
	return e.Id
}

func (t *translator) topology(in *scope.Topology, key func(string) string) {
	if in == nil {
		return
	}
	shown := t.brought.In(in)
	for _, id := range slices.Sorted(maps.Keys(in.Nodes)) {
		k := key(id)
		if k == "" {
			t.out.foreign++
			continue
		}
		if len(t.out.nodes) >= maxPluginNodes {
			t.out.cut++
			continue
		}
		n := in.Nodes[id]
		t.out.nodes[k] = &pluginNodeFound{id: id, attrs: shown.Attrs(n), metrics: shown.Figures(n), controls: shown.Controls(n)}
	}
}

// with gives findings in which the nodes of a shortcut report stand in place of what they replace.
func (f *pluginFound) with(s *pluginFound) *pluginFound {
	out := &pluginFound{nodes: maps.Clone(f.nodes), foreign: f.foreign, cut: f.cut + s.cut, size: f.size + s.size}
	byID := map[string]*probev1.Template{}
	for _, list := range [][]*probev1.Template{f.templates, s.templates} {
		for _, x := range list {
			byID[scope.TemplateKey(x)] = x
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out.templates = append(out.templates, byID[id])
	}
	for key, n := range s.nodes {
		was := out.nodes[key]
		if was != nil {
			// A shortcut may tell only what has changed: attributes and metrics that it does not name stay.
			n = &pluginNodeFound{id: n.id, controls: n.controls, attrs: slices.Clone(n.attrs), metrics: slices.Clone(n.metrics)}
			for _, a := range was.attrs {
				if !slices.ContainsFunc(n.attrs, func(b *probev1.Attr) bool { return b.Key == a.Key }) && len(n.attrs) < maxPluginAttrs {
					n.attrs = append(n.attrs, a)
				}
			}
			for _, m := range was.metrics {
				if !slices.ContainsFunc(n.metrics, func(b scope.Figure) bool { return b.Name == m.Name }) && len(n.metrics) < maxPluginMetrics {
					n.metrics = append(n.metrics, m)
				}
			}
		}
		if was != nil || len(out.nodes) < maxPluginNodes {
			out.nodes[key] = n
		}
	}
	return out
}
