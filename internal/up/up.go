package up

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/agent"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/marathon"
	"github.com/orchestrator/orchestrator/internal/master"
	"github.com/orchestrator/orchestrator/internal/monitor"
	"github.com/orchestrator/orchestrator/internal/probe"
)

// Config says what runs and where.
type Config struct {
	DataDir      string `flag:"data_dir" help:"Where everything is kept. Unset: /var/lib/orchestrator for root, ~/.local/share/orchestrator for others."`
	Host         string `flag:"host" default:"127.0.0.1" help:"Address that everything listens on."`
	Agents       int    `flag:"agents" default:"1" help:"How many agents to run; they share the machine's resources."`
	MasterPort   int    `flag:"master_port" default:"5050" help:"Port of the master; 0 picks a free one, here and below."`
	AgentPort    int    `flag:"agent_port" default:"5051" help:"Port of the first agent; the others have the next ones."`
	MonitorPort  int    `flag:"monitor_port" default:"4040" help:"Port of the console and the monitor's API."`
	MarathonPort int    `flag:"marathon_port" default:"8080" help:"Port of the services' API."`
	DockerSocket string `flag:"docker_socket" default:"/var/run/docker.sock" help:"Socket of a Docker Engine, which is used when it answers at the start; off for none."`
	Resources    string `flag:"resources" help:"What each agent offers, such as cpus:4;mem:4096. Unset: its part of this machine."`
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	var p config.Problems
	if c.DataDir == "" {
		p.Addf("data_dir", "it is not set, and there is no home directory to put it in")
	}
	if net.ParseIP(c.Host) == nil {
		p.Addf("host", "%q is not an IP address", c.Host)
	}
	if c.Agents < 1 || c.Agents > 64 {
		p.Addf("agents", "%d is not between 1 and 64", c.Agents)
	}
	for name, port := range map[string]int{"master_port": c.MasterPort, "agent_port": c.AgentPort, "marathon_port": c.MarathonPort, "monitor_port": c.MonitorPort} {
		if port < 0 || port > 65535 {
			p.Addf(name, "%d is not between 0 and 65535", port)
		}
	}
	return p.Err()
}

// Up is everything in one process. Make it with New, run it with Run.
type Up struct {
	cfg      Config
	log      *slog.Logger
	master   *master.Master
	agents   []*agent.Agent
	marathon *marathon.Marathon
	monitor  *monitor.Monitor
	probe    *probe.Probe
	ready    chan struct{}
}

// Addresses are the URLs of what runs.
type Addresses struct {
	Master   string   `json:"master"`
	Agents   []string `json:"agents"`
	Marathon string   `json:"marathon"`
	Monitor  string   `json:"monitor"`
	// Console is the monitor's address with the secret that logs an administrator in.
	Console string `json:"-"`
}

// settings fills a component's configuration from flags, as its own command would, so that what /flags shows is true.
func settings(cfg any, opts config.Options, args ...string) (map[string]string, error) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	set := config.Bind(fs, cfg, opts)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		return nil, err
	}
	return set.Values(), nil
}

// New opens every listener and makes every component. Run must follow.
func New(cfg Config, log *slog.Logger) (_ *Up, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	u := &Up{cfg: cfg, log: log, ready: make(chan struct{})}
	var listeners []net.Listener
	defer func() {
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			if u.master != nil {
				// A component that is run with an ended context gives back what it holds: the registry's lock.
				over, cancel := context.WithCancel(context.Background())
				cancel()
				_ = u.master.Run(over)
			}
		}
	}()
	open := func(name string, port int) (net.Listener, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(port)))
		if err != nil {
			return nil, fmt.Errorf("opening the port of the %s: %w; choose another with --%s-port", name, err, name)
		}
		listeners = append(listeners, l)
		return l, nil
	}
	masterListener, err := open("master", cfg.MasterPort)
	if err != nil {
		return nil, err
	}
	agentListeners := make([]net.Listener, cfg.Agents)
	for i := range agentListeners {
		port := cfg.AgentPort
		if port != 0 {
			port += i
		}
		if agentListeners[i], err = open("agent", port); err != nil {
			return nil, err
		}
	}
	marathonListener, err := open("marathon", cfg.MarathonPort)
	if err != nil {
		return nil, err
	}
	monitorListener, err := open("monitor", cfg.MonitorPort)
	if err != nil {
		return nil, err
	}

	var mc master.Config
	flags, err := settings(&mc, master.BindOptions(), "--ip="+cfg.Host, portFlag(masterListener), "--work_dir="+filepath.Join(dir, "master"), "--no-hostname_lookup")
	if err != nil {
		return nil, fmt.Errorf("master: %w", err)
	}
	if u.master, err = master.New(mc, master.Deps{Log: log.With("component", "master"), Listener: masterListener, Flags: flags}); err != nil {
		return nil, fmt.Errorf("master: %w", err)
	}
	for i, l := range agentListeners {
		a, err := u.newAgent(dir, i, l)
		if err != nil {
			return nil, fmt.Errorf("agent %d: %w", i+1, err)
		}
		u.agents = append(u.agents, a)
	}
	var sc marathon.Config
	_, err = settings(&sc, config.Options{}, "--master="+u.master.Address(), "--http_address="+cfg.Host, "--hostname="+cfg.Host,
		"--http_port="+port(marathonListener), "--data_dir="+filepath.Join(dir, "marathon"))
	if err != nil {
		return nil, fmt.Errorf("marathon: %w", err)
	}
	if u.marathon, err = marathon.New(sc, marathon.Deps{Log: log.With("component", "marathon"), Listener: marathonListener}); err != nil {
		return nil, fmt.Errorf("marathon: %w", err)
	}
	if err := u.watch(dir, monitorListener); err != nil {
		return nil, err
	}
	return u, nil
}

