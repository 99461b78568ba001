package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/prometheus/client_golang/prometheus"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Config says where container networks are found and kept.
type Config struct {
	// ConfigDir holds the configurations [network_cni_config_dir].
	ConfigDir string
	// PluginDirs hold the plugins [network_cni_plugins_dir].
	PluginDirs []string
	// StateDir is this agent's own: what containers are in which network.
	StateDir string
	// Durable: StateDir survives a reboot, so what is written there must survive one half-way.
	Durable bool
	// Timeout bounds one call of a plugin [network_cni_timeout]; 0: 30 s.
	Timeout time.Duration
	// Marker is "NAME=value" for the environment of plugins, so that those of a dead agent can be found; %s is the container's id.
	Marker string
}

// Deps are what Networks needs from others.
type Deps struct {
	Log      *slog.Logger
	Registry prometheus.Registerer
	// KillMarked kills every process that bears a marker.
	KillMarked func(marker string)
}

// Networks are the container networks of a host and who is in them.
type Networks struct {
	cfg     Config
	log     *slog.Logger
	kill    func(string)
	calls   *prometheus.HistogramVec
	failed  *prometheus.CounterVec
	pending prometheus.Gauge

	mu     sync.Mutex
	late   map[string]bool // containers whose networks are being deleted in the background
	wg     sync.WaitGroup
	ctx    context.Context // the life of this Networks: ended by Close, and only then
	cancel context.CancelFunc
}

var errDamaged = errors.New("it can't be read")

var errLate = errors.New("its network is still being deleted")

// firstDelete bounds how long the end of a container waits for its network's; later tries have Config.Timeout.
const firstDelete = 10 * time.Second

// New opens the state. Containers of an earlier process are still in it: Containers lists them.
func New(cfg Config, deps Deps) (*Networks, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if _, err := os.ReadDir(cfg.ConfigDir); err != nil {
		return nil, fmt.Errorf("network_cni_config_dir: %w", err)
	}
	for _, d := range cfg.PluginDirs {
		if !filepath.IsAbs(d) {
			return nil, fmt.Errorf("network_cni_plugins_dir: %q is not an absolute path", d)
		}
	}
	if err := os.MkdirAll(filepath.Join(cfg.StateDir, "containers"), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of container networks: %w", err)
	}
	n := &Networks{
		cfg: cfg, log: deps.Log, kill: deps.KillMarked, late: make(map[string]bool),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "orchestrator_agent_network_call_seconds", Help: "How long joining and leaving container networks took.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"verb"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orchestrator_agent_network_failures_total", Help: "Calls to container networks that failed.",
		}, []string{"verb"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orchestrator_agent_network_deletes_pending", Help: "Ended containers whose network could not be deleted yet.",
		}),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		deps.Registry.MustRegister(n.calls, n.failed, n.pending)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// closeLimit bounds how long Close waits for a plugin that is deleting; it is not cut off.
const closeLimit = 2 * time.Second

// Close stops what is done in the background; the next process goes on with it.
func (n *Networks) Close() {
	n.cancel()
	done := make(chan struct{})
	go func() { n.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeLimit):
	}
}

// attachment is one container on disk.
type attachment struct {
	Networks []membership `json:"networks"`
}

// membership is a container in one network. It is on disk before the plugins are asked.
type membership struct {
	Info   json.RawMessage  `json:"info"` // NetworkInfo as asked for
	List   json.RawMessage  `json:"list"` // the plugins' configuration as it was then
	IfName string           `json:"if_name"`
	Ports  []portMapping    `json:"ports,omitempty"`
	Result *types100.Result `json:"result,omitempty"` // nil: not known to have succeeded
}

func (n *Networks) dir(id string) string   { return filepath.Join(n.cfg.StateDir, "containers", id) }
func (n *Networks) state(id string) string { return filepath.Join(n.dir(id), "networks.json") }

