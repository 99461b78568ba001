package marathon

import (
	"net"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/marathon/core"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// EnvPrefix is what environment variables of settings begin with.
const EnvPrefix = "MARATHON_"

// BindOptions say how the settings' names look.
func BindOptions() config.Options { return config.Options{EnvPrefix: []string{EnvPrefix}} }

// Config is the configuration. Names are Marathon's, and so are the defaults where the help does not say otherwise.
type Config struct {
	Master          election.Target `flag:"master" default:"127.0.0.1:5050" help:"Mesos masters: host:port,… or zk://host:port,…/path."`
	Zk              election.Target `flag:"zk" help:"zk://host:port,…/path: keep state and contend for leadership there. Unset: one process, state in --data_dir."`
	ZkSession       int             `flag:"zk_session_timeout" default:"10000" help:"Session timeout with ZooKeeper, in milliseconds."`
	DataDir         string          `flag:"data_dir" default:"/var/lib/orchestrator/marathon" help:"Directory of the state when --zk is not given. It must survive restarts."`
	Store           string          `flag:"internal_store_backend" default:"auto" help:"Where state is kept: zk, bolt, mem (lost at exit), auto: zk when --zk is given, else bolt."`
	Hostname        string          `flag:"hostname" help:"Name that others reach this process by. Unset: the address it listens on, or 127.0.0.1."`
	HTTPAddress     string          `flag:"http_address" default:"0.0.0.0" help:"Address to listen on."`
	HTTPPort        int             `flag:"http_port" default:"8080" help:"Port to listen on; 0 picks a free one."`
	HTTPSAddress    string          `flag:"https_address" default:"0.0.0.0" help:"Address to listen on for TLS."`
	HTTPSPort       int             `flag:"https_port" default:"8443" help:"Port to listen on for TLS, when --ssl_keystore_path is given; 0 picks a free one."`
	SSLKeystore     config.Path     `flag:"ssl_keystore_path" help:"PEM file with certificate, chain and key: serve TLS. It is read again when it changes. Marathon wants a Java keystore here."`
	DisableHTTP     bool            `flag:"disable_http" default:"false" help:"Serve TLS only."`
	HTTPCredentials string          `flag:"http_credentials" secret:"true" help:"user:password that requests must carry."`
	HTTPRealm       string          `flag:"http_realm" default:"Mesosphere" help:"Realm of basic authentication."`
	NoCompression   bool            `flag:"disable_http_compression" default:"false" help:"Never compress answers."`
	MaxConcurrent   int             `flag:"http_max_concurrent_requests" default:"0" help:"Requests that are served at once; above it the answer is 503. 0: any number."`
	MaxBody         config.Bytes    `flag:"http_max_request_body" default:"32MB" help:"Largest body of a request. Not a setting of Marathon's."`
	AllowOrigin     []string        `flag:"access_control_allow_origin" help:"Origins that browsers may call from, comma separated."`
	WebUIURL        string          `flag:"webui_url" help:"URL of a console, shown to the master."`

	FrameworkName   string      `flag:"framework_name" default:"marathon" help:"Name of the framework."`
	Role            string      `flag:"mesos_role" default:"*" help:"Role whose resources are used, unless an app has its own."`
	User            string      `flag:"mesos_user" help:"User that tasks run as. Unset: the agent's default."`
	Principal       string      `flag:"mesos_authentication_principal" alias:"mesos_principal" help:"Principal to authenticate with."`
	Secret          string      `flag:"mesos_authentication_secret" secret:"true" help:"Secret of the principal."`
	SecretFile      config.Path `flag:"mesos_authentication_secret_file" help:"File that holds the secret."`
	FailoverTimeout int64       `flag:"failover_timeout" default:"604800" help:"Seconds that the master keeps tasks running without this framework."`
	Checkpoint      bool        `flag:"checkpoint" default:"true" help:"Let tasks survive restarts of their agent."`
	Executor        string      `flag:"executor" default:"//cmd" help:"Executor of apps that name none."`
	EnvVarsPrefix   string      `flag:"env_vars_prefix" help:"What HOST and PORT variables of tasks begin with."`
	Features        []string    `flag:"enable_features" help:"Features to enable: vips, task_killing, external_volumes, secrets, gpu_resources."`
	DefaultNetwork  string      `flag:"default_network_name" help:"Container network of apps that name none."`
	PortMin         int         `flag:"local_port_min" default:"10000" help:"Lowest service port that is assigned."`
	PortMax         int         `flag:"local_port_max" default:"20000" help:"Service ports are below this."`
	MaxApps         int         `flag:"max_apps" default:"0" help:"Greatest number of apps; 0: any."`
	GroupRole       string      `flag:"new_group_enforce_role" default:"off" help:"Whether new top-level groups enforce their name as role: off or top."`
	GPUBehavior     string      `flag:"gpu_scheduling_behavior" default:"restricted" help:"What runs on agents with GPUs: restricted (what asks for them) or unrestricted."`

	MaxPerOffer       int           `flag:"max_instances_per_offer" alias:"max_tasks_per_offer" default:"100" help:"Instances started from one offer. Marathon's default is 5, which makes small clusters slow."`
	MaxDeployments    int           `flag:"max_running_deployments" default:"100" help:"Deployments that run at once."`
	DeclineDuration   int64         `flag:"decline_offer_duration" default:"120000" help:"Milliseconds for which an offer that nothing is wanted from is declined."`
	ReviveInterval    int64         `flag:"min_revive_offers_interval" default:"100" help:"Milliseconds between two requests for offers. Marathon's default is 5000."`
	LaunchTimeout     int64         `flag:"task_launch_timeout" default:"300000" help:"Milliseconds that a task may stay in staging."`
	ConfirmTimeout    int64         `flag:"task_launch_confirm_timeout" default:"300000" help:"Milliseconds from taking an offer to the first status."`
	KillRetry         int64         `flag:"kill_retry_timeout" default:"10000" help:"Milliseconds between two kills of a task that doesn't end."`
	Reconcile         int64         `flag:"reconciliation_interval" default:"600000" help:"Milliseconds between two reconciliations with the master."`
	MaxVersions       int           `flag:"zk_max_versions" default:"50" help:"Versions kept of each definition."`
	Draining          int64         `flag:"draining_seconds" default:"0" help:"Offers of agents whose maintenance begins sooner than this are declined."`
	EventQueue        int           `flag:"event_stream_max_outstanding_messages" default:"1024" help:"Events that a reader may be behind before it is cut off."`
	DeploymentPolicy  string        `flag:"deployment_policy" default:"keep-waiting" help:"What happens to a deployment that misses its deadline: keep-waiting, pause, rollback or keep. Not a setting of Marathon's; apps can say otherwise by label."`
	Deadline          time.Duration `flag:"deployment_deadline" default:"0secs" help:"How long a deployment may take; 0: for ever. Not a setting of Marathon's."`
	PrometheusURL     string        `flag:"prometheus_url" help:"Prometheus that canary and autoscaling queries are put to. Not a setting of Marathon's."`
	AutoscaleInterval time.Duration `flag:"autoscale_interval" default:"15secs" help:"How often apps whose labels ask for autoscaling are measured. Not a setting of Marathon's."`
	KeepAlive         time.Duration `flag:"event_stream_keep_alive" default:"10secs" help:"How often an idle event stream carries a comment. Not a setting of Marathon's."`

	SSLPassword      string `flag:"ssl_keystore_password" secret:"true" ignored:"the key in --ssl_keystore_path is not encrypted; protect the file" help:"Password of the keystore."`
	LaunchTokens     int    `flag:"launch_tokens" default:"100" ignored:"launches are not rationed: the back-off of each app bounds what fails" help:"Launches that may be under way."`
	LaunchRefresh    int64  `flag:"launch_token_refresh_interval" default:"30000" ignored:"launches are not rationed" help:"How often launch tokens are renewed."`
	MatchTimeout     int64  `flag:"offer_matching_timeout" default:"3000" ignored:"offers are matched at once" help:"How long an offer may be looked at."`
	ScaleInterval    int64  `flag:"scale_apps_interval" default:"300000" ignored:"the number of instances is kept at all times" help:"How often numbers of instances are checked."`
	ScaleInitial     int64  `flag:"scale_apps_initial_delay" default:"15000" ignored:"the number of instances is kept at all times" help:"When they are checked first."`
	ReconcileInitial int64  `flag:"reconciliation_initial_delay" default:"15000" ignored:"reconciliation follows registration at once" help:"When tasks are reconciled first."`
	HA               bool   `flag:"ha" default:"true" alias:"highly_available" ignored:"--zk decides it" help:"Whether to contend for leadership."`
	AcceptedBehavior string `flag:"accepted_resource_roles_default_behavior" default:"any" ignored:"apps without acceptedResourceRoles use * and their role" help:"Default of acceptedResourceRoles."`
	ZkCompression    bool   `flag:"zk_compression" default:"true" ignored:"records are small" help:"Whether to compress large records."`
	LeaderConnect    int    `flag:"leader_proxy_connection_timeout" default:"5000" help:"Milliseconds that a standby waits for a connection to the leader."`
	LeaderRead       int    `flag:"leader_proxy_read_timeout" default:"10000" help:"Milliseconds that a standby waits for the leader's answer."`
}

var features = []string{"vips", "task_killing", "external_volumes", "secrets", "gpu_resources"}

// Validate reports everything that is wrong, each problem beginning with the setting's name.
func (c *Config) Validate() error {
	var p config.Problems
	if c.Master.IsZero() {
		p.Addf("master", "must not be empty: give the address of a Mesos master, such as --master 127.0.0.1:5050")
	}
	if c.HTTPPort < 0 || c.HTTPPort > 65535 {
		p.Addf("http_port", "%d is no port", c.HTTPPort)
	}
	if c.HTTPSPort < 0 || c.HTTPSPort > 65535 {
		p.Addf("https_port", "%d is no port", c.HTTPSPort)
	}
	if c.DisableHTTP && c.SSLKeystore == "" {
		p.Addf("disable_http", "leaves nothing to be served: TLS needs --ssl_keystore_path")
	}
	if c.PortMin < 1 || c.PortMax > 65536 || c.PortMin >= c.PortMax {
		p.Addf("local_port_min", "service ports need a range within 1 to 65535, got [%d, %d)", c.PortMin, c.PortMax)
	}
	for _, f := range c.Features {
		if !slices.Contains(features, f) {
			p.Addf("enable_features", "%q is unknown; known are %s", f, strings.Join(features, ", "))
		}
	}
	if c.HTTPCredentials != "" && !strings.Contains(c.HTTPCredentials, ":") {
		p.Addf("http_credentials", "must be user:password")
	}
	if !slices.Contains([]string{"auto", "zk", "bolt", "mem"}, c.Store) {
		p.Addf("internal_store_backend", "%q is unknown; known are auto, zk, bolt, mem", c.Store)
	}
	if c.Store == "zk" && c.Zk.ZooKeeper == nil {
		p.Addf("internal_store_backend", "zk needs --zk")
	}
	if !c.Zk.IsZero() && c.Zk.ZooKeeper == nil {
		p.Addf("zk", "must be a zk:// URL")
	}
	if !slices.Contains([]string{"off", "top"}, c.GroupRole) {
		p.Addf("new_group_enforce_role", "%q is unknown; known are off, top", c.GroupRole)
	}
	if !slices.Contains([]string{"keep-waiting", "pause", "rollback", "keep"}, c.DeploymentPolicy) {
		p.Addf("deployment_policy", "%q is unknown; known are keep-waiting, pause, rollback, keep", c.DeploymentPolicy)
	}
	for name, v := range map[string]int64{
		"decline_offer_duration": c.DeclineDuration, "min_revive_offers_interval": c.ReviveInterval, "task_launch_timeout": c.LaunchTimeout,
		"task_launch_confirm_timeout": c.ConfirmTimeout, "reconciliation_interval": c.Reconcile, "failover_timeout": c.FailoverTimeout,
	} {
		if v < 0 {
			p.Addf(name, "must not be negative")
		}
	}
	if c.KillRetry < 100 {
		p.Addf("kill_retry_timeout", "must be at least 100 milliseconds")
	}
	if c.EventQueue < 1 {
		p.Addf("event_stream_max_outstanding_messages", "must be at least 1")
	}
	if c.AutoscaleInterval < 10*time.Millisecond {
		p.Addf("autoscale_interval", "must be at least 10 milliseconds")
	}
	if c.KeepAlive <= 0 {
		p.Addf("event_stream_keep_alive", "must be positive")
	}
	return p.Err()
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// options are the core's settings.
func (c *Config) options() core.Options {
	policy := spec.Policy(c.DeploymentPolicy)
	if c.DeploymentPolicy == "keep-waiting" {
		policy = spec.PolicyNone
	}
	return core.Options{
		Spec: spec.Settings{
			DefaultNetworkName: c.DefaultNetwork, Role: c.Role, Features: c.Features, PortMin: c.PortMin, PortMax: c.PortMax,
			MaxApps: c.MaxApps, EnforceTopRole: c.GroupRole == "top",
		},
		MaxInstancesPerOffer: c.MaxPerOffer, MaxRunningDeployments: c.MaxDeployments, MaxVersions: c.MaxVersions, LaunchConfirmTimeout: ms(c.ConfirmTimeout),
		LaunchTimeout: ms(c.LaunchTimeout), KillRetry: ms(c.KillRetry), DeclineDuration: ms(c.DeclineDuration), ReviveInterval: ms(c.ReviveInterval),
		ReconcileInterval: ms(c.Reconcile), MaintenanceDrain: time.Duration(c.Draining) * time.Second, EnvPrefix: c.EnvVarsPrefix, Executor: c.Executor, User: c.User,
		Principal: c.Principal, Deadline: c.Deadline, Policy: policy, RestrictGPUs: c.GPUBehavior == "restricted",
	}
}

// hostname is the name that others reach this process by.
func (c *Config) hostname(a net.Addr) string {
	if c.Hostname != "" {
		return c.Hostname
	}
	host, _, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}

// info is what /v2/info shows of the configuration.
func (c *Config) info(port, tlsPort any, host string) map[string]any {
	zk := ""
	if c.Zk.ZooKeeper != nil {
		zk = c.Zk.String()
	}
	return map[string]any{
		"marathon_config": map[string]any{
			"access_control_allow_origin": c.AllowOrigin, "checkpoint": c.Checkpoint, "decline_offer_duration": c.DeclineDuration, "default_network_name": c.DefaultNetwork,
			"env_vars_prefix": c.EnvVarsPrefix, "executor": c.Executor, "failover_timeout": c.FailoverTimeout, "features": append([]string{}, c.Features...), "framework_name": c.FrameworkName,
			"ha": c.Zk.ZooKeeper != nil, "hostname": host, "launch_token": c.LaunchTokens, "launch_token_refresh_interval": c.LaunchRefresh,
			"leader_proxy_connection_timeout_ms": c.LeaderConnect, "leader_proxy_read_timeout_ms": c.LeaderRead, "local_port_max": c.PortMax, "local_port_min": c.PortMin,
			"maintenance_mode": true, "master": c.Master.String(), "max_instances_per_offer": c.MaxPerOffer, "mesos_bridge_name": "mesos-bridge",
			"mesos_heartbeat_failure_threshold": 5, "mesos_heartbeat_interval": 15000, "mesos_leader_ui_url": nil, "mesos_role": c.Role, "mesos_user": c.User,
			"min_revive_offers_interval": c.ReviveInterval, "new_group_enforce_role": c.GroupRole, "offer_matching_timeout": c.MatchTimeout, "on_elected_prepare_timeout": 180000,
			"reconciliation_initial_delay": c.ReconcileInitial, "reconciliation_interval": c.Reconcile, "scale_apps_initial_delay": c.ScaleInitial, "scale_apps_interval": c.ScaleInterval,
			"store_cache": true, "task_launch_confirm_timeout": c.ConfirmTimeout, "task_launch_timeout": c.LaunchTimeout, "task_lost_expunge_initial_delay": 300000,
			"task_lost_expunge_interval": 30000, "task_reservation_timeout": 20000, "webui_url": c.WebUIURL,
		},
		"zookeeper_config": map[string]any{
			"zk": zk, "zk_compression": true, "zk_compression_threshold": 65536, "zk_connection_timeout": c.ZkSession, "zk_max_node_size": 1024000,
			"zk_max_versions": c.MaxVersions, "zk_session_timeout": c.ZkSession, "zk_timeout": c.ZkSession,
		},
		"http_config": map[string]any{"http_port": port, "https_port": tlsPort},
	}
}
