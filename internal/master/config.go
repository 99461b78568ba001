package master

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// Config is a master's configuration. Names and defaults are Mesos' where the help does not say otherwise.
type Config struct {
	Network
	Agents
	Frameworks
	Allocation
	Limits
	Security

	WorkDir     string          `flag:"work_dir" default:"/var/lib/orchestrator/master" help:"Directory of the registry. It must survive restarts."`
	Registry    string          `flag:"registry" default:"auto" help:"Where the registry is kept: bolt (one file in --work_dir), zookeeper (under --zk), in_memory (lost at exit, for tests), auto: zookeeper when --zk is given, else bolt. replicated_log is accepted as another name of auto."`
	Cluster     string          `flag:"cluster" help:"Name of the cluster, shown to people."`
	Zk          election.Target `flag:"zk" help:"zk://host:port,…/path: contend for leadership there. Unset: this master is the only one."`
	ZkTimeout   time.Duration   `flag:"zk_session_timeout" default:"10secs" help:"How long ZooKeeper keeps this master's candidacy without hearing from it."`
	Domain      config.JSON     `flag:"domain" help:"Fault domain of this master: {\"fault_domain\":{\"region\":{\"name\":…},\"zone\":{\"name\":…}}}."`
	LogDir      string          `flag:"log_dir" help:"Directory to write log files into, besides standard error."`
	LogLevel    string          `flag:"logging_level" default:"INFO" help:"Least severe messages to log: DEBUG, INFO, WARNING or ERROR."`
	ExternalLog string          `flag:"external_log_file" help:"A file to show as /master/log, written by somebody else."`

	RegistryStoreTimeout  time.Duration `flag:"registry_store_timeout" default:"20secs" help:"How long a write to the registry may take before this master gives up leading."`
	RegistryFetchTimeout  time.Duration `flag:"registry_fetch_timeout" default:"1mins" help:"How long reading the registry may take after election."`
	RegistryGCInterval    time.Duration `flag:"registry_gc_interval" default:"15mins" help:"How often unreachable and gone agents that are too old or too many are dropped from the registry."`
	RegistryMaxAgentAge   time.Duration `flag:"registry_max_agent_age" default:"2weeks" help:"How long unreachable and gone agents are kept in the registry."`
	RegistryMaxAgentCount int           `flag:"registry_max_agent_count" default:"102400" help:"How many unreachable and gone agents are kept in the registry."`

	Quorum            int         `flag:"quorum" ignored:"the registry is one file, or ZooKeeper's: there is no replicated log and no quorum to configure" help:"Number of replicas that must agree."`
	LogAutoInitialize bool        `flag:"log_auto_initialize" default:"true" ignored:"there is no replicated log" help:"Whether to initialise the replicated log."`
	Modules           config.JSON `flag:"modules" ignored:"Mesos' modules are C++ libraries" help:"Modules to load."`
	ModulesDir        string      `flag:"modules_dir" ignored:"Mesos' modules are C++ libraries" help:"Directory of module manifests."`
	Hooks             string      `flag:"hooks" ignored:"Mesos' hooks are C++ libraries" help:"Hooks to install."`
	WebuiDir          string      `flag:"webui_dir" ignored:"the console is part of the binary" help:"Directory of the web console."`
	Quiet             bool        `flag:"quiet" default:"false" help:"Do not log to standard error."`
	LogBufSecs        int         `flag:"logbufsecs" default:"0" ignored:"log lines are never held back" help:"How long to hold log lines back."`
	InitDriverLogging bool        `flag:"initialize_driver_logging" default:"true" ignored:"there is no driver" help:"Logging of the scheduler driver."`
	MemoryProfiling   bool        `flag:"memory_profiling" default:"false" ignored:"profiles are taken through Go's pprof" help:"Memory profiling of jemalloc."`
}

