package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/orchestrator/orchestrator/internal/config"
)

// daemonFlags are those that every daemon has besides its own settings.
type daemonFlags struct {
	readyFile string
	logFormat string
}

func (d *daemonFlags) bind(fs *pflag.FlagSet) {
	fs.StringVar(&d.readyFile, "ready_file", "", "Write the addresses as JSON into this file once everything serves.")
	fs.StringVar(&d.logFormat, "log_format", "text", "How log lines look: text or json.")
}

// logger makes the daemon's logger: to stderr, and to logFile when it is given. close closes the file.
func (d *daemonFlags) logger(stderr io.Writer, level slog.Leveler, quiet bool, logFile, component string) (log *slog.Logger, closeLog func(), err error) {
	out := stderr
	closeLog = func() {}
	if quiet {
		out = io.Discard
	}
	if logFile != "" {
		if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
			return nil, nil, fmt.Errorf("log directory: %w", err)
		}
		f, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, nil, fmt.Errorf("log file: %w", err)
		}
		closeLog = func() { _ = f.Close() }
		out = io.MultiWriter(out, f)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch d.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(out, opts)).With("component", component), closeLog, nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, opts)).With("component", component), closeLog, nil
	}
	closeLog()
	return nil, nil, usagef("--log_format: %q is neither text nor json", d.logFormat)
}

// ready writes the ready file, whole or not at all, with the process's id added.
func (d *daemonFlags) ready(addresses map[string]any) error {
	if d.readyFile == "" {
		return nil
	}
	addresses["pid"] = os.Getpid()
	data, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	dir, name := filepath.Split(d.readyFile)
	tmp, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(data, '\n'))
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	if err := os.Rename(tmp.Name(), d.readyFile); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// runner is what every component is.
type runner interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// run runs a component until ctx ends. Once it is ready, started is called.
func run(ctx context.Context, r runner, started func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-r.Ready():
			if err := started(); err != nil {
				cancel(err)
			}
		case <-ctx.Done():
		}
	}()
	err := r.Run(ctx)
	if cause := context.Cause(ctx); err == nil && ctx.Err() != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	cancel(nil)
	<-watching
	return err
}

// loadSettings loads a daemon's settings; what is wrong with them is wrong usage.
func loadSettings(cmd *cobra.Command, set *config.Set) error {
	if err := set.Load(os.LookupEnv); err != nil {
		return usageError{err}
	}
	for _, n := range set.Notices() {
		fmt.Fprintln(cmd.ErrOrStderr(), "orchestrator: note: "+n)
	}
	return nil
}
