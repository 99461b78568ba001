package master

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	registryv1 "github.com/orchestrator/orchestrator/api/registry/v1"
	"github.com/orchestrator/orchestrator/internal/master/allocator"
	"github.com/orchestrator/orchestrator/internal/master/api"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/version"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// listenIP is the address to listen on.
func (c *Config) listenIP() (string, error) {
	if c.IPCommand == "" {
		return c.IP, nil
	}
	out, err := exec.Command("/bin/sh", "-c", c.IPCommand).Output()
	if err != nil {
		return "", fmt.Errorf("--ip_discovery_command: %w", err)
	}
	ip := strings.TrimSpace(string(out))
	if net.ParseIP(ip) == nil {
		return "", fmt.Errorf("--ip_discovery_command printed %q, which is not an IP address", ip)
	}
	return ip, nil
}

// masterInfo is what this master announces, and the "host:port" that others reach it at.
func (c *Config) masterInfo(listening net.Addr) (*mesosv1.MasterInfo, string, error) {
	ip, port := "127.0.0.1", c.Port
	if tcp, ok := listening.(*net.TCPAddr); ok {
		port = tcp.Port
		if !tcp.IP.IsUnspecified() {
			ip = tcp.IP.String()
		} else {
			ip = ownIP()
		}
	}
	if c.AdvertiseIP != "" {
		ip = c.AdvertiseIP
	}
	if c.AdvertisePort != 0 {
		port = c.AdvertisePort
	}
	hostname := c.Hostname
	if hostname == "" {
		hostname = ip
		if c.LookupHost && !net.ParseIP(ip).IsLoopback() {
			if name, err := os.Hostname(); err == nil && name != "" {
				hostname = name
			}
		}
	}
	domain, err := c.FaultDomain()
	if err != nil {
		return nil, "", err
	}
	address := net.JoinHostPort(ip, strconv.Itoa(port))
	info := &mesosv1.MasterInfo{
		Id: proto.String(newID()), Ip: proto.Uint32(0), Port: proto.Uint32(uint32(port)), Hostname: proto.String(hostname),
		Pid: proto.String("master@" + address), Version: proto.String(version.Mesos), Domain: domain,
		Address: &mesosv1.Address{Hostname: proto.String(hostname), Ip: proto.String(ip), Port: proto.Int32(int32(port))},
	}
	if v4 := net.ParseIP(ip).To4(); v4 != nil {
		// The four bytes in network order, read as a little-endian number (facts 4.1).
		info.Ip = proto.Uint32(binary.LittleEndian.Uint32(v4))
	}
	for _, x := range []mesosv1.MasterInfo_Capability_Type{
		mesosv1.MasterInfo_Capability_AGENT_UPDATE, mesosv1.MasterInfo_Capability_AGENT_DRAINING, mesosv1.MasterInfo_Capability_QUOTA_V2,
	} {
		info.Capabilities = append(info.Capabilities, &mesosv1.MasterInfo_Capability{Type: x.Enum()})
	}
	return info, address, nil
}

// ownIP is this host's address as others on its network see it: the one that a packet to them would leave from. Nothing
// is sent.
func ownIP() string {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		return a.IP.String()
	}
	return "127.0.0.1"
}

// core is the configuration of the state machine.
func (c *Config) core(self *mesosv1.MasterInfo, start time.Time, seed uint64) core.Config {
	min, _ := c.MinAllocatableResources() // validated
	limit, _ := c.AgentRemovalLimit()
	removal, _ := c.AgentRemovalInterval()
	var whitelist map[string]bool
	if len(c.Roles) > 0 {
		whitelist = map[string]bool{"*": true}
		for _, r := range c.Roles {
			whitelist[r] = true
		}
	}
	return core.Config{
		Master: self, StartTime: start, Seed: seed,
		AgentPingTimeout: c.PingTimeout, MaxAgentPingTimeouts: c.MaxPingTimeouts, AgentReregisterTimeout: c.ReregisterTimeout, AgentRemovalInterval: removal,
		OfferTimeout: c.OfferTimeout, MaxCompletedFrameworks: c.MaxCompleted, MaxCompletedTasksPerFramework: c.MaxCompletedTasks,
		MaxUnreachableTasksPerFrame: c.MaxUnreachableTasks, RegistryMaxAgentAge: c.RegistryMaxAgentAge,
		RegistryMaxAgentCount: c.RegistryMaxAgentCount, RegistryGCInterval: c.RegistryGCInterval, RecoveryAgentRemovalLimit: limit,
		RequireAgentDomain: c.RequireDomain, RootSubmissions: c.RootSubmissions, RoleWhitelist: whitelist,
		OfferConstraintsMaxProgramSize: c.ConstraintsMaxLength,
		Allocator: allocator.Options{
			MinAllocatable: min, FairSharingExcluded: c.FairShareExcluded(), FilterGPU: c.FilterGPU, Domain: self.GetDomain(),
			AllocationInterval: c.Interval, RefusedPerSecond: refusedPerSecond,
		},
	}
}

// refusedPerSecond is the budget for offers of what somebody has refused: some 20 % of a core, with everything that an offer costs. A hundred
// idle frameworks that refuse for a second can have it all; on a thousand agents it still reaches each of them before their filters end.
const refusedPerSecond = 10_000

// withWeights adds the weights of --weights for roles that the registry has none for.
func (m *Master) withWeights(reg core.Registry) core.Registry {
	weights, _ := m.cfg.WeightsMap() // validated
	for role, w := range weights {
		key := "weights/" + role
		known := false
		for _, r := range reg {
			known = known || r.Key == key
		}
		if known {
			continue
		}
		b, err := proto.Marshal(&registryv1.Weight{Role: proto.String(role), Weight: proto.Float64(w)})
		if err == nil {
			reg = append(reg, core.Record{Key: key, Value: b})
		}
	}
	return reg
}

type authenticators struct {
	api.Authenticators
	agents wire.Authenticator
}

// authenticators are those that the flags ask for; nil lets everybody in.
func (c *Config) authenticators() (authenticators, error) {
	var a authenticators
	if c.Credentials == "" {
		return a, nil
	}
	creds, err := wire.LoadCredentials(string(c.Credentials))
	if err != nil {
		return a, fmt.Errorf("--credentials: %w", err)
	}
	if c.AuthReadonly {
		a.Readonly = creds
	}
	if c.AuthReadwrite {
		a.Readwrite = creds
	}
	if c.AuthFrameworks || c.AuthFrameworksV0 {
		a.Frameworks = creds
	}
	if c.AuthAgents {
		a.agents = creds
	}
	return a, nil
}

// makeDir makes the work directory, for its owner only.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%w; choose another directory with --work_dir", err)
	}
	probe, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return fmt.Errorf("%s is not writable: %w; choose another directory with --work_dir", dir, err)
	}
	probe.Close()
	return os.Remove(filepath.Clean(probe.Name()))
}

// silence is how long an agent's connection may be silent before it counts as broken: longer than the pings allow.
func (c *Config) silence() time.Duration {
	n := time.Duration(min(c.MaxPingTimeouts+1, math.MaxInt16))
	return c.PingTimeout * n
}
