package agent

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/native"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// host is what the agent reads of its host; tests give their own.
type host struct {
	cpus   float64
	memMB  float64
	diskMB float64
	// gpus are those that containers can be given, with the isolation gpu/nvidia.
	gpus  float64
	isGPU bool // there is that isolation: what --resources says of them is judged
}

// What is left to the host (Mesos: slave/constants.hpp, DEFAULT_MEM and DEFAULT_DISK; facts 6).
const (
	reserveMemMB  = 1024
	reserveDiskMB = 5 * 1024
	defaultPorts  = "[31000-32000]"
)

func readHost(workDir string) (host, error) {
	h := host{cpus: float64(runtime.NumCPU())}
	mem, err := memoryMB("/proc/meminfo")
	if err != nil {
		return h, fmt.Errorf("read the host's memory: %w", err)
	}
	h.memMB = mem
	var fs unix.Statfs_t
	if err := unix.Statfs(workDir, &fs); err != nil {
		return h, fmt.Errorf("read the size of the disk of %s: %w", workDir, err)
	}
	h.diskMB = math.Floor(float64(fs.Blocks) * float64(fs.Bsize) / (1 << 20))
	return h, nil
}

// countGPUs adds the GPUs that the isolation gpu/nvidia can give.
func (h *host) countGPUs(c *Config) error {
	if h.isGPU = c.isolates(confine.IsolateGPU); !h.isGPU {
		return nil
	}
	cfg, err := c.gpus()
	if err != nil {
		return err
	}
	found, err := native.FindGPUs(cfg)
	h.gpus = float64(len(found))
	if err != nil {
		return fmt.Errorf("isolation %s: %w", confine.IsolateGPU, err)
	}
	return nil
}

func memoryMB(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return math.Floor(kb / 1024), err
		}
	}
	return 0, errors.New("no MemTotal line")
}

// left is what may be offered of an amount of which some is reserved: the rest, or half when there is little.
func left(total, reserve float64) float64 {
	if total >= 2*reserve {
		return total - reserve
	}
	return math.Floor(total / 2)
}

// parseResources reads --resources.
func parseResources(text string) (resources.Resources, error) {
	if strings.TrimSpace(text) == "" {
		return resources.Resources{}, nil
	}
	return resources.Parse(text, "*")
}

// configuredResources are those of --resources, and for every base resource that it does not name, the host's.
func configuredResources(text string, h host) (resources.Resources, error) {
	r, err := parseResources(text)
	if err != nil {
		return r, err
	}
	named := map[string]bool{}
	for x := range r.All() {
		named[x.Name()] = true
	}
	var more []string
	for _, d := range []struct {
		name  string
		value float64
	}{{"cpus", h.cpus}, {"mem", left(h.memMB, reserveMemMB)}, {"disk", left(h.diskMB, reserveDiskMB)}} {
		if !named[d.name] {
			more = append(more, fmt.Sprintf("%s:%g", d.name, d.value))
		}
	}
	if named["gpus"] {
		if want := float64(r.Quantity(resources.GPUs)) / float64(resources.Unit); h.isGPU && want > h.gpus {
			return r, fmt.Errorf("gpus:%g are to be offered, and %g are here or among --nvidia_gpu_devices", want, h.gpus)
		}
	} else if h.gpus > 0 {
		more = append(more, fmt.Sprintf("gpus:%g", h.gpus))
	}
	if !named["ports"] {
		more = append(more, "ports:"+defaultPorts)
	}
	if len(more) == 0 {
		return r, nil
	}
	rest, err := resources.Parse(strings.Join(more, ";"), "*")
	if err != nil {
		return r, fmt.Errorf("resources of the host: %w", err)
	}
	return r.Add(rest), nil
}

