package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// Config is an agent's configuration. Names and defaults are Mesos' where the help does not say otherwise.
type Config struct {
	Network
	Executors
	Containers
	Confinement
	Images
	DockerEngine
	Disk
	Security
	Tuning

	Master     election.Target `flag:"master" help:"Where the leading master is found: zk://host:port,…/path, or host:port of masters."`
	WorkDir    string          `flag:"work_dir" default:"/var/lib/orchestrator/agent" help:"Directory of sandboxes and of what must survive a restart."`
	RuntimeDir string          `flag:"runtime_dir" default:"/var/run/orchestrator/agent" help:"Directory of what need not survive a reboot. As another user than root: <work_dir>/run."`
	Resources  string          `flag:"resources" help:"What the agent offers: name(role):value;… or JSON. What is not named is taken from the host: all cpus, memory but 1 GB (or half of it), disk but 5 GB (or half of it), ports [31000-32000]."`
	Attributes string          `flag:"attributes" help:"What tells this agent from others: rack:2;u:1;… Values may be numbers, ranges, sets or text."`
	Domain     config.JSON     `flag:"domain" help:"Fault domain of this agent: {\"fault_domain\":{\"region\":{\"name\":…},\"zone\":{\"name\":…}}}."`
	LogDir     string          `flag:"log_dir" help:"Directory to write log files into, besides standard error."`
	LogLevel   string          `flag:"logging_level" default:"INFO" help:"Least severe messages to log: DEBUG, INFO, WARNING or ERROR."`

	Recover         string `flag:"recover" default:"reconnect" help:"What becomes of the executors of an earlier process: reconnect, or cleanup (they are shut down, then the agent exits)."`
	Strict          bool   `flag:"strict" default:"true" help:"Whether a corrupt record of the checkpoint stops the agent. With --no-strict it goes on without the record and says so."`
	Reconfiguration string `flag:"reconfiguration_policy" default:"additive" help:"What may change between two runs: additive (any attribute; any resource, as long as what runs still fits), or equal (nothing, Mesos' default)."`

	OversubscribedInterval time.Duration `flag:"oversubscribed_resources_interval" default:"15secs" ignored:"estimators are Mesos modules" help:"How often revocable resources are estimated."`
	Modules                config.JSON   `flag:"modules" ignored:"Mesos' modules are C++ libraries" help:"Modules to load."`
	ModulesDir             string        `flag:"modules_dir" ignored:"Mesos' modules are C++ libraries" help:"Directory of module manifests."`
	Hooks                  string        `flag:"hooks" ignored:"Mesos' hooks are C++ libraries" help:"Hooks to install."`
	Quiet                  bool          `flag:"quiet" default:"false" help:"Do not log to standard error."`
	LogBufSecs             int           `flag:"logbufsecs" default:"0" ignored:"log lines are never held back" help:"How long to hold log lines back."`
	SystemdSupport         bool          `flag:"systemd_enable_support" default:"true" ignored:"helpers leave the agent's control group by themselves" help:"Keep executors alive when systemd restarts the agent."`
}

// Network says where the agent listens and how others reach it.
type Network struct {
	IP            string `flag:"ip" default:"0.0.0.0" env:"LIBPROCESS_IP" help:"Address to listen on."`
	Port          int    `flag:"port" default:"5051" env:"LIBPROCESS_PORT" help:"Port to listen on; 0 picks a free one."`
	AdvertiseIP   string `flag:"advertise_ip" env:"LIBPROCESS_ADVERTISE_IP" help:"Address that others reach this agent at, when it is not --ip."`
	AdvertisePort int    `flag:"advertise_port" env:"LIBPROCESS_ADVERTISE_PORT" help:"Port that others reach this agent at, when it is not --port."`
	Hostname      string `flag:"hostname" help:"Name that others reach this agent by. Unset: looked up from the address."`
	LookupHost    bool   `flag:"hostname_lookup" default:"true" help:"Look the name up; otherwise the address is used as the name."`
	DomainSocket  bool   `flag:"http_executor_domain_sockets" default:"false" help:"Serve the executor API on a unix socket as well, named by MESOS_DOMAIN_SOCKET in executors' environments."`
	SocketPath    string `flag:"domain_socket_location" help:"Path of that socket. Unset: <runtime_dir>/agent.sock."`
}