// Network says where the master listens and how others reach it.
type Network struct {
	IP            string `flag:"ip" default:"0.0.0.0" env:"LIBPROCESS_IP" help:"Address to listen on."`
	Port          int    `flag:"port" default:"5050" env:"LIBPROCESS_PORT" help:"Port to listen on; 0 picks a free one."`
	AdvertiseIP   string `flag:"advertise_ip" env:"LIBPROCESS_ADVERTISE_IP" help:"Address that others reach this master at, when it is not --ip."`
	AdvertisePort int    `flag:"advertise_port" env:"LIBPROCESS_ADVERTISE_PORT" help:"Port that others reach this master at, when it is not --port."`
	Hostname      string `flag:"hostname" help:"Name that others reach this master by. Unset: looked up from the address."`
	LookupHost    bool   `flag:"hostname_lookup" default:"true" help:"Look the name up; otherwise the address is used as the name."`
	IPCommand     string `flag:"ip_discovery_command" help:"A program whose output is the address to listen on, instead of --ip."`
}

// Agents are the settings about agents.
type Agents struct {
	PingTimeout          time.Duration `flag:"agent_ping_timeout" alias:"slave_ping_timeout" default:"15secs" help:"Time between pings of an agent, and within which it must answer."`
	MaxPingTimeouts      int           `flag:"max_agent_ping_timeouts" alias:"max_slave_ping_timeouts" default:"5" help:"Unanswered pings in a row after which an agent is unreachable."`
	ReregisterTimeout    time.Duration `flag:"agent_reregister_timeout" alias:"slave_reregister_timeout" default:"10mins" help:"How long agents of the registry have to come back after a new leader was elected before they are unreachable. Mesos refuses less than 10mins, this master does not."`
	RemovalRateLimit     string        `flag:"agent_removal_rate_limit" alias:"slave_removal_rate_limit" help:"How many agents may become unreachable in what time, such as 1/10mins, evenly spread; one that answers before its turn stays. Unset: any number."`
	RemovalLimit         string        `flag:"recovery_agent_removal_limit" alias:"recovery_slave_removal_limit" default:"100%" help:"Share of the registry's agents that may be missing when the time to come back is over; above it nobody is removed."`
	RequireDomain        bool          `flag:"require_agent_domain" default:"false" help:"Refuse agents that have no fault domain."`
	Whitelist            config.Path   `flag:"whitelist" help:"File with the hostnames, one a line, of the agents that may get offers. It is read again when it changes."`
	RequirePeerIPMatch   bool          `flag:"require_peer_address_ip_match" default:"false" ignored:"agents speak on one connection that they opened" help:"Check the address of libprocess messages."`
	AuthenticationV0Time time.Duration `flag:"authentication_v0_timeout" default:"15secs" ignored:"agents authenticate with their request" help:"Time that SASL may take."`
}

// Frameworks are the settings about frameworks.
type Frameworks struct {
	Roles                []string      `flag:"roles" deprecated:"roles need no list" help:"The roles that frameworks may use. Unset: any."`
	RootSubmissions      bool          `flag:"root_submissions" default:"true" help:"Whether frameworks may run tasks as root."`
	OfferTimeout         time.Duration `flag:"offer_timeout" default:"5mins" help:"After what time an offer that nobody answered is rescinded; 0ns: never, which is Mesos' default."`
	MaxCompleted         int           `flag:"max_completed_frameworks" default:"50" help:"Completed frameworks to remember."`
	MaxCompletedTasks    int           `flag:"max_completed_tasks_per_framework" default:"1000" help:"Completed tasks of a framework to remember."`
	MaxUnreachableTasks  int           `flag:"max_unreachable_tasks_per_framework" default:"1000" help:"Unreachable tasks of a framework to remember."`
	PublishMetrics       bool          `flag:"publish_per_framework_metrics" default:"true" help:"Show metrics of each framework."`
	ConstraintsMaxMem    config.Bytes  `flag:"offer_constraints_re2_max_mem" default:"4KB" help:"Memory that a regular expression of an offer constraint may take."`
	ConstraintsMaxLength int           `flag:"offer_constraints_re2_max_program_size" default:"100" help:"Size of the compiled regular expression of an offer constraint."`
}

