package master

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/orchestrator/orchestrator/internal/config"
)

func load(t *testing.T, args ...string) (*Config, error) {
	t.Helper()
	cfg := &Config{}
	fs := pflag.NewFlagSet("master", pflag.ContinueOnError)
	set := config.Bind(fs, cfg, BindOptions())
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return cfg, set.Load(func(string) (string, bool) { return "", false })
}

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	cfg, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.PingTimeout != 15*time.Second || cfg.MaxPingTimeouts != 5 || cfg.Port != 5050 || !cfg.FilterGPU {
		t.Errorf("defaults are %+v", cfg)
	}
	if q, err := cfg.MinAllocatableResources(); err != nil || len(q) != 2 || q[1].Get("mem").Float() != 32 {
		t.Errorf("min allocatable is %v, %v", q, err)
	}
	if l, err := cfg.AgentRemovalLimit(); err != nil || l != 1 {
		t.Error(l, err)
	}
}

// TestMesosCommandLines are those that installations of Mesos use.
func TestMesosCommandLines(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"--zk=zk://10.0.0.1:2181,10.0.0.2:2181/mesos --quorum=2 --work_dir=/var/lib/mesos --log_dir=/var/log/mesos --hostname=m1",
		"--ip=127.0.0.1 --port=5050 --registry=in_memory --slave_ping_timeout=10secs --max_slave_ping_timeouts=3 --no-hostname_lookup",
		"--roles=web,batch --weights=web=2,batch=1.5 --authenticate_http_readonly --credentials=file:///etc/mesos/credentials --quiet",
		`--domain={"fault_domain":{"region":{"name":"eu"},"zone":{"name":"a"}}} --agent_removal_rate_limit=1/10mins --offer_timeout=30secs`,
		`--firewall_rules={"disabled_endpoints":{"paths":["/files/browse"]}} --recovery_slave_removal_limit=50% --logging_level=WARNING`,
	} {
		if _, err := load(t, strings.Fields(line)...); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"--ip=localhost":                         "ip: ",
		"--port=70000":                           "port: 70000 is not between 0 and 65535",
		"--agent_ping_timeout=0secs":             "agent_ping_timeout: ",
		"--offer_timeout=-1secs":                 "0ns means never",
		"--zk=10.0.0.1:2181":                     "zk: ",
		"--registry=sqlite":                      "none of auto",
		"--registry=zookeeper":                   "needs --zk",
		"--recovery_agent_removal_limit=half":    "not a percentage",
		"--recovery_agent_removal_limit=101%":    "between",
		"--agent_removal_rate_limit=10mins":      "not a rate",
		"--min_allocatable_resources=cpus:-1":    "min_allocatable_resources: ",
		"--weights=a=0":                          "positive weight",
		"--weights=a/=1":                         "weights: ",
		"--domain={}":                            "no fault_domain",
		"--firewall_rules=[]":                    "firewall_rules: ",
		"--logging_level=LOUD":                   "none of DEBUG",
		`--acls={"run_task":[]}`:                 "there is no such action",
		"--roles=..":                             "roles: ",
		"--authenticate_http_readwrite":          "give --credentials",
		"--max_completed_tasks_per_framework=-1": "max_completed_tasks_per_framework: ",
	} {
		if _, err := load(t, arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not say %q", arg, err, want)
		}
	}
}
