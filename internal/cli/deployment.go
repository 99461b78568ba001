package cli

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func newDeploymentCommand() *cobra.Command {
	f := &marathonFlags{}
	cmd := &cobra.Command{Use: "deployment", Short: "Look at and steer changes of services that are under way"}
	f.bind(cmd)
	return group(cmd,
		newDeploymentLsCommand(f),
		newDeploymentCancelCommand(f),
		newDeploymentResumeCommand(f),
		newDeploymentWatchCommand(f),
	)
}

func newDeploymentLsCommand(f *marathonFlags) *cobra.Command {
	return &cobra.Command{Use: "ls", Short: "List deployments that are under way", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		if f.output == "json" {
			var raw []byte
			if err := c.call(cmd.Context(), http.MethodGet, "/v2/deployments", nil, &raw); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), string(raw))
			return err
		}
		list, err := c.deployments(cmd.Context())
		if err != nil {
			return err
		}
		var rows [][]string
		for _, d := range list {
			state := "running"
			if d.Paused != "" {
				state = "paused"
			}
			affected := strings.Join(append(d.AffectedApps, d.AffectedPods...), ",")
			rows = append(rows, []string{d.ID, d.Version, fmt.Sprintf("%d/%d", d.CurrentStep, d.TotalSteps), state, affected})
		}
		return printRows(cmd.OutOrStdout(), rows, "ID", "VERSION", "STEP", "STATE", "AFFECTS")
	}}
}

func newDeploymentCancelCommand(f *marathonFlags) *cobra.Command {
	ch := change{}
	cmd := &cobra.Command{Use: "cancel ID", Short: "Undo a deployment, or with --force leave everything where it stands", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		var answer []byte
		if err := c.call(cmd.Context(), http.MethodDelete, "/v2/deployments/"+args[0]+ch.query(), nil, &answer); err != nil {
			return err
		}
		if ch.force {
			return nil
		}
		return ch.done(cmd, f, c, answer)
	}}
	ch.bind(cmd)
	return cmd
}

func newDeploymentResumeCommand(f *marathonFlags) *cobra.Command {
	return &cobra.Command{Use: "resume ID", Short: "Continue a deployment that missed its deadline and was paused", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		return c.call(cmd.Context(), http.MethodPost, "/v2/deployments/"+args[0]+"/resume", nil, nil)
	}}
}

func newDeploymentWatchCommand(f *marathonFlags) *cobra.Command {
	return &cobra.Command{Use: "watch ID", Short: "Show a deployment's progress until it has ended", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		return c.follow(cmd.Context(), cmd.OutOrStdout(), args[0])
	}}
}