// Allocation are the settings of the allocator.
type Allocation struct {
	Interval         time.Duration `flag:"allocation_interval" default:"1secs" help:"Shortest time that a filter of a framework lasts. Resources are offered when they become free, not once an interval."`
	MinAllocatable   string        `flag:"min_allocatable_resources" default:"cpus:0.01|mem:32" help:"What an agent must have free to be offered; alternatives are separated by |."`
	FairShareExclude string        `flag:"fair_sharing_excluded_resource_names" help:"Resources, separated by commas, that do not count for fair shares."`
	FilterGPU        bool          `flag:"filter_gpu_resources" default:"true" help:"Offer agents with GPUs only to frameworks that have the capability GPU_RESOURCES."`
	Weights          string        `flag:"weights" deprecated:"use the operator call UPDATE_WEIGHTS" help:"Weights of roles when the registry has none: role=weight,…"`
	Allocator        string        `flag:"allocator" default:"hierarchical" ignored:"there is one allocator" help:"Allocator to use."`
	FrameworkSorter  string        `flag:"framework_sorter" default:"drf" ignored:"frameworks are sorted by dominant share" help:"How frameworks of a role are sorted."`
	RoleSorter       string        `flag:"role_sorter" default:"drf" ignored:"roles are sorted by dominant share" help:"How roles are sorted."`
	UserSorter       string        `flag:"user_sorter" default:"drf" ignored:"roles are sorted by dominant share" help:"How users are sorted."`
}

// Limits bound what clients can make the master hold.
type Limits struct {
	MaxOperatorStreams  int           `flag:"max_operator_event_stream_subscribers" default:"1000" help:"Operator event streams at once; the oldest is ended for a new one."`
	MaxSchedulerStreams int           `flag:"max_scheduler_streams" env:"-" default:"20000" help:"Scheduler event streams at once."`
	MaxRequestBody      config.Bytes  `flag:"max_request_body" env:"-" default:"32MB" help:"Largest body of a call."`
	StreamQueue         config.Bytes  `flag:"stream_queue_limit" env:"-" default:"64MB" help:"What may wait for a reader that does not read; beyond it the reader is disconnected."`
	EventQueue          int           `flag:"event_queue_limit" env:"-" default:"65536" help:"Calls and messages that may wait for the master; beyond it calls are answered with 503."`
	Heartbeat           time.Duration `flag:"heartbeat_interval" env:"-" default:"15secs" help:"Time between heartbeats of event streams."`
	RateLimits          config.JSON   `flag:"rate_limits" ignored:"the queue of calls is bounded instead" help:"Rate limits of framework principals."`
	FirewallRules       config.JSON   `flag:"firewall_rules" help:"{\"disabled_endpoints\":{\"paths\":[…]}}: paths that answer 403."`
}

// Security says who is let in.
type Security struct {
	AuthReadonly       bool        `flag:"authenticate_http_readonly" default:"false" help:"Require HTTP authentication for what only reads."`
	AuthReadwrite      bool        `flag:"authenticate_http_readwrite" default:"false" help:"Require HTTP authentication for what changes something."`
	AuthFrameworks     bool        `flag:"authenticate_http_frameworks" default:"false" help:"Require HTTP authentication for the scheduler API."`
	AuthAgents         bool        `flag:"authenticate_agents" alias:"authenticate_slaves" default:"false" help:"Require agents to authenticate."`
	AuthFrameworksV0   bool        `flag:"authenticate_frameworks" alias:"authenticate" default:"false" help:"The same as --authenticate_http_frameworks."`
	Credentials        config.Path `flag:"credentials" help:"File of principals and secrets: {\"credentials\":[{\"principal\":…,\"secret\":…}]}, or lines of principal and secret."`
	ACLs               config.JSON `flag:"acls" help:"Access control lists, as Mesos has them."`
	HTTPAuthenticators string      `flag:"http_authenticators" default:"basic" ignored:"basic authentication is built in" help:"HTTP authenticators."`
	HTTPFrameworkAuth  string      `flag:"http_framework_authenticators" default:"basic" ignored:"basic authentication is built in" help:"HTTP authenticators of frameworks."`
	Authenticators     string      `flag:"authenticators" default:"crammd5" ignored:"there is no SASL" help:"Authenticators of libprocess."`
	Authorizers        string      `flag:"authorizers" default:"local" ignored:"access control lists are built in" help:"Authorizers."`
}

