package spec

import (
	"maps"
	"strings"
)

// archiveSuffixes are those for which an old `uris` entry was unpacked.
var archiveSuffixes = []string{".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip"}

// CanonicalApp translates the forms of Marathon up to 1.4 (ports, uris, ipAddress, docker.network, docker.portMappings)
// into today's keys and leaves everything else as it is. It fills in no defaults, so that it serves full definitions and
// partial updates alike. The argument is not changed.
func CanonicalApp(v any, path string) (Object, error) {
	var p problems
	r, ok := newReader(path, v, &p)
	if !ok {
		return nil, p.err(MessageInvalidJSON)
	}
	o := maps.Clone(r.o)
	for k, x := range o {
		if x == nil {
			delete(o, k)
		}
	}
	r.o = o
	canonicalFetch(r)
	// A body that was read from this API and sent back may carry both; portDefinitions is the newer word then.
	if r.has("ports") && !r.has("portDefinitions") {
		list := r.array("ports")
		defs := make([]any, 0, len(list))
		for _, e := range list {
			defs = append(defs, Object{"port": e.v})
		}
		o["portDefinitions"] = defs
	}
	delete(o, "ports")
	canonicalNetwork(r)
	return o, p.err(MessageInvalidObject)
}

func canonicalFetch(r reader) {
	uris := r.array("uris")
	delete(r.o, "uris")
	if len(uris) == 0 {
		return
	}
	if r.has("fetch") {
		// The same read-modify-write: fetch wins, unless it is empty, which nobody who means it sends along with uris.
		if f, ok := r.o["fetch"].([]any); ok && len(f) > 0 {
			r.bad("uris", "uris are deprecated in favor of fetch, and can't be given together with it")
			return
		}
	}
	fetch := make([]any, 0, len(uris))
	for _, e := range uris {
		uri := e.str()
		extract := false
		for _, s := range archiveSuffixes {
			extract = extract || strings.HasSuffix(uri, s)
		}
		fetch = append(fetch, Object{"uri": uri, "extract": extract})
	}
	r.o["fetch"] = fetch
}

func canonicalNetwork(r reader) {
	c, hasContainer := r.sub("container")
	var d reader
	hasDocker := false
	if hasContainer {
		c.o = maps.Clone(c.o)
		r.o["container"] = c.o
		if d, hasDocker = c.sub("docker"); hasDocker {
			d.o = maps.Clone(d.o)
			c.o["docker"] = d.o
		}
	}
	ip, hasIP := r.sub("ipAddress")
	oldNetwork := ""
	var oldMappings any
	if hasDocker {
		oldNetwork = d.str("network", "")
		oldMappings = d.o["portMappings"]
		delete(d.o, "network")
		delete(d.o, "portMappings")
		delete(d.o, "credential")
	}
	delete(r.o, "ipAddress")
	if oldNetwork == "" && oldMappings == nil && !hasIP {
		return
	}
	if r.has("networks") {
		if oldNetwork != "" {
			d.bad("network", "must not be given together with networks")
		}
		if hasIP {
			r.bad("ipAddress", "must not be given together with networks")
		}
		if oldNetwork != "" || hasIP {
			return
		}
	}
	if oldMappings != nil {
		if c.has("portMappings") {
			d.bad("portMappings", "must not be given together with container.portMappings")
			return
		}
		if oldNetwork != "HOST" && oldNetwork != "NONE" {
			c.o["portMappings"] = oldMappings
		}
	}
	network := Object{}
	switch oldNetwork {
	case "BRIDGE":
		network["mode"] = NetworkBridge
	case "HOST", "NONE":
		network["mode"] = NetworkHost
	case "USER", "":
		if oldNetwork == "" && !hasIP {
			return
		}
		network["mode"] = NetworkContainer
		if hasIP {
			if n := ip.str("networkName", ""); n != "" {
				network["name"] = n
			}
			if l := ip.o["labels"]; l != nil {
				network["labels"] = l
			}
		}
	default:
		d.bad("network", "error.unknown.enum.literal")
		return
	}
	r.o["networks"] = []any{network}
	if !hasIP || network["mode"] != NetworkContainer {
		return
	}
	if disc, ok := ip.sub("discovery"); ok {
		canonicalDiscovery(r, c, hasContainer, disc)
	}
}

// canonicalDiscovery turns ipAddress.discovery.ports into port mappings without a port of the host.
func canonicalDiscovery(r, c reader, hasContainer bool, disc reader) {
	ports := disc.array("ports")
	if len(ports) == 0 || hasContainer && c.has("portMappings") {
		return
	}
	mappings := make([]any, 0, len(ports))
	for _, e := range ports {
		p, ok := e.object()
		if !ok {
			continue
		}
		m := Object{"containerPort": p.o["number"], "name": p.o["name"], "protocol": p.o["protocol"]}
		if l := p.o["labels"]; l != nil {
			m["labels"] = l
		}
		mappings = append(mappings, m)
	}
	if !hasContainer {
		c.o = Object{"type": "MESOS"}
		r.o["container"] = c.o
	}
	c.o["portMappings"] = mappings
}

// OverlayApp puts the top-level keys of an update (in canonical form) over the emitted form of a stored app. Each supplied
// key replaces the stored one whole; executorResources and resourceLimits are taken from the update even if it lacks them.
func OverlayApp(stored *App, update Object) (Object, error) {
	o, err := toObject(stored)
	if err != nil {
		return nil, err
	}
	delete(o, "executorResources")
	delete(o, "resourceLimits")
	if update["cmd"] != nil && update["args"] == nil {
		delete(o, "args")
	}
	if update["args"] != nil && update["cmd"] == nil {
		delete(o, "cmd")
	}
	for k, v := range update {
		if v != nil {
			o[k] = v
		}
	}
	if modeOf(o) == NetworkHost {
		if c, ok := o["container"].(Object); ok && update["container"] == nil && update["networks"] != nil {
			delete(c, "portMappings")
		}
	} else {
		delete(o, "portDefinitions")
	}
	return o, nil
}

func modeOf(o Object) string {
	if l, ok := o["networks"].([]any); ok && len(l) > 0 {
		if n, ok := l[0].(Object); ok {
			if m, ok := n["mode"].(string); ok {
				return m
			}
			return NetworkContainer
		}
	}
	return NetworkHost
}
