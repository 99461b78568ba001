package agent

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/resources"
)

func parse(t *testing.T, args ...string) (Config, error) {
	t.Helper()
	var cfg Config
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	set := config.Bind(fs, &cfg, BindOptions())
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	return cfg, set.Load(func(name string) (string, bool) {
		if name == "MESOS_GC_DELAY" {
			return "3days", true
		}
		return "", false
	})
}

func TestMesosFlags(t *testing.T) {
	t.Parallel()
	cfg, err := parse(t, "--master=zk://a:1,b:2/mesos", "--work-dir=/x", "--resources=cpus:4;mem:100", "--attributes=rack:r1", "--executor_registration_timeout=2mins",
		"--containerizers=mesos", "--no-strict", "--no-switch_user", "--recover=cleanup", "--domain={\"fault_domain\":{\"region\":{\"name\":\"r\"},\"zone\":{\"name\":\"z\"}}}",
		"--executor_environment_variables={\"A\":\"b\"}", "--cgroups_enable_cfs", "--fetcher_cache_size=1GB", "--launcher=linux", "--image_providers=DOCKER")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.WorkDir != "/x" || cfg.Strict || cfg.SwitchUser || cfg.RegistrationTimeout.Minutes() != 2 || cfg.GCDelay.Hours() != 72 || cfg.Master.ZooKeeper == nil || cfg.FetcherCacheSize != config.Gigabyte {
		t.Errorf("%+v", cfg)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--recover=sometimes": "recover", "--gc_disk_headroom=1.5": "gc_disk_headroom", "--port=70000": "port", "--ip=nowhere": "ip",
		"--containerizers=rocket": "containerizers", "--resources=cpus:-1": "resources", "--attributes=rack": "attributes", "--domain={": "domain",
		"--executor_reregistration_timeout=1mins": "executor_reregistration_timeout", "--authenticate_http_executors": "jwt_secret_key",
		"--reconfiguration_policy=none": "reconfiguration_policy", "--executor_environment_variables=[1]": "executor_environment_variables",
		"--logging_level=LOUD": "logging_level", "--executor_registration_timeout=0secs": "executor_registration_timeout", "--mastr=x": "mastr",
		"--xfs_project_range=[0-5]": "xfs_project_range", "--xfs_project_range=5-": "xfs_project_range",
	} {
		if _, err := parse(t, "--master=a:1", args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestDefaultResources(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag string
		host host
		want string
	}{
		{"", host{cpus: 4, memMB: 8192, diskMB: 102_400}, "cpus:4; mem:7168; disk:97280; ports:[31000-32000]"},
		{"", host{cpus: 1, memMB: 1500, diskMB: 8000}, "cpus:1; mem:750; disk:4000; ports:[31000-32000]"},
		{"cpus:2;mem(db):512", host{cpus: 4, memMB: 8192, diskMB: 102_400}, "cpus:2; mem(db):512; disk:97280; ports:[31000-32000]"},
		{"cpus:1;mem:1;disk:1;ports:[1-2];gpus:2", host{cpus: 4, memMB: 8192, diskMB: 102_400}, "cpus:1; mem:1; disk:1; ports:[1-2]; gpus:2"},
		{"cpus:1;mem:1;disk:1;ports:[1-2]", host{gpus: 3, isGPU: true}, "cpus:1; mem:1; disk:1; ports:[1-2]; gpus:3"},
		{"cpus:1;mem:1;disk:1;ports:[1-2];gpus(ml):2", host{gpus: 3, isGPU: true}, "cpus:1; mem:1; disk:1; ports:[1-2]; gpus(ml):2"},
	} {
		got, err := configuredResources(c.flag, c.host)
		if err != nil {
			t.Errorf("%q: %v", c.flag, err)
			continue
		}
		if want := resources.MustParse(c.want); !got.Equal(want) {
			t.Errorf("%q on %+v: %s, want %s", c.flag, c.host, got, want)
		}
	}
	if _, err := configuredResources("gpus:4", host{cpus: 1, memMB: 1, diskMB: 1, gpus: 3, isGPU: true}); err == nil || !strings.Contains(err.Error(), "gpus:4 are to be offered, and 3 are here") {
		t.Errorf("more GPUs than there are: %v", err)
	}
	none := Config{}
	none.Isolation = "gpu/nvidia,cgroups/cpu"
	if err := new(host).countGPUs(&none); err == nil || !strings.Contains(err.Error(), "no NVIDIA GPU") {
		if _, serr := os.Stat("/dev/nvidia0"); serr != nil { // else this host has one
			t.Errorf("a host without GPUs: %v", err)
		}
	}
	none.Isolation, none.GPUDevices = "", "0"
	if _, err := none.gpus(); err == nil || !strings.Contains(err.Error(), "needs the isolation gpu/nvidia") {
		t.Errorf("--nvidia_gpu_devices without the isolation: %v", err)
	}
	none.Isolation, none.GPUDevices = "gpu/nvidia", "0,x"
	if _, err := none.gpus(); err == nil || !strings.Contains(err.Error(), `"x" is not the number of a GPU`) {
		t.Errorf("a GPU x: %v", err)
	}
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	cfg := Config{Attributes: "rack:r1;cores:4;weight:2.5;ports:[1-3,7-9];zones:{a,b};v:1.2.3;inf:inf"}
	list, err := cfg.attributes()
	if err != nil {
		t.Fatal(err)
	}
	want := []mesosv1.Value_Type{mesosv1.Value_TEXT, mesosv1.Value_SCALAR, mesosv1.Value_SCALAR, mesosv1.Value_RANGES, mesosv1.Value_SET, mesosv1.Value_TEXT, mesosv1.Value_TEXT}
	for i, a := range list {
		if a.GetType() != want[i] || math.IsInf(a.GetScalar().GetValue(), 0) {
			t.Errorf("%v, want type %v", a, want[i])
		}
	}
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	p := resources.MustParse
	reserved, err := resources.FromProto([]*mesosv1.Resource{{
		Name: new("mem"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: new(600.0)},
		Reservations: []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: new("r")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		total, was, is, used resources.Resources
		policy               string
		want                 resources.Resources
		wantErr              string
	}{
		"same":           {p("cpus:4;mem:1000"), p("cpus:4;mem:1000"), p("cpus:4;mem:1000"), p("cpus:4"), "equal", p("cpus:4;mem:1000"), ""},
		"more":           {p("cpus:4;mem:1000"), p("cpus:4;mem:1000"), p("cpus:8;mem:1000"), p("cpus:4"), "additive", p("cpus:8;mem:1000"), ""},
		"new name":       {p("cpus:4"), p("cpus:4"), p("cpus:4;gpus:2"), p("cpus:4"), "additive", p("cpus:4;gpus:2"), ""},
		"less, unused":   {p("cpus:4;mem:1000"), p("cpus:4;mem:1000"), p("cpus:2;mem:1000"), p("cpus:2"), "additive", p("cpus:2;mem:1000"), ""},
		"less than used": {p("cpus:4;mem:1000"), p("cpus:4;mem:1000"), p("cpus:1;mem:1000"), p("cpus:2"), "additive", p(""), "drain"},
		"reserved":       {p("mem:400").Add(reserved), p("mem:1000"), p("mem:500"), p(""), "additive", p(""), "unreserve"},
		"around reserve": {p("mem:400").Add(reserved), p("mem:1000"), p("mem:800"), p(""), "additive", p("mem:200").Add(reserved), ""},
		"equal":          {p("cpus:4"), p("cpus:4"), p("cpus:8"), p(""), "equal", p(""), "--reconfiguration_policy"},
	} {
		got, err := reconfigure(c.total, c.was, c.is, c.policy, c.used)
		switch {
		case c.wantErr != "":
			if err == nil || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%s: %v, want an error that says %q", name, err, c.wantErr)
			}
		case err != nil || !got.Equal(c.want):
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
}

func TestReconfigurationAcrossARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cpus := "8"
		h := newHarness(t, func(c *Config, _ *Deps) {
			c.Resources, c.Attributes = "cpus:"+cpus, "rack:"+cpus
		})
		h.registered()
		h.run(customTask("t1", "e"))
		cpus = "16"
		h.restart()
		re := h.master.expect("re-registration", isReregister).GetReregister()
		if got := resources.FromProtoTrusted(re.GetAgent().GetTotalResources()).Scalar("cpus"); got != 16 {
			t.Errorf("total has %v cpus", got)
		}
		if got := re.GetAgent().GetInfo().GetAttributes()[0].GetScalar().GetValue(); got != 16 {
			t.Errorf("attribute %v", got)
		}
		h.stop()
		cpus = "1"
		h.start()
		if err := <-h.result; err == nil || !strings.Contains(err.Error(), "drain") {
			t.Errorf("shrinking below what is used: %v", err)
		}
		h.result <- nil
		h.stop()
		cpus = "2"
		h.start()
		h.master.expect("re-registration", isReregister)
	})
}

func TestCredential(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{"me secret": {"me", "secret"}, `{"principal":"me","secret":"s"}`: {"me", "s"}} {
		p, s, err := parseCredential(text)
		if err != nil || [2]string{p, s} != want {
			t.Errorf("%s: %s %s %v", text, p, s, err)
		}
	}
	for _, text := range []string{"", "me", "{", `{"secret":"s"}`, "a b c"} {
		if _, _, err := parseCredential(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// FuzzAttributes reads --attributes.
func FuzzAttributes(f *testing.F) {
	for _, s := range []string{"rack:2;u:1", "a:[1-2,4-5]", "a:{x,y}", "a:", ":b", "a:1e309", "a:[5-1]", "a:b:c", "\n;;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := Config{Attributes: text}
		list, err := c.attributes()
		if err == nil && strings.TrimSpace(text) == "" && len(list) > 0 {
			t.Fatalf("%q gives %v", text, list)
		}
		for _, a := range list {
			if a.GetName() == "" {
				t.Fatalf("%q gives an attribute without a name", text)
			}
		}
	})
}