// BindOptions are how a master's settings are named.
func BindOptions() config.Options { return config.Options{EnvPrefix: []string{"MESOS_"}} }

// Validate reports everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var p config.Problems
	if c.IP != "" && net.ParseIP(c.IP) == nil {
		p.Addf("ip", "%q is not an IP address", c.IP)
	}
	if c.AdvertiseIP != "" && net.ParseIP(c.AdvertiseIP) == nil {
		p.Addf("advertise_ip", "%q is not an IP address", c.AdvertiseIP)
	}
	inRange := func(name string, v, low, high int) {
		if v < low || v > high {
			p.Addf(name, "%d is not between %d and %d", v, low, high)
		}
	}
	inRange("port", c.Port, 0, 65535)
	inRange("advertise_port", c.AdvertisePort, 0, 65535)
	inRange("max_agent_ping_timeouts", c.MaxPingTimeouts, 1, 1<<20)
	inRange("max_completed_frameworks", c.MaxCompleted, 0, 100_000)
	inRange("max_completed_tasks_per_framework", c.MaxCompletedTasks, 0, 1_000_000)
	inRange("max_unreachable_tasks_per_framework", c.MaxUnreachableTasks, 0, 1_000_000)
	inRange("max_operator_event_stream_subscribers", c.MaxOperatorStreams, 1, 1_000_000)
	inRange("max_scheduler_streams", c.MaxSchedulerStreams, 1, 1_000_000)
	inRange("event_queue_limit", c.EventQueue, 1, 1<<24)
	inRange("offer_constraints_re2_max_program_size", c.ConstraintsMaxLength, 1, 100_000)
	inRange("registry_max_agent_count", c.RegistryMaxAgentCount, 0, 10_000_000)
	positive := func(name string, d time.Duration) {
		if d <= 0 {
			p.Addf(name, "%s is not a positive duration", config.FormatDuration(d))
		}
	}
	positive("agent_ping_timeout", c.PingTimeout)
	positive("agent_reregister_timeout", c.ReregisterTimeout)
	positive("zk_session_timeout", c.ZkTimeout)
	positive("registry_store_timeout", c.RegistryStoreTimeout)
	positive("registry_fetch_timeout", c.RegistryFetchTimeout)
	positive("registry_gc_interval", c.RegistryGCInterval)
	positive("registry_max_agent_age", c.RegistryMaxAgentAge)
	positive("allocation_interval", c.Interval)
	positive("heartbeat_interval", c.Heartbeat)
	if c.OfferTimeout < 0 {
		p.Addf("offer_timeout", "must not be negative; 0ns means never")
	}
	if !c.Zk.IsZero() && c.Zk.ZooKeeper == nil {
		p.Addf("zk", "%q is not a zk:// URL", c.Zk)
	}
	switch c.Registry {
	case "auto", "bolt", "zookeeper", "in_memory", "replicated_log":
	default:
		p.Addf("registry", "%q is none of auto, bolt, zookeeper, in_memory", c.Registry)
	}
	if c.Registry == "zookeeper" && c.Zk.ZooKeeper == nil {
		p.Addf("registry", "zookeeper needs --zk")
	}
	if c.Zk.ZooKeeper != nil && (c.Registry == "bolt" || c.Registry == "in_memory") {
		p.Addf("registry", "%s is this machine's alone; with --zk it must be zookeeper", c.Registry)
	}
	_, err := c.AgentRemovalLimit()
	p.Check("recovery_agent_removal_limit", err)
	_, err = c.AgentRemovalInterval()
	p.Check("agent_removal_rate_limit", err)
	_, err = c.MinAllocatableResources()
	p.Check("min_allocatable_resources", err)
	_, err = c.WeightsMap()
	p.Check("weights", err)
	_, err = c.FaultDomain()
	p.Check("domain", err)
	_, err = c.DisabledEndpoints()
	p.Check("firewall_rules", err)
	_, err = c.authorizer()
	p.Check("acls", err)
	_, err = c.Level()
	p.Check("logging_level", err)
	for _, r := range c.Roles {
		p.Check("roles", resources.ValidateRole(r))
	}
	if (c.AuthReadonly || c.AuthReadwrite || c.AuthFrameworks || c.AuthFrameworksV0 || c.AuthAgents) && c.Credentials == "" {
		p.Addf("credentials", "authentication is required but there is nobody who could: give --credentials")
	}
	return p.Err()
}