// Executors are the settings about executors.
type Executors struct {
	RegistrationTimeout   time.Duration     `flag:"executor_registration_timeout" default:"1mins" help:"How long an executor may take to subscribe, fetching included, before it is destroyed."`
	ReregistrationTimeout time.Duration     `flag:"executor_reregistration_timeout" default:"2secs" help:"How long an executor may take to subscribe again after a restart of the agent; at most 15secs."`
	ReregistrationRetry   time.Duration     `flag:"executor_reregistration_retry_interval" default:"0ns" ignored:"executors come back by themselves" help:"How often executors are asked to come back."`
	ShutdownGrace         time.Duration     `flag:"executor_shutdown_grace_period" default:"5secs" help:"Time between asking an executor to shut down and destroying it."`
	RecoveryTimeout       time.Duration     `flag:"recovery_timeout" default:"15mins" help:"How long executors wait for a restarted agent before they end themselves."`
	Environment           config.JSON       `flag:"executor_environment_variables" help:"JSON object of the environment of executors, instead of a PATH alone."`
	HTTPCommandExecutor   bool              `flag:"http_command_executor" default:"true" ignored:"the command executor has its own link to the agent" help:"Let the command executor use the v1 API."`
	MaxCompletedExecutors int               `flag:"max_completed_executors_per_framework" default:"150" help:"Ended executors of a framework to remember."`
	SwitchUser            bool              `flag:"switch_user" default:"true" help:"Run tasks as the user that their framework names. Without root it has no effect."`
	FrameworksHome        config.Path       `flag:"frameworks_home" help:"Directory that relative URIs of commands are below."`
	Secrets               map[string]string `flag:"secret_resolver" ignored:"secrets come later" help:"Resolver of secrets."`
}

// Containers are the settings of the containerizers.
type Containers struct {
	Containerizers   []string      `flag:"containerizers" default:"mesos" help:"Containerizers, tried in this order: docker, mesos."`
	Isolation        string        `flag:"isolation" help:"Isolators of the mesos containerizer. Unset: the best that the host gives."`
	Launcher         string        `flag:"launcher" default:"linux" ignored:"there is one launcher" help:"How processes are started."`
	LauncherDir      string        `flag:"launcher_dir" ignored:"the helper is part of this binary" help:"Directory of Mesos' helpers."`
	CgroupsRoot      string        `flag:"cgroups_root" default:"mesos" help:"Name of the control group that holds the containers'."`
	CgroupsHierarchy string        `flag:"cgroups_hierarchy" default:"/sys/fs/cgroup" help:"Where control groups are mounted."`
	CgroupsCFS       bool          `flag:"cgroups_enable_cfs" default:"false" help:"Limit the cpu of containers to what they have even when the host is idle."`
	CgroupsSwap      bool          `flag:"cgroups_limit_swap" default:"false" help:"Count swap into the memory limit."`
	PidsLimit        int           `flag:"cgroups_pids_limit" env:"-" default:"0" help:"Processes and threads that a container may have; 0: the built-in limit."`
	EnforceDiskQuota bool          `flag:"enforce_container_disk_quota" default:"false" help:"End containers that use more disk than they have."`
	DiskInterval     time.Duration `flag:"container_disk_watch_interval" default:"15secs" help:"How often the disk usage of containers is measured."`
	XFSProjectRange  string        `flag:"xfs_project_range" default:"[5000-10000]" help:"Numbers of projects that the isolation disk/xfs gives to sandboxes and persistent volumes."`
	XFSKill          bool          `flag:"xfs_kill_containers" default:"false" help:"End a container that uses more disk than it has, with the isolation disk/xfs and --enforce_container_disk_quota; otherwise it can only write no more."`
	FetcherCacheSize config.Bytes  `flag:"fetcher_cache_size" default:"2GB" help:"Size of the cache of fetched URIs."`
	FetcherCacheDir  string        `flag:"fetcher_cache_dir" help:"Directory of that cache. Unset: <work_dir>/fetch."`
	FetcherStall     time.Duration `flag:"fetcher_stall_timeout" default:"1mins" help:"How long a download may stand still."`
	LogMax           config.Bytes  `flag:"container_log_max_size" env:"-" default:"10MB" help:"Size at which stdout and stderr of a sandbox are rotated."`
	LogKeep          int           `flag:"container_log_keep" env:"-" default:"1" help:"Rotated files that are kept."`
}

