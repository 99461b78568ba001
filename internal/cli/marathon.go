package cli

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/marathon"
)

func newMarathonCommand() *cobra.Command {
	var (
		cfg    marathon.Config
		daemon daemonFlags
	)
	cmd := &cobra.Command{
		Use:   "marathon",
		Short: "Keep services running on a Mesos cluster and serve Marathon's API",
		Long: `Keep apps and pods running on any Mesos 1.11 master, with Marathon's REST API and events.

Settings are Marathon's own: each flag can also come from the environment as MARATHON_<NAME>.`,
		Args: cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &cfg, marathon.BindOptions())
	daemon.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loadSettings(cmd, set); err != nil {
			return err
		}
		var level slog.LevelVar // info
		log, closeLog, err := daemon.logger(cmd.ErrOrStderr(), &level, false, "", "marathon")
		if err != nil {
			return err
		}
		defer closeLog()
		m, err := marathon.New(cfg, marathon.Deps{Log: log, Level: &level})
		if err != nil {
			return err
		}
		return run(cmd.Context(), m, func() error {
			log.Info("ready", "address", m.URL())
			return daemon.ready(map[string]any{"marathon": m.URL()})
		})
	}
	return cmd
}