var percentage = regexp.MustCompile(`^(\d+(?:\.\d+)?)%$`)

// AgentRemovalLimit is --recovery_agent_removal_limit as a fraction.
func (c *Config) AgentRemovalLimit() (float64, error) {
	m := percentage.FindStringSubmatch(c.RemovalLimit)
	if m == nil {
		return 0, fmt.Errorf("%q is not a percentage such as 50%%", c.RemovalLimit)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil || v > 100 {
		return 0, fmt.Errorf("%q is not between 0%% and 100%%", c.RemovalLimit)
	}
	return v / 100, nil
}

// AgentRemovalInterval is --agent_removal_rate_limit as the time between two removals; zero when there is no limit.
func (c *Config) AgentRemovalInterval() (time.Duration, error) {
	if c.RemovalRateLimit == "" {
		return 0, nil
	}
	count, span, ok := strings.Cut(c.RemovalRateLimit, "/")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is not a rate such as 1/10mins", c.RemovalRateLimit)
	}
	d, err := config.ParseDuration(span)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a rate such as 1/10mins", c.RemovalRateLimit)
	}
	return max(d/time.Duration(n), 1), nil
}

// MinAllocatableResources is --min_allocatable_resources: any alternative suffices; none when it is empty.
func (c *Config) MinAllocatableResources() ([]resources.Quantities, error) {
	var out []resources.Quantities
	for alternative := range strings.SplitSeq(c.MinAllocatable, "|") {
		if strings.TrimSpace(alternative) == "" {
			continue
		}
		q, err := resources.ParseQuantities(alternative)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

// WeightsMap is --weights.
func (c *Config) WeightsMap() (map[string]float64, error) {
	out := map[string]float64{}
	for item := range strings.SplitSeq(c.Weights, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		role, text, ok := strings.Cut(strings.TrimSpace(item), "=")
		w, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil || !(w > 0) || w > 1e9 {
			return nil, fmt.Errorf("%q is not role=weight with a positive weight", item)
		}
		if err := resources.ValidateRole(role); err != nil {
			return nil, err
		}
		out[role] = w
	}
	return out, nil
}

// FairShareExcluded is --fair_sharing_excluded_resource_names.
func (c *Config) FairShareExcluded() []string {
	return strings.FieldsFunc(c.FairShareExclude, func(r rune) bool { return r == ',' || r == ' ' })
}

// FaultDomain is --domain, nil when it is not given.
func (c *Config) FaultDomain() (*mesosv1.DomainInfo, error) {
	if c.Domain == "" {
		return nil, nil
	}
	d := &mesosv1.DomainInfo{}
	if err := mesosjson.Unmarshal([]byte(c.Domain), d); err != nil {
		return nil, err
	}
	if d.GetFaultDomain() == nil {
		return nil, fmt.Errorf("it has no fault_domain")
	}
	return d, nil
}

// DisabledEndpoints are the paths of --firewall_rules.
func (c *Config) DisabledEndpoints() ([]string, error) {
	if c.FirewallRules == "" {
		return nil, nil
	}
	var rules struct {
		Disabled struct {
			Paths []string `json:"paths"`
		} `json:"disabled_endpoints"`
	}
	if err := json.Unmarshal([]byte(c.FirewallRules), &rules); err != nil {
		return nil, err
	}
	return rules.Disabled.Paths, nil
}
