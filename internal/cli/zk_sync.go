package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zksync"
)

func contextWithTimeout(cmd *cobra.Command, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), d)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// parseSrvr reads the "key: value" lines of the four-letter word srvr.
func parseSrvr(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ": "); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	if v, _, ok := strings.Cut(m["Zookeeper version"], "-"); ok {
		m["Zookeeper version"] = v
	}
	return m
}

// zkSyncConfig is what `zk sync` can be told.
type zkSyncConfig struct {
	Source       string            `flag:"source" help:"Servers of the source, host:port[,host:port…]."`
	Target       string            `flag:"target" help:"Servers of the target, host:port[,host:port…]."`
	SourceQuorum []string          `flag:"source_quorum" help:"Quorum ports of the source; found through its client port when not given (servers 3.5+)."`
	TargetQuorum []string          `flag:"target_quorum" help:"Quorum ports of the target; with them it is read at one moment, kinds of nodes included."`
	Path         string            `flag:"path" default:"/" help:"The subtree to keep equal."`
	TargetPath   string            `flag:"target_path" help:"Where it lies in the target; the same path when not given."`
	Exclude      []string          `flag:"exclude" help:"Subtrees of the path that are left out."`
	Home         string            `flag:"home" default:"source" help:"The side where the subtree is written to: source keeps the target equal to the source, target the other way round."`
	Name         string            `flag:"name" default:"default" help:"Name of this link; several links into one ensemble need different names. Engines of one name stand by for each other."`
	Overwrite    bool              `flag:"overwrite" help:"Make a target equal that holds something else already; what the source does not have is deleted."`
	SourceAuth   string            `flag:"source_auth" secret:"true" help:"Identity at the source, scheme:data."`
	TargetAuth   string            `flag:"target_auth" secret:"true" help:"Identity at the target, scheme:data; ACLs are copied verbatim, which only digest:super:PASSWORD may do for all."`
	SourceSASL   string            `flag:"source_sasl" secret:"true" help:"user:password for SASL DIGEST-MD5 at the source."`
	TargetSASL   string            `flag:"target_sasl" secret:"true" help:"user:password for SASL DIGEST-MD5 at the target."`
	SourceTLS    string            `flag:"source_tls" help:"Speak TLS with the source's client ports: ca.pem[,cert.pem,key.pem]."`
	TargetTLS    string            `flag:"target_tls" help:"Speak TLS with the target's client ports: ca.pem[,cert.pem,key.pem]."`
	SourceQTLS   string            `flag:"source_quorum_tls" help:"Speak TLS with the source's quorum ports (sslQuorum): ca.pem[,cert.pem,key.pem]."`
	TargetQTLS   string            `flag:"target_quorum_tls" help:"Speak TLS with the target's quorum ports: ca.pem[,cert.pem,key.pem]."`
	Session      time.Duration     `flag:"session_timeout" default:"6secs" help:"How long a dead engine blocks its standby."`
	MaxRequest   int               `flag:"max_request" default:"1048575" help:"jute.maxbuffer of the target, in bytes."`
	Queue        config.Bytes      `flag:"queue" default:"256MB" help:"What may wait in memory for a slow target; beyond it the source is left alone until half of it is written."`
	TwoWay       bool              `flag:"two_way" help:"Keep both sides equal at once: every subtree has a home where it is written to, the source unless --homes says otherwise."`
	Homes        map[string]string `flag:"homes" help:"With --two-way: subtrees and their home, /path=target[,…]; used when none are recorded yet, later they are flipped by zk flip."`
	Watches      bool              `flag:"watches" help:"Follow the source by watches through its client port, because its quorum port can't be reached. Weaker: see the documentation."`
	FullRead     time.Duration     `flag:"full_read" default:"30secs" help:"With --watches, how often everything is read: ACLs have no events and follow then."`
	Elections    []string          `flag:"elections" help:"With --two-way: parents of leader elections' contenders (ephemeral sequential nodes) that come on both sides; at most one leads at any time."`
	Conflicts    string            `flag:"conflicts" default:"home" help:"With --two-way, what becomes of writes to a copy: home (the home wins), source (the source side wins, whatever the home), last (the later write wins), manual (a person decides by zk resolve)."`
	Listen       string            `flag:"listen" help:"Serve status, conflicts, health and Prometheus metrics here, host:port."`
	Audit        string            `flag:"audit" help:"Append every action to this file, one JSON object a line: claims, phases, reconciliations, conflicts, flips, decisions, repairs, election steps, alerts."`
	AlertHook    string            `flag:"alert_webhook" help:"Post alerts here as JSON when they begin and when they end: not-live, stopped, source-unreachable, target-unreachable, lag, queue, digest, conflicts."`
	AlertAfter   time.Duration     `flag:"alert_after" default:"10secs" help:"How long something must last before it is an alert."`
	AlertLag     time.Duration     `flag:"alert_lag" default:"5secs" help:"Age of the oldest change not in the target that is an alert."`
	ReadyFile    string            `flag:"ready_file" help:"Written, as JSON, when the seed is done and the stream is live."`
}

