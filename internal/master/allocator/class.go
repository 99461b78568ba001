package allocator

import (
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// class is what of an agent decides, for good, whether a client may be offered it; agents fall into few classes, and for each
// the allocator keeps the set of clients.
type class uint8

const (
	classGPU    class = 1 << iota // has gpus, which only GPU_RESOURCES frameworks may see
	classRemote                   // in another region than the master
	classSingle                   // lacks MULTI_ROLE
	classFlat                     // lacks HIERARCHICAL_ROLE
	classes     = 1 << iota
)

func (a *Allocator) classOf(info AgentInfo) class {
	var k class
	if a.opts.FilterGPU && info.Total.Quantity(resources.GPUs) > 0 {
		k |= classGPU
	}
	if r := regionOf(info.Domain); a.home.known && r.known && r.name != a.home.name {
		k |= classRemote
	}
	if !info.Capabilities.MultiRole {
		k |= classSingle
	}
	if !info.Capabilities.HierarchicalRole {
		k |= classFlat
	}
	return k
}

// admits reports whether a framework with these capabilities may be offered agents of the class for the role (facts 1.9).
func (k class) admits(c FrameworkCapabilities, role string) bool {
	switch {
	case k&classGPU != 0 && !c.GPU:
		return false
	case k&classRemote != 0 && !c.RegionAware:
		return false
	case k&classSingle != 0 && c.MultiRole:
		return false
	case k&classFlat != 0 && strings.Contains(role, "/"):
		return false
	}
	return true
}

type region struct {
	name  string
	known bool
}

func regionOf(d *mesosv1.DomainInfo) region {
	if d == nil || d.FaultDomain == nil {
		return region{}
	}
	return region{name: d.FaultDomain.GetRegion().GetName(), known: true}
}
