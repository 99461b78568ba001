package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/sim"
	"github.com/orchestrator/orchestrator/internal/sim/bench"
)

// newBenchCommand is hidden: it is what `make bench` runs, and no part of operating a cluster.
func newBenchCommand() *cobra.Command {
	var cfg bench.Config
	var output string
	cmd := &cobra.Command{
		Use:    "bench",
		Short:  "Measure a master with simulated agents and frameworks",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Executable, cfg.Out, cfg.Table = exe, cmd.OutOrStdout(), cmd.ErrOrStderr()
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if output != "" {
				f, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
				if err != nil {
					return fmt.Errorf("opening the file for the figures: %w", err)
				}
				defer f.Close()
				cfg.Out = f
			}
			b, err := bench.New(cfg)
			if err != nil {
				return usageError{err}
			}
			return b.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&cfg.Rows, "rows", nil, fmt.Sprintf("goals to measure, of %v; all if none is given", bench.Rows))
	f.DurationVar(&cfg.Duration, "duration", 60*time.Second, "how long a load is sustained")
	f.IntVar(&cfg.Agents, "agents", 10_000, "agents in rows 4, 13, 14 and 15")
	f.IntVar(&cfg.Links, "links", 15_000, "agents with a connection of their own in row 17")
	f.IntVar(&cfg.Relayed, "relayed", 50_000, "agents that share connections in row 17")
	f.IntVar(&cfg.Frameworks, "frameworks", 10, "frameworks in rows 5 to 7")
	f.IntVar(&cfg.Apps, "apps", 20_000, "apps in row 19")
	f.IntVar(&cfg.Instances, "instances", 250_000, "instances of all apps in row 19")
	f.BoolVar(&cfg.JSON, "json", false, "let the frameworks speak JSON instead of protobuf")
	f.StringVar(&cfg.Profile, "profile", "", "prefix of files for CPU profiles of the master")
	f.Float64Var(&cfg.Rate, "rate", 0, "launches a second in rows 5 and 6, instead of climbing to the highest that is kept up with")
	f.StringVar(&output, "output", "", "file to append the JSON lines to, instead of standard output")
	cmd.AddCommand(newBenchMasterCommand(), newBenchAgentsCommand(), newBenchPollCommand())
	return cmd
}

func newBenchMasterCommand() *cobra.Command {
	var o bench.MasterOptions
	cmd := &cobra.Command{
		Use:    "master [-- flags of the master]",
		Short:  "Run a master to be measured",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Flags = args
			o.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			return bench.RunMaster(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.WorkDir, "work-dir", "", "directory of the registry; in memory if none is given")
	f.StringVar(&o.ReadyFile, "ready-file", "", "file to write the address to when the master serves")
	f.StringVar(&o.Profile, "cpu-profile", "", "file for a CPU profile of the whole run")
	return cmd
}

func newBenchAgentsCommand() *cobra.Command {
	var (
		cfg        sim.AgentsConfig
		readyFile  string
		start, run string
	)
	cmd := &cobra.Command{
		Use:    "agents",
		Short:  "Run simulated agents",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err1, err2 error
			cfg.Script.Start, err1 = sim.ParseDuration(start)
			cfg.Script.Run, err2 = sim.ParseDuration(run)
			if err := errors.Join(err1, err2); err != nil {
				return usageError{err}
			}
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			agents, err := sim.NewAgents(cfg)
			if err != nil {
				return usageError{err}
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- agents.Run(ctx) }()
			select {
			case <-agents.Ready():
				if err := bench.WriteReady(readyFile, bench.Ready{PID: os.Getpid()}); err != nil {
					return fmt.Errorf("writing the ready file: %w", err)
				}
			case <-ctx.Done():
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Master, "master", "127.0.0.1:5050", "address of any master")
	f.IntVar(&cfg.Count, "count", 1, "number of agents")
	f.IntVar(&cfg.PerConnection, "per-connection", 1, "agents on one connection")
	f.IntVar(&cfg.First, "first", 0, "number of the first agent")
	f.Float64Var(&cfg.CPUs, "cpus", 8, "cpus of each agent")
	f.Float64Var(&cfg.Mem, "mem", 16384, "memory of each agent in MB")
	f.StringVar(&start, "start", "0s", "from a task's arrival to TASK_RUNNING, such as 5ms or 1s..3s")
	f.StringVar(&run, "run", "0s", "from TASK_RUNNING to the end; 0s: for ever")
	f.Float64Var(&cfg.Script.Failing, "failing", 0, "share of the tasks that fail")
	f.StringVar(&readyFile, "ready-file", "", "file to write when all agents are registered")
	return cmd
}

func newBenchPollCommand() *cobra.Command {
	var o bench.PollOptions
	cmd := &cobra.Command{
		Use:    "poll",
		Short:  "Read an address again and again",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Poll(cmd.Context(), o, func() error { return bench.WriteReady(o.ReadyFile, bench.Ready{PID: os.Getpid()}) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.URL, "url", "http://127.0.0.1:5050/state", "what to read")
	f.IntVar(&o.Clients, "clients", 20, "how many read at the same time")
	f.DurationVar(&o.Every, "every", time.Second, "time between two requests of one client")
	f.StringVar(&o.ReadyFile, "ready-file", "", "file to write when each client has read one answer")
	return cmd
}
