package confine

import (
	"fmt"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Capability is a Linux capability by its number in the kernel.
type Capability int

// capabilityBase is what Mesos' enum adds to the kernel's number (CapabilityInfo.Capability: CHOWN is 1000).
const capabilityBase = 1000

// String gives the kernel's name, such as CAP_NET_RAW.
func (c Capability) String() string {
	if n, ok := mesosv1.CapabilityInfo_Capability_name[int32(c)+capabilityBase]; ok {
		return "CAP_" + n
	}
	return fmt.Sprintf("CAP_%d", int(c))
}

// Capabilities are the two sets that Mesos speaks of.
type Capabilities struct {
	// Effective is what the processes start with, whoever their user is (it is also their ambient and inheritable set).
	Effective []Capability
	// Bounding is the most that any of them can ever get. It contains Effective.
	Bounding []Capability
}

// Names gives the kernel's names of a set, in order.
func Names(set []Capability) []string {
	out := make([]string, len(set))
	for i, c := range set {
		out[i] = c.String()
	}
	return out
}

// Mask gives a set as bits.
func Mask(set []Capability) uint64 {
	var m uint64
	for _, c := range set {
		m |= 1 << uint(c)
	}
	return m
}

const sysPtrace Capability = 19

// dockerDefault is what Docker gives a container that asks for nothing (facts/security.md 5).
var dockerDefault = []Capability{0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}

// InDockerDefault reports whether Docker gives a capability to a container that asks for nothing.
func InDockerDefault(c mesosv1.CapabilityInfo_Capability) bool {
	return slices.Contains(dockerDefault, Capability(c)-capabilityBase)
}

// setOf reads a message; nil stays nil, which means that nothing was said.
func setOf(m *mesosv1.CapabilityInfo) ([]Capability, error) {
	if m == nil {
		return nil, nil
	}
	out := []Capability{}
	for _, c := range m.GetCapabilities() {
		n := Capability(c) - capabilityBase
		if _, ok := mesosv1.CapabilityInfo_Capability_name[int32(c)]; !ok || n < 0 || n > 63 {
			return nil, fmt.Errorf("capability %d is not known", int32(c))
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// capabilities decides as Mesos' linux/capabilities: what the task says, else what the agent's flags say; a task gets
// nothing outside the agent's bounding set; an effective set alone is also the bounding one.
func capabilities(h *Host, li *mesosv1.LinuxInfo, image bool) (*Capabilities, error) {
	said := li.GetEffectiveCapabilities()
	if said == nil {
		said = li.GetCapabilityInfo() // its name before Mesos 1.4
	}
	effective, err := setOf(said)
	if err != nil {
		return nil, err
	}
	bounding, err := setOf(li.GetBoundingCapabilities())
	if err != nil {
		return nil, err
	}
	if !h.Isolators[IsolateCapabilities] {
		if effective != nil || bounding != nil {
			return nil, h.lacks(IsolateCapabilities, "linux_info's capabilities")
		}
		return nil, nil
	}
	limit, err := setOf(h.Bounding)
	if err != nil {
		return nil, fmt.Errorf("bounding_capabilities: %w", err)
	}
	if limit != nil {
		for _, c := range slices.Concat(effective, bounding) {
			if !slices.Contains(limit, c) {
				return nil, fmt.Errorf("capability %s is not among the agent's bounding capabilities (%s)", c, strings.Join(Names(limit), ", "))
			}
		}
	}
	if effective == nil {
		if effective, err = setOf(h.Effective); err != nil {
			return nil, fmt.Errorf("effective_capabilities: %w", err)
		}
		if limit := first(bounding, limit); limit != nil && effective != nil {
			effective = intersect(effective, limit) // what the agent gives by default, as far as this task may have it
		}
	}
	if effective == nil && bounding == nil && image {
		// As in Docker: root has these, other users none.
		if bounding = dockerDefault; limit != nil {
			bounding = intersect(dockerDefault, limit)
		}
	}
	if bounding == nil {
		bounding = limit
	}
	switch {
	case effective == nil && bounding == nil:
		return nil, nil
	case bounding == nil:
		bounding = effective
	case effective == nil:
		// Only an upper bound: the user's own capabilities, as far as they lie in it.
		return &Capabilities{Bounding: bounding}, nil
	}
	for _, c := range effective {
		if !slices.Contains(bounding, c) {
			return nil, fmt.Errorf("effective capability %s is not among the bounding capabilities (%s)", c, strings.Join(Names(bounding), ", "))
		}
	}
	return &Capabilities{Effective: effective, Bounding: bounding}, nil
}

func first(sets ...[]Capability) []Capability {
	for _, s := range sets {
		if s != nil {
			return s
		}
	}
	return nil
}

func intersect(a, b []Capability) []Capability {
	out := []Capability{}
	for _, c := range a {
		if slices.Contains(b, c) {
			out = append(out, c)
		}
	}
	return out
}
