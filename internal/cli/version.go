package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/version"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary and of the Mesos API that it speaks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
}

// versionLine is what version and --version print.
func versionLine() string {
	return fmt.Sprintf("orchestrator %s (revision %s, %s, compatible with Apache Mesos %s)\n",
		version.Version, version.Revision(), runtime.Version(), version.Mesos)
}
