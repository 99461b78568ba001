package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/up"
)

func newUpCommand() *cobra.Command {
	var cfg up.Config
	var daemon daemonFlags
	var verbose bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a whole cluster on this machine: master, agents and services in one process",
		Long: `Run a whole cluster on this machine. Nothing else is needed: no ZooKeeper, no Docker. A Docker Engine that answers on
--docker-socket is used for tasks that ask for it.

Ctrl-C stops it and leaves tasks running; starting it again with the same --data-dir finds them. What happens is logged into up.log below
that directory; warnings also appear here.`,
		Example: "  orchestrator up\n  orchestrator up --agents 3 --data-dir /tmp/cluster",
		Args:    cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &cfg, config.Options{EnvPrefix: []string{"ORCHESTRATOR_"}, Hyphens: true})
	daemon.bind(cmd.Flags())
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show here all that is logged.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.DataDir == "" {
			cfg.DataDir = defaultDataDir()
		}
		if err := loadSettings(cmd, set); err != nil {
			return err
		}
		log, closeLog, err := upLogger(cmd.ErrOrStderr(), cfg.DataDir, verbose)
		if err != nil {
			return err
		}
		defer closeLog()
		u, err := up.New(cfg, log)
		if err != nil {
			return err
		}
		return run(cmd.Context(), u, func() error {
			a := u.Addresses()
			fmt.Fprintf(cmd.OutOrStdout(), "everything is up, in %s\n\n%s\nTry: orchestrator execute --master %s --command 'echo hello'\nCtrl-C stops it; tasks go on.\n",
				cfg.DataDir, a.Table(), a.Master[len("http://"):])
			return daemon.ready(map[string]any{"master": a.Master, "agents": a.Agents, "marathon": a.Marathon, "monitor": a.Monitor})
		})
	}
	return cmd
}

// defaultDataDir is where a whole cluster is kept when nothing else is said.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/orchestrator/up"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "orchestrator")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "orchestrator")
	}
	return ""
}

// upLogger logs everything into the data directory, and warnings to the terminal.
func upLogger(stderr io.Writer, dir string, verbose bool) (*slog.Logger, func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "up.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, fmt.Errorf("log file: %w; choose another directory with --data-dir", err)
	}
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	handler := slog.NewMultiHandler(
		slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelInfo}),
		slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}),
	)
	return slog.New(handler), func() { _ = f.Close() }, nil
}