// watch makes the monitor and this host's probe, which know each other by a secret that is new with every start.
func (u *Up) watch(dir string, l net.Listener) (err error) {
	a := Addresses{Master: "http://" + u.master.Address(), Marathon: "http://" + u.marathon.Address()}
	admin, between := rand.Text(), rand.Text()
	u.monitor, err = monitor.New(monitor.Config{
		Listen: l.Addr().String(), DataDir: filepath.Join(dir, "monitor"), ViewerLogs: true, Master: a.Master, Marathon: a.Marathon,
		AdminToken: admin, ProbeToken: between,
	}, monitor.Deps{Logger: u.log.With("component", "monitor"), Listener: l})
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	cfg := probe.Config{Monitors: []string{u.monitor.URL()}, Token: between}
	for _, x := range u.agents {
		cfg.MesosAgents = append(cfg.MesosAgents, "http://"+x.Address())
	}
	if u.probe, err = probe.New(cfg, probe.Deps{Logger: u.log.With("component", "probe")}); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

func (u *Up) newAgent(dir string, i int, l net.Listener) (*agent.Agent, error) {
	work := filepath.Join(dir, "agent-"+strconv.Itoa(i+1))
	// Agents of one machine must not share a control group: each ends what it finds in its own and does not know.
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(work))
	args := []string{
		"--master=" + u.master.Address(), "--ip=" + u.cfg.Host, portFlag(l), "--no-hostname_lookup",
		"--work_dir=" + work, "--runtime_dir=" + filepath.Join(work, "run"), fmt.Sprintf("--cgroups_root=orchestrator-%08x", hash.Sum32()),
	}
	if u.useDocker(work) {
		args = append(args, "--containerizers=docker,mesos", "--docker_socket="+u.cfg.DockerSocket)
	}
	switch {
	case u.cfg.Resources != "":
		args = append(args, "--resources="+u.cfg.Resources)
	case u.cfg.Agents > 1:
		part, err := shareOf(dir, i, u.cfg.Agents)
		if err != nil {
			return nil, err
		}
		args = append(args, "--resources="+part)
	}
	var cfg agent.Config
	flags, err := settings(&cfg, agent.BindOptions(), args...)
	if err != nil {
		return nil, err
	}
	log := u.log.With("component", "agent")
	if u.cfg.Agents > 1 {
		log = log.With("agent", i+1)
	}
	return agent.New(cfg, agent.Deps{Log: log, Listener: l, Flags: flags})
}

// useDocker reports whether an agent shall use Docker: it answers, or the agent has containers there from an earlier start.
func (u *Up) useDocker(work string) bool {
	socket := u.cfg.DockerSocket
	if socket == "" || socket == "off" {
		return false
	}
	conn, err := net.DialTimeout("unix", socket, 2*time.Second)
	if err == nil {
		conn.Close()
		return true
	}
	if !errors.Is(err, fs.ErrNotExist) {
		u.log.Warn("Docker does not answer: DOCKER tasks are refused; start it, then this anew", "socket", socket, "error", err)
	}
	held, err := os.ReadDir(filepath.Join(work, "run", "docker"))
	return err == nil && len(held) > 0
}

func port(l net.Listener) string {
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

func portFlag(l net.Listener) string { return "--port=" + port(l) }

// Ready is closed when the master leads, every agent has registered and the services' API serves.
func (u *Up) Ready() <-chan struct{} { return u.ready }

// Addresses are where everything is.
func (u *Up) Addresses() Addresses {
	a := Addresses{Master: "http://" + u.master.Address(), Marathon: "http://" + u.marathon.Address(), Monitor: u.monitor.URL(), Console: u.monitor.Link()}
	for _, x := range u.agents {
		a.Agents = append(a.Agents, "http://"+x.Address())
	}
	return a
}

// Run runs everything until ctx ends or one component can't go on, which ends the others.
func (u *Up) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	run := func(name string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(ctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, errors.New("it has ended by itself"))
			}
			return nil
		})
	}
	run("master", u.master.Run)
	for i, a := range u.agents {
		run("agent "+strconv.Itoa(i+1), func(ctx context.Context) error {
			err := a.Run(ctx)
			if errors.Is(err, agent.ErrLeft) {
				// An operator gave this node up. The rest goes on.
				u.log.Warn("agent has left the cluster", "agent", i+1, "why", err)
				<-ctx.Done()
				return nil
			}
			return err
		})
	}
	run("marathon", u.marathon.Run)
	run("monitor", u.monitor.Run)
	run("probe", u.probe.Run)
	g.Go(func() error {
		waits := []<-chan struct{}{u.master.Ready(), u.marathon.Ready(), u.monitor.Ready(), u.probe.Ready()}
		for _, a := range u.agents {
			waits = append(waits, a.Ready(), a.Registered())
		}
		for _, w := range waits {
			select {
			case <-w:
			case <-ctx.Done():
				return nil
			}
		}
		close(u.ready)
		return nil
	})
	return g.Wait()
}

// Table is what people are shown once everything runs.
func (a Addresses) Table() string {
	var b strings.Builder
	row := func(name, url, what string) { fmt.Fprintf(&b, "  %-9s %-28s %s\n", name, url, what) }
	row("master", a.Master, "cluster: scheduler and operator APIs, status page")
	for _, url := range a.Agents {
		row("agent", url, "runs tasks on this machine")
	}
	row("marathon", a.Marathon, "services: REST API /v2")
	row("monitor", a.Monitor, "console and topology; this link logs you in:")
	fmt.Fprintf(&b, "            %s\n", a.Console)
	return b.String()
}