// Namespace is where a container's network namespace is pinned.
func (n *Networks) Namespace(id string) string { return filepath.Join(n.dir(id), "ns") }

// Check says whether a container can join a network: it is there, and so are its plugins.
func (n *Networks) Check(infos []*mesosv1.NetworkInfo) error {
	seen := make(map[string]bool)
	for _, i := range infos {
		if seen[i.GetName()] {
			return fmt.Errorf("network %q: it is named twice", i.GetName())
		}
		seen[i.GetName()] = true
		if _, err := mappings(i); err != nil {
			return fmt.Errorf("network %q: %w", i.GetName(), err)
		}
		list, err := n.listOf(i)
		if err != nil {
			return fmt.Errorf("network %q: %w", i.GetName(), err)
		}
		for _, p := range list.Plugins {
			if p.Network.Type == loopback {
				continue
			}
			if err := n.checkPlugin(p.Network.Type); err != nil {
				return fmt.Errorf("network %q: %w", i.GetName(), err)
			}
		}
	}
	return nil
}

// loopback is the one plugin that is built in: every namespace has its loopback up.
const loopback = "loopback"

func onlyLoopback(l *libcni.NetworkConfigList) bool {
	return !slices.ContainsFunc(l.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type != loopback })
}

// Join is what came of joining.
type Join struct {
	// Infos are the networks with their addresses, for ContainerStatus.
	Infos []*mesosv1.NetworkInfo
	// Nameservers, Search and Options are what the networks say of DNS.
	Nameservers, Search, Options []string
}

// Attach makes a container's namespace and joins its networks. A failure has left them again, or goes on trying to.
func (n *Networks) Attach(ctx context.Context, id string, infos []*mesosv1.NetworkInfo) (*Join, error) {
	if err := os.Mkdir(n.dir(id), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the container's network: %w", err)
	}
	j, err := n.attach(ctx, id, infos)
	if err != nil {
		return nil, errors.Join(err, n.Detach(context.WithoutCancel(ctx), id))
	}
	return j, nil
}

func (n *Networks) attach(ctx context.Context, id string, infos []*mesosv1.NetworkInfo) (*Join, error) {
	var a attachment
	asked := false // a plugin
	lists := make([]*libcni.NetworkConfigList, len(infos))
	for i, info := range infos {
		list, err := n.listOf(info)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", info.GetName(), err)
		}
		ports, err := mappings(info)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", info.GetName(), err)
		}
		said, err := info.MarshalVT()
		if err != nil {
			return nil, err
		}
		quoted, _ := json.Marshal(said)
		lists[i] = list
		m := membership{Info: quoted, List: list.Bytes, IfName: fmt.Sprintf("eth%d", i), Ports: ports}
		if onlyLoopback(list) {
			m.Result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion} // every namespace has it
		} else {
			asked = true
		}
		a.Networks = append(a.Networks, m)
	}
	if err := n.write(id, &a); err != nil {
		return nil, err
	}
	if err := makeNamespace(n.Namespace(id)); err != nil {
		return nil, err
	}
	for i := range a.Networks {
		m := &a.Networks[i]
		if m.Result != nil {
			continue
		}
		if err := n.call("add", func(ctx context.Context) error {
			r, err := n.cni(id, true).AddNetworkList(ctx, lists[i], n.runtime(id, m))
			if err != nil {
				return err
			}
			m.Result, err = types100.NewResultFromResult(r)
			return err
		})(ctx, n.cfg.Timeout); err != nil {
			return nil, fmt.Errorf("join network %q: %w", infos[i].GetName(), err)
		}
	}
	if asked {
		if err := n.write(id, &a); err != nil {
			return nil, err
		}
	}
	return a.join()
}