func newZKSyncCommand() *cobra.Command {
	var cfg zkSyncConfig
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Keep a subtree of one ensemble equal to another's, live and exact",
		Long: `Keep a subtree of the target equal to the source's: data, ACLs, versions, kinds, and the counters behind sequential names,
in order, each change once. The source is followed as an observer through its quorum port and never written to; the position
stands in the target (/zksync/NAME), in the same transactions as the changes, so the engine may be killed at any moment.

Start the same command on another machine as well: it stands by, and takes over where the first one was.`,
		Args: cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &cfg, config.Options{EnvPrefix: []string{"ORCHESTRATOR_ZKSYNC_"}, Hyphens: true})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := set.Load(os.LookupEnv); err != nil {
			return usageError{err}
		}
		return runZKSync(cmd, &cfg)
	}
	return cmd
}

func endpoint(servers string, quorum []string, auth, sasl, tls, quorumTLS string) (zksync.Endpoint, error) {
	ep := zksync.Endpoint{Quorum: quorum}
	cs, err := zk.ParseConnectString(servers)
	if err != nil {
		return ep, usageError{err}
	}
	if cs.Chroot != "" {
		return ep, usagef("%s: name the path by --path, not behind the servers", servers)
	}
	ep.Servers = cs.Servers
	if ep.Auth, err = parseAuth([]string{auth}); err != nil {
		return ep, err
	}
	if ep.SASL, err = parseSASL(sasl); err != nil {
		return ep, err
	}
	if ep.TLS, err = zk.LoadTLS(tls); err != nil {
		return ep, usageError{err}
	}
	if ep.QuorumTLS, err = zk.LoadTLS(quorumTLS); err != nil {
		return ep, usageError{err}
	}
	if cs.User != "" {
		ep.Auth = append(ep.Auth, zk.Auth{Scheme: "digest", Data: []byte(cs.User + ":" + cs.Password)})
	}
	return ep, nil
}

