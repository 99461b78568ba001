package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/agent/executor"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/version"
)

// Exit codes of the binary.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError marks an error as the caller's wrong usage (exit code 2).
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usagef makes an error that exits with code 2.
func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// exitCode is an error that only carries the process's exit code: what had to be said has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the command line and returns the exit code of the process. SIGINT and SIGTERM cancel the command's context;
// a second one ends the process at once.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if executor.Requested(args) {
		// A build without an embedded helper is its own: this must come before anything that takes time.
		return executor.Main(args)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	strict(root)
	cmd, err := root.ExecuteContextC(context.WithValue(ctx, argsKey{}, args))
	if err == nil {
		return exitDone
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(stderr, "orchestrator: %v\n", err)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	// Cobra has no type for its own usage errors.
	case strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "unknown flag"),
		strings.HasPrefix(err.Error(), "required flag"), strings.Contains(err.Error(), "arg(s)"):
		if cmd != nil && cmd != root {
			fmt.Fprintf(stderr, "usage: %s\n", cmd.UseLine())
		}
		return exitUsage
	}
	return exitFailed
}

// strict makes the commands that Cobra adds refuse what they don't know, as ours do. The streams must be set before.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			group(cmd)
		case "help":
			cmd.Run = nil
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				about, rest, err := cmd.Root().Find(args)
				if err != nil || about == nil || len(rest) > 0 {
					return usagef("no command %q: `orchestrator help` lists them", strings.Join(args, " "))
				}
				about.InitDefaultHelpFlag()
				return about.Help()
			}
		}
	}
}

// argsKey is the key of the command line in a command's context: a daemon that reloads its settings reads it again.
type argsKey struct{}

func argsOf(ctx context.Context) []string {
	args, _ := ctx.Value(argsKey{}).([]string)
	return args
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "orchestrator",
		Short:         "A Mesos-compatible datacenter in one binary",
		Version:       version.Version, // what --version prints is set below
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{config.Explain(cmd.Flags(), err)}
	})
	root.AddCommand(
		newAppCommand(),
		newDeploymentCommand(),
		newMarathonCommand(),
		newMonitorCommand(),
		newProbeCommand(),
		newBenchCommand(),
		newVersionCommand(),
		newUpCommand(),
		newAgentCommand(),
		newMasterCommand(),
		newNodeCommand(),
		newTaskCommand(),
		newFrameworkCommand(),
		newQuotaCommand(),
		newRoleCommand(),
		newExecuteCommand(),
		newConfigCommand(),
		newZKCommand(),
	)
	return root
}

// group makes a command that only has commands below it: without one it prints its help, and an unknown one is wrong usage.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(below...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf(" (did you mean %q?)", near[0])
		}
		return usagef("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
	}
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}
