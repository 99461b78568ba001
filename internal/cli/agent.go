package cli

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/orchestrator/orchestrator/internal/agent"
	"github.com/orchestrator/orchestrator/internal/config"
)

func newAgentCommand() *cobra.Command {
	var cfg agent.Config
	var daemon daemonFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run an agent: the tasks of frameworks, in containers on this host",
		Long: `Run an agent. It accepts Mesos' flags and MESOS_ environment variables.

--master names the masters (host:port,…) or where they meet (zk://host:port,…/path). Ending the agent leaves its tasks
running; the next one finds them again under the same --work_dir. SIGHUP reads the configuration again (resources and
attributes); SIGUSR1 kills the tasks and takes the agent out of the cluster for good.`,
		Args: cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &cfg, agent.BindOptions())
	daemon.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loadSettings(cmd, set); err != nil {
			return err
		}
		if err := complete(&cfg); err != nil {
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
			logFile = filepath.Join(cfg.LogDir, "orchestrator-agent.log")
		}
		log, closeLog, err := daemon.logger(cmd.ErrOrStderr(), &level, cfg.Quiet, logFile, "agent")
		if err != nil {
			return err
		}
		defer closeLog()
		a, err := agent.New(cfg, agent.Deps{Log: log, Level: &level, Flags: set.Values(), LogFile: logFile})
		if err != nil {
			return err
		}
		stop := agentSignals(cmd, a, log)
		defer stop()
		err = run(cmd.Context(), a, func() error {
			return daemon.ready(map[string]any{"agent": "http://" + a.Address(), "agents": []string{"http://" + a.Address()}})
		})
		if errors.Is(err, agent.ErrLeft) {
			log.Info("the agent has left the cluster", "reason", err)
			return nil
		}
		return err
	}
	return cmd
}

// agentSignals serves SIGHUP and SIGUSR1 until stop is called.
func agentSignals(cmd *cobra.Command, a *agent.Agent, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(cmd.Context())
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGHUP, syscall.SIGUSR1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-ch:
				var err error
				if sig == syscall.SIGHUP {
					err = reloadAgent(ctx, cmd, a)
				} else {
					err = a.Leave(ctx, "the operator asked for it (SIGUSR1)")
				}
				if err != nil {
					log.Error("signal has no effect", "signal", sig.String(), "err", err)
				}
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		cancel()
		<-done
	}
}

// reloadAgent reads the flags that were given once more: file:// values, the environment and --config may have changed.
func reloadAgent(ctx context.Context, cmd *cobra.Command, a *agent.Agent) error {
	var next agent.Config
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	set := config.Bind(fs, &next, agent.BindOptions())
	var rest daemonFlags
	rest.bind(fs)
	if err := fs.Parse(argsOf(cmd.Context())); err != nil {
		return err
	}
	if err := set.Load(os.LookupEnv); err != nil {
		return err
	}
	return a.Reload(ctx, next)
}
