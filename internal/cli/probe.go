package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/probe"
)

// probeSettings are the flags of `orchestrator probe`.
type probeSettings struct {
	Monitors     []string      `flag:"monitors" default:"127.0.0.1:4040" help:"Addresses of every monitor replica (host, host:port or URL)."`
	Token        string        `flag:"token" default:"" secret:"true" help:"Secret of a token of kind probe."`
	TokenFile    config.Path   `flag:"token_file" default:"" help:"File that holds the secret; read again at every connect."`
	CAFile       config.Path   `flag:"tls_ca" default:"" help:"Authority of the monitors' certificates (PEM file)."`
	CertFile     config.Path   `flag:"tls_cert" default:"" help:"This probe's certificate (PEM file), instead of a token."`
	KeyFile      config.Path   `flag:"tls_key" default:"" help:"Key of the certificate (PEM file)."`
	ID           string        `flag:"probe_id" default:"" help:"Name of this probe. The host's name by default."`
	Hostname     string        `flag:"hostname" default:"" help:"Name of this host. What the system says by default."`
	Tick         time.Duration `flag:"tick" default:"1secs" help:"How often the picture is put together."`
	MaxProcesses int           `flag:"max_processes" default:"500" help:"How many processes are sent: those with connections first, then the busiest."`
	NetSource    string        `flag:"net_source" default:"auto" help:"Source of connections: auto, ebpf, diag, proc, conntrack, none."`
	Conntrack    string        `flag:"conntrack" default:"auto" help:"Read the kernel's NAT table: auto, on, off."`
	DockerSocket config.Path   `flag:"docker_socket" default:"/var/run/docker.sock" help:"Socket of the Docker Engine; off for none."`
	Runtimes     []string      `flag:"runtime_sockets" default:"/run/containerd/containerd.sock,/run/crio/crio.sock" help:"Sockets of containerd and of other runtimes of Kubernetes (CRI); off for none."`
	MesosAgents  []string      `flag:"mesos_agent" default:"" help:"URLs of this host's Mesos agents, to join containers with tasks."`
	PluginsDir   config.Path   `flag:"plugins_dir" default:"/var/run/scope/plugins" help:"Where the sockets of plugins are (Weave Scope's plugin interface); off for none."`
	PluginsWait  time.Duration `flag:"plugins_timeout" default:"2secs" help:"How long a plugin may take for a report."`
	Kubernetes   string        `flag:"kubernetes" default:"off" help:"Watch the Kubernetes cluster: off, on (by this probe), lease (by the one of all probes that holds the lease)."`
	KubeConfig   config.Path   `flag:"kubeconfig" default:"" help:"How to reach Kubernetes' API server; empty: as a pod does."`
	KubeLease    string        `flag:"kubernetes_lease" default:"orchestrator-probe" help:"The lease with which probes choose one, [namespace/]name."`
	Policy       []string      `flag:"policy" default:"lifecycle,logs,exec,plugins" help:"What monitors may have this probe do: lifecycle, logs, exec, host-exec, plugins; none for nothing."`
	ProcRoot     config.Path   `flag:"proc_root" default:"/proc" help:"Where the host's /proc is."`
	SysRoot      config.Path   `flag:"sys_root" default:"/sys" help:"Where the host's /sys is."`
	CPULimit     float64       `flag:"cpu_limit" default:"3" help:"Percent of a core above which the probe slows itself down."`

	Simulate            int `flag:"simulate" default:"0" help:"Play this many hosts instead of looking at this one."`
	SimulateContainers  int `flag:"simulate_containers" default:"10" help:"Containers of each host that is played."`
	SimulateConnections int `flag:"simulate_connections" default:"5" help:"Connections of each container that is played."`
	SimulateChurn       int `flag:"simulate_churn" default:"0" help:"Connections of each host that is played which change every second."`
}

func newProbeCommand() *cobra.Command {
	var in probeSettings
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Report this host's containers, processes and connections to monitors",
		Args:  cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &in, config.Options{Hyphens: true, EnvPrefix: []string{"ORCHESTRATOR_PROBE_"}})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loadSettings(cmd, set); err != nil {
			return err
		}
		cfg := probe.Config{
			Monitors: in.Monitors, Token: in.Token, TokenFile: string(in.TokenFile), ID: in.ID, Hostname: in.Hostname, Tick: in.Tick,
			MaxProcesses: in.MaxProcesses, NetSource: in.NetSource, Conntrack: in.Conntrack, DockerSocket: string(in.DockerSocket),
			RuntimeSockets: in.Runtimes,
			Kubernetes:     in.Kubernetes, KubeConfig: string(in.KubeConfig), KubeLease: in.KubeLease,
			PluginsDir: string(in.PluginsDir), PluginsTimeout: in.PluginsWait,
			MesosAgents: in.MesosAgents, Policy: in.Policy, ProcRoot: string(in.ProcRoot), SysRoot: string(in.SysRoot), CPULimit: in.CPULimit,
		}
		if len(in.Policy) == 1 && in.Policy[0] == "none" {
			cfg.Policy = []string{}
		}
		if len(in.Runtimes) == 1 && in.Runtimes[0] == "off" {
			cfg.RuntimeSockets = []string{}
		}
		var err error
		if cfg.TLS, err = in.tls(); err != nil {
			return usageError{err}
		}
		if in.Simulate > 0 {
			cfg.Simulate = &probe.Simulation{Hosts: in.Simulate, Containers: in.SimulateContainers, Connections: in.SimulateConnections, Churn: in.SimulateChurn}
		} else {
			collectAt(50) // a probe is on every host, and should be small
		}
		p, err := probe.New(cfg, probe.Deps{Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))})
		if err != nil {
			return usageError{err}
		}
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error { return p.Run(ctx) })
		return g.Wait()
	}
	return cmd
}

func (in *probeSettings) tls() (*tls.Config, error) {
	if in.CAFile == "" && in.CertFile == "" {
		return nil, nil //nolint:nilnil // the system's authorities
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if in.CAFile != "" {
		pem, err := os.ReadFile(string(in.CAFile))
		if err != nil {
			return nil, fmt.Errorf("tls-ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("tls-ca: the file holds no certificate")
		}
	}
	if in.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(string(in.CertFile), string(in.KeyFile))
		if err != nil {
			return nil, fmt.Errorf("tls-cert: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}