// call gives a function that makes one timed call.
func (n *Networks) call(verb string, f func(context.Context) error) func(context.Context, time.Duration) error {
	return func(ctx context.Context, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		start := time.Now()
		err := f(ctx)
		n.calls.WithLabelValues(verb).Observe(time.Since(start).Seconds())
		if err != nil {
			n.failed.WithLabelValues(verb).Inc()
		}
		return err
	}
}

func (n *Networks) marker(id string) string {
	if n.cfg.Marker == "" {
		return ""
	}
	return fmt.Sprintf(n.cfg.Marker, id)
}

func (n *Networks) cni(id string, dies bool) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, filepath.Join(n.cfg.StateDir, "cache"), &runner{dies: dies, mark: n.marker(id)})
}

func (n *Networks) runtime(id string, m *membership) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: n.Namespace(id), IfName: m.IfName}
	if len(m.Ports) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": m.Ports}
	}
	return rt
}

// Detach leaves a container's networks and gives up its namespace. When a plugin does not do its part, that is tried again in
// the background: Detach says so with an error, and the container may end all the same.
func (n *Networks) Detach(ctx context.Context, id string) error {
	n.mu.Lock()
	late := n.late[id]
	n.mu.Unlock()
	if late {
		return errLate
	}
	err := n.detach(ctx, id, min(n.cfg.Timeout, firstDelete))
	if err != nil {
		n.later(id)
	}
	return err
}

func (n *Networks) detach(ctx context.Context, id string, limit time.Duration) error {
	a, err := n.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		// Nothing was ever asked of a plugin.
		return n.forget(id)
	}
	if errors.Is(err, errDamaged) {
		// To try that again is of no use. What a reboot has not undone the plugins' own state may still hold.
		n.log.Error("the record of a container's network is damaged: what it holds of addresses and rules has to be deleted by hand", "container_id", id, "error", err)
		return n.forget(id)
	}
	if err != nil {
		return err
	}
	if n.kill != nil && slices.ContainsFunc(a.Networks, func(m membership) bool { return m.Result == nil }) {
		if mark := n.marker(id); mark != "" {
			n.kill(mark) // plugins of a dead agent, which would go on behind our back
		}
	}
	// A plugin that finds its interface gone, with an earlier deletion that was cut short or with the namespace, leaves alone what it
	// would have looked up by it.
	cut, err := n.deleting(id)
	if err != nil {
		return err
	}
	if !pinned(n.Namespace(id)) {
		// After a reboot, or somebody unmounted it: plugins are told that there is no namespace any more.
		_ = dropNamespace(n.Namespace(id))
		cut = true
	}
	for i := len(a.Networks) - 1; i >= 0; i-- {
		m := &a.Networks[i]
		list, err := libcni.ConfListFromBytes(m.List)
		if err != nil {
			return fmt.Errorf("the network's configuration: %w", err)
		}
		if onlyLoopback(list) {
			continue
		}
		rt := n.runtime(id, m)
		if !pinned(rt.NetNS) {
			rt.NetNS = ""
		}
		if err := n.call("delete", func(ctx context.Context) error {
			return n.cni(id, false).DelNetworkList(ctx, list, rt)
		})(ctx, limit); err != nil {
			return fmt.Errorf("leave network %q: %w", list.Name, err)
		}
		if cut {
			if err := dropMasquerade(ctx, limit, list.Name, id); err != nil {
				return fmt.Errorf("leave network %q: %w", list.Name, err)
			}
		}
	}
	return n.forget(id)
}

func (n *Networks) forget(id string) error {
	if err := dropNamespace(n.Namespace(id)); err != nil {
		return err
	}
	return os.RemoveAll(n.dir(id))
}