// Disk are the settings about old sandboxes.
type Disk struct {
	GCDelay       time.Duration `flag:"gc_delay" default:"1weeks" help:"Longest time that the sandbox of an ended executor is kept. The fuller the disk, the sooner it goes."`
	GCHeadroom    float64       `flag:"gc_disk_headroom" default:"0.1" help:"Share of the disk that is kept free by deleting old sandboxes sooner."`
	WatchInterval time.Duration `flag:"disk_watch_interval" default:"1mins" help:"How often the usage of the disk is looked at."`
}

// Security says who is let in.
type Security struct {
	AuthReadonly       bool        `flag:"authenticate_http_readonly" default:"false" help:"Require HTTP authentication for what only reads."`
	AuthReadwrite      bool        `flag:"authenticate_http_readwrite" default:"false" help:"Require HTTP authentication for what changes something."`
	AuthExecutors      bool        `flag:"authenticate_http_executors" default:"false" help:"Require executors to show the token from their environment."`
	JWTSecretKey       config.Path `flag:"jwt_secret_key" help:"File with the key that executors' tokens are signed with."`
	HTTPCredentials    config.Path `flag:"http_credentials" help:"File of principals and secrets for HTTP."`
	Credential         config.Path `flag:"credential" help:"File with this agent's own principal and secret, shown to the master."`
	ACLs               config.JSON `flag:"acls" help:"Access control lists, as Mesos has them."`
	HTTPAuthenticators string      `flag:"http_authenticators" default:"basic" ignored:"basic authentication is built in" help:"HTTP authenticators."`
	Authenticatee      string      `flag:"authenticatee" default:"crammd5" ignored:"there is no SASL" help:"How this agent authenticates."`
	Authorizer         string      `flag:"authorizer" default:"local" ignored:"access control lists are built in" help:"Authorizer."`
}

// Tuning are settings that hardly anybody needs.
type Tuning struct {
	BackoffFactor   time.Duration `flag:"registration_backoff_factor" default:"1secs" help:"A failed registration is repeated after a random part of this, doubled each time, up to 1mins."`
	RegisterTimeout time.Duration `flag:"registration_timeout" env:"-" default:"1mins" help:"How long a master may take to answer a registration."`
	PingTimeout     time.Duration `flag:"master_ping_timeout" env:"-" default:"75secs" help:"Without a ping for this long the agent looks for the leader again, unless the master names another time."`
	MaxRequestBody  config.Bytes  `flag:"max_request_body" env:"-" default:"32MB" help:"Largest body of a call."`
	StreamQueue     config.Bytes  `flag:"stream_queue_limit" env:"-" default:"64MB" help:"What may wait for an executor that does not read; beyond it the executor is disconnected."`
	EventQueue      int           `flag:"event_queue_limit" env:"-" default:"8192" help:"Calls and messages that may wait for the agent."`
	StatisticsRate  float64       `flag:"statistics_rate_limit" env:"-" default:"2" help:"Requests a second for /monitor/statistics and /containers beyond which callers wait."`
}

// BindOptions are how an agent's settings are named.
func BindOptions() config.Options { return config.Options{EnvPrefix: []string{"MESOS_"}} }

// maxReregistration is Mesos' bound on --executor_reregistration_timeout: nobody is served meanwhile.
const maxReregistration = 15 * time.Second

