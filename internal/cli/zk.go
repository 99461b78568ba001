package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
)

// zkOptions are the flags that all zk commands share.
type zkOptions struct {
	server  string
	auth    []string
	sasl    string
	tls     string
	quorum  string // TLS files for quorum ports
	timeout time.Duration
	output  string
}

func newZKCommand() *cobra.Command {
	o := &zkOptions{}
	cmd := &cobra.Command{
		Use:   "zk",
		Short: "Look into, change, compare and synchronize ZooKeeper ensembles",
		Long: `Look into, change, compare and synchronize ZooKeeper ensembles, versions 3.4 to 3.9.

The servers are given by --server h1:2181,h2:2181[/chroot] or by ORCHESTRATOR_ZK.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for zk; `orchestrator zk --help` lists them", args[0])
			}
			return cmd.Help()
		},
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.server, "server", os.Getenv("ORCHESTRATOR_ZK"), "Servers, host:port[,host:port…][/chroot]; also zk://user:password@…")
	f.StringArrayVar(&o.auth, "auth", nil, "Identity to present, scheme:data, for example digest:user:password; may be repeated.")
	f.StringVar(&o.sasl, "sasl", "", "user:password for SASL DIGEST-MD5.")
	f.StringVar(&o.tls, "tls", "", "Speak TLS with client ports: ca.pem[,cert.pem,key.pem].")
	f.StringVar(&o.quorum, "quorum-tls", "", "Speak TLS with quorum ports (sslQuorum): ca.pem[,cert.pem,key.pem].")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "How long to wait for the connection, and the session timeout asked for.")
	f.StringVarP(&o.output, "output", "o", "table", "table or json.")
	cmd.AddCommand(
		newZKGetCommand(o),
		newZKLsCommand(o),
		newZKTreeCommand(o),
		newZKStatCommand(o),
		newZKDuCommand(o),
		newZKWatchCommand(o),
		newZKSetCommand(o),
		newZKCreateCommand(o),
		newZKRmCommand(o),
		newZKExportCommand(o),
		newZKImportCommand(o),
		newZKBackupCommand(o),
		newZKRestoreCommand(o),
		newZKLatencyCommand(o),
		newZKEnsembleCommand(o),
		newZKSyncCommand(),
		newZKDiffCommand(o, "diff"),
		newZKDiffCommand(o, "verify"),
		newZKStatusCommand(o),
		newZKStretchCommand(o),
		newZKDecideCommand("flip PATH source|target", "Move the home of a subtree to the other side (zk sync --two-way)", "/api/v1/sync/homes", "home", []string{"source", "target"}),
		newZKDecideCommand("resolve PATH home|copy", "Settle a conflict that waits for a decision (zk sync --two-way --conflicts manual)", "/api/v1/sync/conflicts/resolve", "keep", []string{"home", "copy"}),
	)
	return cmd
}

// parseAuth reads scheme:data.
func parseAuth(specs []string) ([]zk.Auth, error) {
	var out []zk.Auth
	for _, s := range specs {
		if s == "" {
			continue
		}
		scheme, data, ok := strings.Cut(s, ":")
		if !ok || scheme == "" {
			return nil, usagef("--auth: want scheme:data, for example digest:user:password")
		}
		out = append(out, zk.Auth{Scheme: scheme, Data: []byte(data)})
	}
	return out, nil
}

func parseSASL(s string) (*zk.SASLDigest, error) {
	if s == "" {
		return nil, nil
	}
	user, password, ok := strings.Cut(s, ":")
	if !ok {
		return nil, usagef("--sasl: want user:password")
	}
	return &zk.SASLDigest{Username: user, Password: password}, nil
}

// connect connects to a list of servers, or to --server when it is empty.
func (o *zkOptions) connect(ctx context.Context, servers string) (*zk.Client, error) {
	servers = cmp.Or(servers, o.server)
	if servers == "" {
		return nil, usagef("no servers given: use --server host:port or set ORCHESTRATOR_ZK")
	}
	if o.output != "table" && o.output != "json" {
		return nil, usagef("--output: %q is neither table nor json", o.output)
	}
	cs, err := zk.ParseConnectString(servers)
	if err != nil {
		return nil, usageError{err}
	}
	cfg := zk.Config{Servers: cs.Servers, Chroot: cs.Chroot, SessionTimeout: o.timeout, Renew: true, ReadOnly: true}
	if cfg.Auth, err = parseAuth(o.auth); err != nil {
		return nil, err
	}
	if cs.User != "" {
		cfg.Auth = append(cfg.Auth, zk.Auth{Scheme: "digest", Data: []byte(cs.User + ":" + cs.Password)})
	}
	if cfg.SASL, err = parseSASL(o.sasl); err != nil {
		return nil, err
	}
	if cfg.TLS, err = zk.LoadTLS(o.tls); err != nil {
		return nil, usageError{err}
	}
	c, err := zk.New(cfg, zk.Deps{})
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := c.WaitConnected(wait); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// withClient runs a command's work with a connection.
func (o *zkOptions) withClient(work func(cmd *cobra.Command, c *zk.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := o.connect(cmd.Context(), "")
		if err != nil {
			return err
		}
		defer c.Close()
		return work(cmd, c, args)
	}
}

// withPath is withClient for commands whose first argument is a path: one that cannot be is refused before any server is asked.
func (o *zkOptions) withPath(work func(cmd *cobra.Command, c *zk.Client, args []string) error) func(*cobra.Command, []string) error {
	run := o.withClient(work)
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			if err := pathArg(args[0]); err != nil {
				return err
			}
		}
		return run(cmd, args)
	}
}

// quorumOf finds quorum ports: those given, or those that the ensemble names and that answer. None is no error.
func quorumOf(ctx context.Context, c *zk.Client, given string) []string {
	if given != "" {
		return strings.Split(given, ",")
	}
	addrs, err := learner.Discover(ctx, c)
	if err != nil {
		return nil
	}
	return learner.Reachable(ctx, addrs)
}

// learner is how quorum ports are reached.
func (o *zkOptions) learner() (learner.Deps, error) {
	c, err := zk.LoadTLS(o.quorum)
	if err != nil {
		return learner.Deps{}, usageError{err}
	}
	return learner.Deps{TLS: c}, nil
}

// progress shows a count on a terminal once a second has passed; elsewhere it is silent.
type progress struct {
	w     io.Writer
	what  string
	began time.Time
	last  time.Time
	shown bool
}

func newProgress(cmd *cobra.Command, what string) *progress {
	p := &progress{what: what, began: time.Now()}
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = f
	}
	return p
}

func (p *progress) at(n, total int) {
	now := time.Now()
	if p.w == nil || now.Sub(p.began) < time.Second || now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.shown = now, true
	rate := float64(n) / now.Sub(p.began).Seconds()
	if total > 0 {
		const width = 30
		filled := min(width*n/total, width)
		fmt.Fprintf(p.w, "\r\033[K%s [%s%s] %d of %d, %.0f/s", p.what, strings.Repeat("█", filled), strings.Repeat("·", width-filled), n, total, rate)
		return
	}
	fmt.Fprintf(p.w, "\r\033[K%s %d, %.0f/s", p.what, n, rate)
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\033[K")
		p.shown = false
	}
}

// turn shows for how long something without a count has been going on, until the returned function is called.
func (p *progress) turn() (stop func()) {
	if p.w == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				if took := now.Sub(p.began); took > time.Second {
					p.shown = true
					fmt.Fprintf(p.w, "\r\033[K%s, %.0f s", p.what, took.Seconds())
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

// pathArg checks a path before anything is asked of a server.
func pathArg(path string) error {
	if err := zk.ValidatePath(path); err != nil {
		return usageError{errors.New(strings.TrimPrefix(err.Error(), "zookeeper: bad arguments: "))}
	}
	return nil
}