// reconfigure makes the total after a change of the flags: what the operator took away or added since the last run is
// taken from and added to what the operations of frameworks have made of it.
func reconfigure(total, was, is resources.Resources, policy string, used resources.Resources) (resources.Resources, error) {
	if was.Equal(is) {
		return total, nil
	}
	if policy == "equal" {
		return total, fmt.Errorf("the resources changed from %s to %s, which --reconfiguration_policy=equal forbids: use additive, "+
			"or give the old ones", was, is)
	}
	removed, added := was.Minus(is), is.Minus(was)
	left, ok := total.Subtract(removed)
	if !ok {
		return total, fmt.Errorf("%s can't be taken away: frameworks have reserved it or have volumes on it; unreserve and destroy those first, "+
			"or give the old --resources again", removed)
	}
	next := left.Add(added)
	if !fits(used, next) {
		return total, fmt.Errorf("the new resources %s are less than what tasks here use (%s): drain the agent first "+
			"(orchestrator node drain), or give the old --resources again", next, used)
	}
	return next, nil
}

// fits compares by quantities: allocated resources name roles that the total does not.
func fits(used, total resources.Resources) bool {
	return total.ContainsQuantities(used.NonRevocable().Scalars().Quantities())
}

// attributes reads --attributes: name:value separated by semicolons; a value is ranges, a set, a number or text.
func (c *Config) attributes() ([]*mesosv1.Attribute, error) {
	var out []*mesosv1.Attribute
	if strings.TrimSpace(c.Attributes) == "" {
		return nil, nil
	}
	for _, part := range strings.FieldsFunc(c.Attributes, func(r rune) bool { return r == ';' || r == '\n' }) {
		name, value, ok := strings.Cut(part, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("%q is not name:value", part)
		}
		a := &mesosv1.Attribute{Name: &name}
		switch {
		case strings.HasPrefix(value, "[") || strings.HasPrefix(value, "{"):
			r, err := resources.Parse(name+":"+value, "*")
			if err != nil {
				return nil, fmt.Errorf("attribute %s: %w", name, err)
			}
			if r.IsEmpty() {
				return nil, fmt.Errorf("attribute %s: %s has nothing in it", name, value)
			}
			p := r.Proto()[0]
			a.Type, a.Ranges, a.Set = p.Type, p.Ranges, p.Set
		default:
			if v, err := strconv.ParseFloat(value, 64); err == nil && !math.IsInf(v, 0) && !math.IsNaN(v) {
				a.Type, a.Scalar = mesosv1.Value_SCALAR.Enum(), &mesosv1.Value_Scalar{Value: &v}
			} else {
				a.Type, a.Text = mesosv1.Value_TEXT.Enum(), &mesosv1.Value_Text{Value: &value}
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// checkAttributes applies the policy to a change of attributes.
func checkAttributes(was, is *mesosv1.AgentInfo, policy string) error {
	if policy != "equal" {
		return nil
	}
	old, now := attributeTexts(was), attributeTexts(is)
	for name, text := range old {
		if now[name] != text {
			return fmt.Errorf("attribute %s is not %s any more, which --reconfiguration_policy=equal forbids: use additive", name, text)
		}
	}
	if len(old) != len(now) {
		return errors.New("attributes were added, which --reconfiguration_policy=equal forbids: use additive")
	}
	return nil
}

func attributeTexts(info *mesosv1.AgentInfo) map[string]string {
	out := map[string]string{}
	for _, a := range info.GetAttributes() {
		out[a.GetName()] = a.String()
	}
	return out
}

// bootID is the id of the host's boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// publicIP is the address that others reach a listener on all addresses at: that of the host's name, else the first that
// is not a loopback.
func publicIP() string {
	if name, err := os.Hostname(); err == nil {
		if addrs, err := net.LookupIP(name); err == nil {
			for _, a := range addrs {
				if a4 := a.To4(); a4 != nil && !a4.IsLoopback() {
					return a4.String()
				}
			}
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	var found []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			found = append(found, n.IP.String())
		}
	}
	sort.Strings(found)
	if len(found) == 0 {
		return "127.0.0.1"
	}
	return found[0]
}