func runZKSync(cmd *cobra.Command, cfg *zkSyncConfig) error {
	if cfg.Source == "" || cfg.Target == "" {
		return usagef("both --source and --target must be given")
	}
	source, err := endpoint(cfg.Source, cfg.SourceQuorum, cfg.SourceAuth, cfg.SourceSASL, cfg.SourceTLS, cfg.SourceQTLS)
	if err != nil {
		return err
	}
	target, err := endpoint(cfg.Target, cfg.TargetQuorum, cfg.TargetAuth, cfg.TargetSASL, cfg.TargetTLS, cfg.TargetQTLS)
	if err != nil {
		return err
	}
	scope := zksync.Scope{Source: cfg.Path, Target: cfg.TargetPath, Exclude: cfg.Exclude}
	switch cfg.Home {
	case "source":
	case "target":
		source, target = target, source
		scope.Source, scope.Target = cmp.Or(cfg.TargetPath, cfg.Path), cfg.Path
	default:
		return usagef("--home: %q is neither source nor target", cfg.Home)
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	zcfg := zksync.Config{
		Name: cfg.Name, Source: source, Target: target, Scope: scope, Overwrite: cfg.Overwrite, SessionTimeout: cfg.Session,
		MaxRequest: cfg.MaxRequest, QueueBytes: int(cfg.Queue), Elections: cfg.Elections, Watches: cfg.Watches, FullRead: cfg.FullRead,
	}
	deps := zksync.Deps{Log: log, Metrics: reg}
	if cfg.Audit != "" {
		f, err := os.OpenFile(cfg.Audit, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		defer f.Close()
		deps.Audit = slog.New(slog.NewJSONHandler(f, nil))
	}
	var e *zksync.Engine
	var pair *zksync.Pair
	var work func(context.Context) error
	var handler http.Handler
	ready := func(context.Context) error { return nil }
	if cfg.TwoWay {
		homes := map[string]zksync.Home{}
		for p, h := range cfg.Homes {
			homes[p] = zksync.Home(h)
		}
		if pair, err = zksync.NewPair(zcfg, deps, homes, zksync.Policy(cfg.Conflicts)); err != nil {
			return usageError{err}
		}
		e, work, handler, ready = pair.Forward, pair.Run, zksync.PairHandler(pair, reg), pair.Ready
	} else {
		if len(cfg.Homes)+len(cfg.Elections) > 0 {
			return usagef("--homes and --elections go with --two-way: they write to both sides")
		}
		if e, err = zksync.New(zcfg, deps); err != nil {
			return usageError{err}
		}
		work, handler = e.Run, zksync.Handler(e, reg)
		ready = func(ctx context.Context) error {
			select {
			case <-e.Ready():
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	listening := ""
	if cfg.Listen != "" {
		l, err := net.Listen("tcp", cfg.Listen)
		if err != nil {
			return err
		}
		listening = "http://" + l.Addr().String()
		srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if cfg.AlertHook != "" {
		engines := []*zksync.Engine{e}
		if pair != nil {
			engines = append(engines, pair.Back)
		}
		alerter := zksync.NewAlerter(zksync.AlertConfig{Webhook: cfg.AlertHook, After: cfg.AlertAfter, Lag: cfg.AlertLag}, log, engines...)
		done := make(chan struct{})
		// It ends after the engines, so that it can tell why they did.
		actx, stop := context.WithCancel(context.WithoutCancel(cmd.Context()))
		go func() {
			defer close(done)
			alerter.Run(actx)
		}()
		defer func() { stop(); <-done }()
	}
	failed := make(chan error, 1)
	go func() {
		if ready(ctx) != nil {
			return
		}
		st := e.Status()
		log.Info("live", "position", st.Position, "nodes", st.Nodes)
		if cfg.ReadyFile == "" {
			return
		}
		b, err := json.Marshal(map[string]any{"pid": os.Getpid(), "position": st.Position, "nodes": st.Nodes, "http": listening})
		if err == nil {
			err = writeWhole(cfg.ReadyFile, append(b, '\n'))
		}
		if err != nil {
			failed <- fmt.Errorf("ready file: %w", err)
			cancel()
		}
	}()
	err = work(ctx)
	select {
	case ferr := <-failed:
		return ferr
	default:
		return err
	}
}

// newZKDecideCommand makes flip and resolve, which ask a running engine.
func newZKDecideCommand(use, short, endpoint, field string, values []string) *cobra.Command {
	engine := ""
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := pathArg(args[0]); err != nil {
				return err
			}
			if !slices.Contains(values, args[1]) {
				return usagef("%q: want %s", args[1], strings.Join(values, " or "))
			}
			if engine == "" {
				return usagef("name the engine that keeps the ensembles equal: --engine http://host:port (its --listen)")
			}
			body, err := json.Marshal(map[string]string{"path": args[0], field: args[1]})
			if err != nil {
				return err
			}
			ctx, cancel := contextWithTimeout(cmd, 5*time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(engine, "/")+endpoint, bytes.NewReader(body))
			if err != nil {
				return usageError{err}
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var out struct {
				Error string
				Homes map[string]string
			}
			if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&out); err != nil {
				return fmt.Errorf("%s answers %s: is it an engine started with --two-way?", engine, resp.Status)
			}
			if out.Error != "" || resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s", cmp.Or(out.Error, resp.Status))
			}
			return printJSON(cmd, out.Homes)
		},
	}
	cmd.Flags().StringVar(&engine, "engine", os.Getenv("ORCHESTRATOR_ZKSYNC"), "The engine's address, http://host:port; also ORCHESTRATOR_ZKSYNC.")
	return cmd
}

// writeWhole writes a file so that nobody sees half of it.
func writeWhole(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// exitUnknown is the exit code of diff when it could not tell, as with diff(1).
const exitUnknown = 2

func newZKDiffCommand(o *zkOptions, name string) *cobra.Command {
	var path, targetPath, link, quorumA, quorumB string
	var exclude []string
	limit, repair := 100, false
	cmd := &cobra.Command{
		Use:   name + " A B",
		Short: "Compare two ensembles: exit code 0 equal, 1 different, 2 could not tell",
		Args:  cobra.ExactArgs(2),
		Long: `Compare two ensembles by data, ACLs, versions, kinds and counters, and name every difference.

When B is fed from A by "zk sync", they are compared at a barrier: B's own snapshot says which of A's transactions it has, and A
is replayed to exactly that one. So the answer is exact while both are being written to. Otherwise both are read as they are.
Where a quorum port cannot be reached, nodes are read one by one: that is not one moment, and does not tell kinds.`,
	}
	if name == "verify" {
		cmd.Short = "The same as diff; with --repair make B equal to A"
		cmd.Long += `

--repair makes B equal to A, which is never written to, and compares again. When engines keep B equal ("zk sync" of the name --name), the
active one does it; otherwise it is done here. What cannot be mended (a version or a counter that is ahead, where there are children; nodes
of B's own sessions) is what the second comparison names. It needs super in B (--auth).`
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		unknown := func(err error) error {
			fmt.Fprintf(cmd.ErrOrStderr(), "orchestrator: %v\n", err)
			return exitCode(exitUnknown)
		}
		var sides [2]zksync.Side
		deps, err := o.learner()
		if err != nil {
			return unknown(err)
		}
		for i, servers := range args {
			c, err := o.connect(cmd.Context(), servers)
			if err != nil {
				return unknown(err)
			}
			defer c.Close()
			sides[i] = zksync.Side{Client: c, Quorum: quorumOf(cmd.Context(), c, []string{quorumA, quorumB}[i]), Learner: deps}
		}
		scope := zksync.Scope{Source: path, Target: targetPath, Exclude: exclude}
		compare := func() (zksync.Proof, error) {
			return zksync.Compare(cmd.Context(), sides[0], sides[1], scope, link, limit)
		}
		proof, err := compare()
		if err != nil {
			return unknown(err)
		}
		if repair && len(proof.Differences) > 0 {
			found := proof.Differences
			if err := o.repair(cmd, args, sides, scope, link); err != nil {
				return unknown(fmt.Errorf("repair: %w", err))
			}
			if proof, err = compare(); err != nil {
				return unknown(err)
			}
			remains := map[string]bool{}
			for _, d := range proof.Differences {
				remains[d.Path+"\x00"+d.What] = true
			}
			for _, d := range found {
				if !remains[d.Path+"\x00"+d.What] {
					fmt.Fprintf(cmd.ErrOrStderr(), "repaired: %s %s was %s, is %s\n", d.Path, d.What, d.B, d.A)
				}
			}
		}
		if o.output == "json" {
			if err := printJSON(cmd, proof); err != nil {
				return unknown(err)
			}
		} else {
			rows := [][]string{}
			for _, d := range proof.Differences {
				rows = append(rows, []string{d.Path, d.What, d.A, d.B})
			}
			if len(rows) > 0 {
				if err := printZKTable(cmd.OutOrStdout(), slices.Insert(rows, 0, []string{"PATH", "WHAT", "A", "B"})); err != nil {
					return unknown(err)
				}
			}
			how := "node by node, not at one moment, kinds not compared"
			switch {
			case proof.Barrier != 0:
				how = "at the barrier " + proof.BarrierText
			case proof.Exact:
				how = "by snapshots"
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d nodes compared %s: %d differences\n", proof.Nodes, how, len(proof.Differences))
		}
		if len(proof.Differences) > 0 {
			return exitCode(exitFailed)
		}
		return nil
	}
	f := cmd.Flags()
	f.StringVar(&path, "path", "/", "The subtree to compare.")
	f.StringVar(&targetPath, "target-path", "", "Where it lies in B; the same path when not given.")
	f.StringSliceVar(&exclude, "exclude", nil, "Subtrees that are left out.")
	f.StringVar(&link, "name", "default", "The link that feeds B.")
	f.StringVar(&quorumA, "a-quorum", "", "Quorum ports of A; found through its client port when not given.")
	f.StringVar(&quorumB, "b-quorum", "", "Quorum ports of B.")
	if name == "verify" {
		f.BoolVar(&repair, "repair", false, "Make B equal to A, and compare again.")
	}
	f.IntVar(&limit, "limit", 100, "How many differences to name; 0 is all.")
	return cmd
}

// repair makes the second ensemble equal to the first.
func (o *zkOptions) repair(cmd *cobra.Command, servers []string, sides [2]zksync.Side, scope zksync.Scope, link string) error {
	cfg := zksync.Config{Name: link, Scope: scope, Overwrite: true, Watches: len(sides[0].Quorum) == 0}
	for i, ep := range []*zksync.Endpoint{&cfg.Source, &cfg.Target} {
		var err error
		if *ep, err = endpoint(servers[i], sides[i].Quorum, "", o.sasl, o.tls, o.quorum); err != nil {
			return err
		}
		auth, err := parseAuth(o.auth)
		if err != nil {
			return err
		}
		ep.Auth = append(ep.Auth, auth...)
	}
	return zksync.Repair(cmd.Context(), cfg, zksync.Deps{})
}

func newZKStatusCommand(o *zkOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the links that feed this ensemble: position, engines, which one is active",
		Args:  cobra.NoArgs,
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, _ []string) error {
			links, err := zksync.Links(cmd.Context(), c)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(cmd, links)
			}
			rows := [][]string{{"LINK", "SOURCE", "PATH", "SEEDED", "POSITION", "WRITTEN", "ACTIVE", "STANDBY"}}
			for _, l := range links {
				active, standby := "-", 0
				if len(l.Engines) > 0 {
					active, standby = l.Engines[0], len(l.Engines)-1
				}
				path := l.Scope.Source
				if l.Scope.Target != path {
					path += " → " + l.Scope.Target
				}
				rows = append(rows, []string{l.Name, l.Source, path, fmt.Sprint(l.Seeded), l.Position, time.Since(l.Written).Round(time.Millisecond).String() + " ago", active, fmt.Sprint(standby)})
			}
			return printZKTable(cmd.OutOrStdout(), rows)
		}),
	}
}
