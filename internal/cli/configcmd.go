package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/orchestrator/orchestrator/internal/agent"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/marathon"
	"github.com/orchestrator/orchestrator/internal/master"
	"github.com/orchestrator/orchestrator/internal/up"
)

// configurable is a component whose settings can be checked and listed.
type configurable struct {
	config  func() any // a pointer to its zero configuration
	options config.Options
}

// configurables are the components by the name of their command; one a line.
func configurables() map[string]configurable {
	return map[string]configurable{
		"agent":    {func() any { return &agent.Config{} }, agent.BindOptions()},
		"marathon": {func() any { return &marathon.Config{} }, config.Options{EnvPrefix: []string{marathon.EnvPrefix}}},
		"master":   {func() any { return &master.Config{} }, master.BindOptions()},
		"monitor":  {func() any { return &monitorSettings{} }, config.Options{EnvPrefix: []string{"ORCHESTRATOR_MONITOR_"}, Hyphens: true}},
		"probe":    {func() any { return &probeSettings{} }, config.Options{EnvPrefix: []string{"ORCHESTRATOR_PROBE_"}, Hyphens: true}},
		"up":       {func() any { return &up.Config{} }, config.Options{EnvPrefix: []string{"ORCHESTRATOR_"}, Hyphens: true}},
	}
}

func newConfigCommand() *cobra.Command {
	return group(&cobra.Command{Use: "config", Short: "Check the settings of a component, or list all that there are"}, newConfigCheckCommand(), newConfigReferenceCommand())
}

func componentNames() []string { return slices.Sorted(maps.Keys(configurables())) }

func component(name string) (configurable, error) {
	c, ok := configurables()[name]
	if !ok {
		return c, usagef("no component %q: it is one of %s", name, strings.Join(componentNames(), ", "))
	}
	return c, nil
}

func newConfigCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check COMPONENT [flags of the component]",
		Short: "Say what is wrong with the settings of a component, or what is in force and where it comes from",
		Long: `Load the settings of a component from these flags, the environment and the file named by --config, as the component would. Prints
every problem and exits with 2, or prints the settings in force, each with its source, and exits with 0.`,
		Example:            "  orchestrator config check master --config /etc/orchestrator/master.yaml",
		DisableFlagParsing: true,
		ValidArgs:          componentNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name the component: one of %s", strings.Join(componentNames(), ", "))
			}
			if args[0] == "-h" || args[0] == "--help" {
				return cmd.Help()
			}
			c, err := component(args[0])
			if err != nil {
				return err
			}
			fs := pflag.NewFlagSet(args[0], pflag.ContinueOnError)
			fs.SetOutput(cmd.ErrOrStderr())
			cfg := c.config()
			set := config.Bind(fs, cfg, c.options)
			(&daemonFlags{}).bind(fs)
			if err := fs.Parse(args[1:]); err != nil {
				return usageError{config.Explain(fs, err)}
			}
			if u, ok := cfg.(*up.Config); ok && u.DataDir == "" {
				u.DataDir = defaultDataDir()
			}
			if err := set.Load(os.LookupEnv); err != nil {
				return usageError{err}
			}
			if err := complete(cfg); err != nil {
				return err
			}
			for _, n := range set.Notices() {
				fmt.Fprintln(cmd.ErrOrStderr(), "note: "+n)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), set.Table())
			return err
		},
	}
}

// complete says what a component that is started by its command lacks: settings without which it can't begin.
func complete(cfg any) error {
	if a, ok := cfg.(*agent.Config); ok && a.Master.IsZero() {
		return usagef("master: it is not given: name the masters (--master host:port,…) or where they meet (--master zk://host:port,…/path)")
	}
	return nil
}

func newConfigReferenceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reference COMPONENT", Short: "Print all settings of a component as a Markdown table", Args: cobra.ExactArgs(1), ValidArgs: componentNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := component(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), config.Reference(c.config(), c.options))
			return err
		},
	}
}