// Validate reports everything that is wrong with the configuration.
func (c *Config) Validate() error {
	var p config.Problems
	if c.IP != "" && net.ParseIP(c.IP) == nil {
		p.Addf("ip", "%q is not an IP address", c.IP)
	}
	if c.AdvertiseIP != "" && net.ParseIP(c.AdvertiseIP) == nil {
		p.Addf("advertise_ip", "%q is not an IP address", c.AdvertiseIP)
	}
	for name, v := range map[string]int{"port": c.Port, "advertise_port": c.AdvertisePort} {
		if v < 0 || v > 65535 {
			p.Addf(name, "%d is not between 0 and 65535", v)
		}
	}
	for name, d := range map[string]time.Duration{
		"executor_registration_timeout": c.RegistrationTimeout, "executor_reregistration_timeout": c.ReregistrationTimeout,
		"recovery_timeout": c.RecoveryTimeout, "registration_backoff_factor": c.BackoffFactor, "disk_watch_interval": c.WatchInterval,
		"registration_timeout": c.RegisterTimeout, "master_ping_timeout": c.PingTimeout, "container_disk_watch_interval": c.DiskInterval,
	} {
		if d <= 0 {
			p.Addf(name, "%s is not a positive duration", config.FormatDuration(d))
		}
	}
	if c.ReregistrationTimeout > maxReregistration {
		p.Addf("executor_reregistration_timeout", "%s is more than %s, and nothing is served meanwhile", config.FormatDuration(c.ReregistrationTimeout), config.FormatDuration(maxReregistration))
	}
	if c.ShutdownGrace < 0 {
		p.Addf("executor_shutdown_grace_period", "must not be negative")
	}
	if c.GCDelay < 0 {
		p.Addf("gc_delay", "must not be negative")
	}
	if !(c.GCHeadroom >= 0 && c.GCHeadroom <= 1) {
		p.Addf("gc_disk_headroom", "%v is not between 0.0 and 1.0", c.GCHeadroom)
	}
	if c.Recover != "reconnect" && c.Recover != "cleanup" {
		p.Addf("recover", "%q is neither reconnect nor cleanup", c.Recover)
	}
	switch c.Reconfiguration {
	case "equal", "additive":
	default:
		p.Addf("reconfiguration_policy", "%q is neither additive nor equal", c.Reconfiguration)
	}
	if c.EventQueue < 1 || c.EventQueue > 1<<24 {
		p.Addf("event_queue_limit", "%d is not between 1 and %d", c.EventQueue, 1<<24)
	}
	if c.WorkDir == "" {
		p.Addf("work_dir", "must be given")
	}
	if c.MaxCompletedExecutors < 0 {
		p.Addf("max_completed_executors_per_framework", "must not be negative")
	}
	if c.AuthExecutors && c.JWTSecretKey == "" {
		p.Addf("authenticate_http_executors", "needs --jwt_secret_key")
	}
	if (c.AuthReadonly || c.AuthReadwrite) && c.HTTPCredentials == "" {
		p.Addf("authenticate_http_readwrite", "authentication needs --http_credentials")
	}
	if len(c.Containerizers) == 0 {
		p.Addf("containerizers", "must name at least one")
	}
	for _, name := range c.Containerizers {
		if name != "mesos" && name != "docker" {
			p.Addf("containerizers", "%q is not known here; known are docker and mesos", name)
		}
	}
	c.validateImages(&p)
	if c.DockerRemove < 0 || c.DockerStop < 0 {
		p.Addf("docker_remove_delay", "it and docker_stop_timeout must not be negative")
	}
	_, err := c.confinement()
	if err != nil {
		p = append(p, err)
	}
	_, err = c.attributes()
	p.Check("attributes", err)
	_, err = c.faultDomain()
	p.Check("domain", err)
	_, err = c.executorEnvironment()
	p.Check("executor_environment_variables", err)
	_, err = c.Level()
	p.Check("logging_level", err)
	_, err = parseResources(c.Resources)
	p.Check("resources", err)
	return p.Err()
}

func (c *Config) faultDomain() (*mesosv1.DomainInfo, error) {
	if strings.TrimSpace(string(c.Domain)) == "" {
		return nil, nil
	}
	d := &mesosv1.DomainInfo{}
	if err := mesosjson.Unmarshal([]byte(c.Domain), d); err != nil {
		return nil, err
	}
	return d, nil
}

// executorEnvironment is what executors get beside Mesos' own variables; nil: a PATH alone.
func (c *Config) executorEnvironment() (map[string]string, error) {
	if strings.TrimSpace(string(c.Environment)) == "" {
		return nil, nil
	}
	env := map[string]string{}
	if err := json.Unmarshal([]byte(c.Environment), &env); err != nil {
		return nil, fmt.Errorf("expecting a JSON object of strings: %w", err)
	}
	for k := range env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return nil, fmt.Errorf("%q is no name of a variable", k)
		}
	}
	return env, nil
}

// Level is --logging_level. glog's FATAL is taken as ERROR.
func (c *Config) Level() (slog.Level, error) {
	switch strings.ToUpper(c.LogLevel) {
	case "DEBUG":
		return slog.LevelDebug, nil
	case "INFO", "":
		return slog.LevelInfo, nil
	case "WARNING", "WARN":
		return slog.LevelWarn, nil
	case "ERROR", "FATAL":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is none of DEBUG, INFO, WARNING, ERROR", c.LogLevel)
}
