package cli

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/marathon"
)

func newMarathonCommand() *cobra.Command {
	var (
		cfg       marathon.Config
		readyFile string
	)
	cmd := &cobra.Command{
		Use:   "marathon",
		Short: "Keep services running on a Mesos cluster and serve Marathon's API",
		Long: `Keep apps and pods running on any Mesos 1.11 master, with Marathon's REST API and events.

Settings are Marathon's own: each flag can also come from the environment as MARATHON_<NAME>.`,
		Args: cobra.NoArgs,
	}
	set := config.Bind(cmd.Flags(), &cfg, config.Options{EnvPrefix: []string{marathon.EnvPrefix}})
	cmd.Flags().StringVar(&readyFile, "ready-file", "", "Write the address and the process id to this file as JSON once requests are served.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := set.Load(os.LookupEnv); err != nil {
			return usageError{err}
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		for _, n := range set.Notices() {
			log.Warn(n)
		}
		m, err := marathon.New(cfg, marathon.Deps{Log: log})
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error { return m.Run(ctx) })
		g.Go(func() error {
			select {
			case <-m.Ready():
			case <-ctx.Done():
				return nil
			}
			log.Info("ready", "address", "http://"+m.Address())
			if readyFile == "" {
				return nil
			}
			return writeJSONFile(readyFile, map[string]any{"marathon": "http://" + m.Address(), "pid": os.Getpid()})
		})
		return g.Wait()
	}
	return cmd
}

// writeJSONFile puts a document in place at once, so that whoever waits for the file never reads half of it.
func writeJSONFile(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(append(b, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
