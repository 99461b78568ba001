package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// maxConfig is the greatest size of a network's configuration.
const maxConfig = 1 << 20

// mesosPortMapper is Mesos' own plugin around another one. Here it is that other plugin with the standard portmap behind it.
const mesosPortMapper = "mesos-cni-port-mapper"

// find reads the configuration of a network from the directory: files are looked at anew each time, so that networks come
// and go without a restart, as in Mesos.
func (n *Networks) find(name string) (map[string]any, error) {
	es, err := os.ReadDir(n.cfg.ConfigDir)
	if err != nil {
		return nil, fmt.Errorf("list the networks: %w", err)
	}
	var names []string
	var broken []error
	for _, e := range es {
		ext := filepath.Ext(e.Name())
		if !slices.Contains([]string{".conf", ".conflist", ".json", ".cni", ""}, ext) || e.IsDir() {
			continue
		}
		path := filepath.Join(n.cfg.ConfigDir, e.Name())
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxConfig {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			broken = append(broken, err)
			continue
		}
		var c map[string]any
		if err := json.Unmarshal(b, &c); err != nil {
			broken = append(broken, fmt.Errorf("%s: %w", path, err))
			continue
		}
		got, _ := c["name"].(string)
		if got == name {
			return c, nil
		}
		names = append(names, got)
	}
	slices.Sort(names)
	err = fmt.Errorf("no network of this name in %s; there are: %s", n.cfg.ConfigDir, strings.Join(names, ", "))
	return nil, errors.Join(append([]error{err}, broken...)...)
}

// listOf makes the list of plugins for one container: what the container says of the network (labels, groups, addresses it
// would like, port mappings) is told to every plugin under Mesos' key.
func (n *Networks) listOf(info *mesosv1.NetworkInfo) (*libcni.NetworkConfigList, error) {
	c, err := n.find(info.GetName())
	if err != nil {
		return nil, err
	}
	c = clone(c)
	version, _ := c["cniVersion"].(string)
	if version == "" {
		version = "0.1.0" // CNI: what has no version is of the first
	}
	var plugins []map[string]any
	if _, isList := c["plugins"]; isList {
		items, _ := c["plugins"].([]any)
		for _, p := range items {
			m, ok := p.(map[string]any)
			if !ok {
				return nil, errors.New("its plugins are not objects")
			}
			plugins = append(plugins, m)
		}
	} else {
		plugins = append(plugins, c)
	}
	for i := 0; i < len(plugins); i++ {
		if kind, _ := plugins[i]["type"].(string); kind == mesosPortMapper {
			inner, ok := plugins[i]["delegate"].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("plugin %s: it has no delegate", mesosPortMapper)
			}
			plugins[i] = inner
		}
	}
	if len(info.GetPortMappings()) > 0 && !slices.ContainsFunc(plugins, mapsPorts) {
		if version < "0.3.0" {
			version = "0.3.1" // chains need it, and every plugin of today speaks it
		}
		plugins = append(plugins, map[string]any{"type": "portmap", "snat": true, "capabilities": map[string]any{"portMappings": true}})
	}
	said, err := mesosjson.Marshal(info)
	if err != nil {
		return nil, err
	}
	for _, p := range plugins {
		args, _ := p["args"].(map[string]any)
		if args == nil {
			args = map[string]any{}
		}
		args["org.apache.mesos"] = map[string]any{"network_info": json.RawMessage(said)}
		p["args"] = args
		delete(p, "name") // the list's own are added to each
		delete(p, "cniVersion")
	}
	b, err := json.Marshal(map[string]any{"name": info.GetName(), "cniVersion": version, "plugins": plugins})
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(b)
}

func mapsPorts(p map[string]any) bool {
	caps, _ := p["capabilities"].(map[string]any)
	on, _ := caps["portMappings"].(bool)
	return on
}

func clone(v map[string]any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		return v
	}
	var out map[string]any
	if json.Unmarshal(b, &out) != nil {
		return v
	}
	return out
}

// portMapping is what the portmap plugin is told.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

func mappings(info *mesosv1.NetworkInfo) ([]portMapping, error) {
	var out []portMapping
	for _, m := range info.GetPortMappings() {
		p := portMapping{int(m.GetHostPort()), int(m.GetContainerPort()), strings.ToLower(m.GetProtocol())}
		if p.Protocol == "" {
			p.Protocol = "tcp"
		}
		if m.GetHostPort() == 0 || m.GetHostPort() > 65535 || m.GetContainerPort() == 0 || m.GetContainerPort() > 65535 {
			return nil, fmt.Errorf("port mapping %d:%d: a port is between 1 and 65535", m.GetHostPort(), m.GetContainerPort())
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp" {
			return nil, fmt.Errorf("port mapping %d:%d: protocol %q is none of tcp, udp, sctp", p.HostPort, p.ContainerPort, m.GetProtocol())
		}
		out = append(out, p)
	}
	return out, nil
}
