package cli

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/heapfloor"
	"github.com/orchestrator/orchestrator/internal/master"
)

func newMasterCommand() *cobra.Command {
	var cfg master.Config
	var daemon daemonFlags
	cmd := &cobra.Command{
		Use:   "master",
		Short: "Run a master: agents, frameworks, offers, quota and maintenance of a cluster",
		Long: `Run a master. It accepts Mesos' flags and MESOS_ environment variables.

Without --zk it is the only master and keeps its registry in a file under --work_dir. With --zk=zk://host:port,…/path it
contends for leadership with the other masters there and keeps the registry in ZooKeeper.`,
		Args: cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &cfg, master.BindOptions())
	daemon.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loadSettings(cmd, set); err != nil {
			return err
		}
		var level slog.LevelVar
		initial, err := cfg.Level()
		if err != nil {
			return usageError{err}
		}
		level.Set(initial)
		logFile := ""
		if cfg.LogDir != "" {
			logFile = cfg.LogDir + "/orchestrator-master.log"
		}
		log, closeLog, err := daemon.logger(cmd.ErrOrStderr(), &level, cfg.Quiet, logFile, "master")
		if err != nil {
			return err
		}
		defer closeLog()
		served := logFile
		if cfg.ExternalLog != "" {
			served = cfg.ExternalLog
		}
		defer heapfloor.Set(heapfloor.ForHost())()
		m, err := master.New(cfg, master.Deps{Log: log, Level: &level, Flags: set.Values(), LogFile: served})
		if err != nil {
			return err
		}
		return run(cmd.Context(), m, func() error {
			return daemon.ready(map[string]any{"master": "http://" + m.Address()})
		})
	}
	return cmd
}