// later deletes a container's networks until that works.
func (n *Networks) later(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.late[id] || n.ctx.Err() != nil {
		return
	}
	n.late[id] = true
	n.pending.Inc()
	n.wg.Go(func() {
		defer func() {
			n.mu.Lock()
			delete(n.late, id)
			n.mu.Unlock()
			n.pending.Dec()
		}()
		pause := time.Second
		for {
			select {
			case <-n.ctx.Done():
				return
			case <-time.After(pause):
			}
			err := n.detach(context.WithoutCancel(n.ctx), id, n.cfg.Timeout)
			if err == nil {
				n.log.Info("a container's network has been deleted at last", "container_id", id)
				return
			}
			if n.ctx.Err() != nil {
				return
			}
			n.log.Error("a container's network can't be deleted; trying again", "container_id", id, "error", err)
			pause = min(2*pause, time.Minute)
		}
	})
}

// Containers lists those that have anything here.
func (n *Networks) Containers() ([]string, error) {
	es, err := os.ReadDir(filepath.Join(n.cfg.StateDir, "containers"))
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(es))
	for _, e := range es {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Find gives what a container has joined; nil: it is in no network of ours.
func (n *Networks) Find(id string) (*Join, error) {
	a, err := n.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return a.join()
}

// Verify asks the plugins whether a running container's networks are as they were made (CHECK, from version 0.4.0).
func (n *Networks) Verify(ctx context.Context, id string) error {
	a, err := n.read(id)
	if err != nil {
		return err
	}
	var errs []error
	for i := range a.Networks {
		m := &a.Networks[i]
		list, err := libcni.ConfListFromBytes(m.List)
		if err != nil {
			return err
		}
		if onlyLoopback(list) || list.CNIVersion < "0.4.0" || list.DisableCheck {
			continue
		}
		if err := n.call("check", func(ctx context.Context) error {
			return n.cni(id, true).CheckNetworkList(ctx, list, n.runtime(id, m))
		})(ctx, n.cfg.Timeout); err != nil {
			errs = append(errs, fmt.Errorf("network %q: %w", list.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Networks) read(id string) (*attachment, error) {
	b, err := os.ReadFile(n.state(id))
	if err != nil {
		return nil, err
	}
	a := &attachment{}
	if err := json.Unmarshal(b, a); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", n.state(id), errDamaged, err)
	}
	return a, nil
}

func (n *Networks) write(id string, a *attachment) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tmp := n.state(id) + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && n.cfg.Durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, n.state(id))
}

// join reads what came of joining.
func (a *attachment) join() (*Join, error) {
	j := &Join{}
	for _, m := range a.Networks {
		var said []byte
		if err := json.Unmarshal(m.Info, &said); err != nil {
			return nil, err
		}
		info := &mesosv1.NetworkInfo{}
		if err := info.UnmarshalVT(said); err != nil {
			return nil, err
		}
		info.IpAddresses = nil // those were wishes
		if m.Result == nil {
			continue
		}
		for _, ip := range m.Result.IPs {
			if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(m.Result.Interfaces) && m.Result.Interfaces[*ip.Interface].Sandbox == "" {
				continue // the host's end
			}
			text, proto := ip.Address.IP.String(), mesosv1.NetworkInfo_IPv4
			if strings.Contains(text, ":") {
				proto = mesosv1.NetworkInfo_IPv6
			}
			info.IpAddresses = append(info.IpAddresses, &mesosv1.NetworkInfo_IPAddress{Protocol: proto.Enum(), IpAddress: &text})
		}
		j.Infos = append(j.Infos, info)
		j.Nameservers = append(j.Nameservers, m.Result.DNS.Nameservers...)
		j.Search = append(j.Search, m.Result.DNS.Search...)
		if m.Result.DNS.Domain != "" && len(m.Result.DNS.Search) == 0 {
			j.Search = append(j.Search, m.Result.DNS.Domain)
		}
		j.Options = append(j.Options, m.Result.DNS.Options...)
	}
	return j, nil
}

// Addresses gives the addresses of all networks, in order.
func (j *Join) Addresses() []string {
	var out []string
	for _, i := range j.Infos {
		for _, a := range i.GetIpAddresses() {
			out = append(out, a.GetIpAddress())
		}
	}
	return out
}
