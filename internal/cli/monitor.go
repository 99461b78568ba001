package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/monitor"
)

// monitorSettings are the flags of `orchestrator monitor`.
type monitorSettings struct {
	Listen         string      `flag:"listen" default:"127.0.0.1:4040" help:"Address of the console and the API (host:port; port 0 picks a free one)."`
	DataDir        config.Path `flag:"data_dir" default:"" help:"Keeps users, tokens, saved views, the audit log and a day of minutes. Without it they are gone with the process."`
	Auth           string      `flag:"auth" default:"on" help:"on, or off: off is allowed only on a loopback address."`
	ViewerLogs     bool        `flag:"viewer_logs" default:"true" help:"Viewers may read logs."`
	AllowedOrigins []string    `flag:"allowed_origins" default:"" help:"Hosts, besides the monitor's own, from which browsers may use it."`
	CertFile       config.Path `flag:"tls_cert" default:"" help:"Certificate to serve TLS with (PEM file)."`
	KeyFile        config.Path `flag:"tls_key" default:"" help:"Key of the certificate (PEM file)."`
	ClientCAFile   config.Path `flag:"tls_client_ca" default:"" help:"Authority whose client certificates count as a probe's token (PEM file)."`
	Master         string      `flag:"master" default:"" help:"URL of a Mesos master whose pages the console shows."`
	Marathon       string      `flag:"marathon" default:"" help:"URL of a Marathon whose pages the console shows."`
	ZkSync         string      `flag:"zk_sync" default:"" help:"URL of a ZooKeeper replication engine (zk sync --listen) whose state the console shows."`
	MetricsOpen    bool        `flag:"metrics_open" default:"false" help:"Serve /metrics without a login."`
	ReplicaID      string      `flag:"replica_id" default:"" help:"Name of this replica. The host's name by default."`
	Replicas       []string    `flag:"replicas" default:"" help:"Other monitors with the same accounts.json (https://m2:4040,…). The console goes on there when this one is gone. This one may be among them."`
	ScopeAPI       bool        `flag:"scope_api" default:"false" help:"Serve Weave Scope's read API too (GET /api/topology…, /api/probes), to viewers."`
	ScopeProbes    string      `flag:"scope_probes" default:"off" help:"Whether probes of Weave Scope may send: off, token (with a token of kind probe, as --probe.token of theirs) or open (anybody may)."`
	ProbeToken     string      `flag:"probe_token" default:"" secret:"true" help:"A secret that probes may use, besides the tokens that admins make."`
	ReadyFile      config.Path `flag:"ready_file" default:"" help:"File to write {\"monitor\":URL,\"pid\":N} to when requests are answered."`
}

// collectAt has the heap collected when so many percent are new. GOGC and GOMEMLIMIT stay the operator's.
func collectAt(percent int) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(percent)
	}
}

func newMonitorCommand() *cobra.Command {
	var in monitorSettings
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Merge what probes report and serve the console",
		Long: `Merge what probes report, keep it for an hour (minutes for a day), and serve the console and the API.

The first start prints a link that logs an administrator in. Probes need a token of kind probe:
  curl -H "Authorization: Bearer $TOKEN" -d '{"name":"vm1","kind":"probe"}' http://127.0.0.1:4040/api/v1/tokens`,
		Args: cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &in, config.Options{Hyphens: true, EnvPrefix: []string{"ORCHESTRATOR_MONITOR_"}})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loadSettings(cmd, set); err != nil {
			return err
		}
		// Nearly all of the heap lives long, and little is allocated beside it: collecting it early costs a few hundredths of a
		// processor and keeps the process small.
		collectAt(30)
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		m, err := monitor.New(monitor.Config{
			Listen: in.Listen, DataDir: string(in.DataDir), Auth: in.Auth, ViewerLogs: in.ViewerLogs, AllowedOrigins: in.AllowedOrigins,
			CertFile: string(in.CertFile), KeyFile: string(in.KeyFile), ClientCAFile: string(in.ClientCAFile), Master: in.Master, Marathon: in.Marathon, ZkSync: in.ZkSync,
			MetricsOpen: in.MetricsOpen, ReplicaID: in.ReplicaID, Replicas: in.Replicas, ProbeToken: in.ProbeToken,
			ScopeAPI: in.ScopeAPI, ScopeProbes: in.ScopeProbes,
		}, monitor.Deps{Logger: log})
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error { return m.Run(ctx) })
		g.Go(func() error {
			select {
			case <-ctx.Done():
				return nil
			case <-m.Ready():
			}
			fmt.Fprintf(cmd.OutOrStdout(), "monitor: %s\n", m.Link())
			return writeReady(ctx, string(in.ReadyFile), fmt.Sprintf(`{"monitor":%q,"pid":%d}`, m.URL(), os.Getpid()))
		})
		return g.Wait()
	}
	return cmd
}

// writeReady puts a ready file in place, whole.
func writeReady(_ context.Context, path, text string) error {
	if path == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return fmt.Errorf("write the ready file: %w", err)
	}
	_, err = f.WriteString(text + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write the ready file: %w", err)
	}
	return nil
}
