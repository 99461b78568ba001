package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
)

type frameworkView = masterv1.Response_GetFrameworks_Framework

func newFrameworkCommand() *cobra.Command {
	return group(&cobra.Command{Use: "framework", Short: "List frameworks, look at them and tear them down"},
		newFrameworkLsCommand(),
		newFrameworkInspectCommand(),
		newFrameworkTeardownCommand(),
		newFrameworkWhyCommand(),
	)
}

func (c *cluster) frameworks(ctx context.Context) (*masterv1.Response_GetFrameworks, error) {
	r, err := c.query(ctx, masterv1.Call_GET_FRAMEWORKS)
	return r.GetGetFrameworks(), err
}

// framework finds a live framework by its id, the end of it after the master's id, or its name.
func (c *cluster) framework(ctx context.Context, name string) (*frameworkView, error) {
	all, err := c.frameworks(ctx)
	if err != nil {
		return nil, err
	}
	return pick("framework", name, all.GetFrameworks(), func(f *frameworkView) (string, []string) {
		id := f.GetFrameworkInfo().GetId().GetValue()
		return id, []string{f.GetFrameworkInfo().GetName(), id[strings.LastIndexByte(id, '-')+1:]}
	})
}

func frameworkState(f *frameworkView) string {
	switch {
	case f.GetConnected() && f.GetActive():
		return "active"
	case f.GetConnected():
		return "inactive"
	case f.GetRecovered():
		return "recovered"
	}
	return "disconnected"
}

func newFrameworkLsCommand() *cobra.Command {
	var all bool
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, _ []string) error {
		list, err := c.frameworks(ctx)
		if err != nil {
			return err
		}
		if c.json() {
			return printMessage(cmd, list)
		}
		tasks, err := c.tasks(ctx)
		if err != nil {
			return err
		}
		running := map[string]int{}
		for _, t := range tasks.GetTasks() {
			running[t.GetFrameworkId().GetValue()]++
		}
		t := newTable(cmd.OutOrStdout(), "ID", "NAME", "STATE", "ROLES", "TASKS", "OFFERS", "CPUS", "MEM", "SINCE")
		row := func(f *frameworkView, state string) {
			info := f.GetFrameworkInfo()
			roles := info.GetRoles()
			if len(roles) == 0 {
				roles = []string{info.GetRole()}
			}
			used := f.GetAllocatedResources()
			t.row(info.GetId().GetValue(), info.GetName(), state, strings.Join(roles, ","), fmt.Sprint(running[info.GetId().GetValue()]),
				fmt.Sprint(len(f.GetOffers())), first(share(used, nil, "cpus")), first(share(used, nil, "mem")), age(f.GetRegisteredTime()))
		}
		for _, f := range list.GetFrameworks() {
			row(f, frameworkState(f))
		}
		if all {
			for _, f := range list.GetCompletedFrameworks() {
				row(f, "completed")
			}
		}
		return t.flush()
	})
	cmd := &cobra.Command{Use: "ls", Short: "List the frameworks with what they use", Args: cobra.NoArgs, RunE: runE}
	conn.bind(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Also list completed frameworks.")
	return cmd
}

// first is the part of a share that is used.
func first(share string) string {
	used, _, _ := strings.Cut(share, "/")
	return used
}

func newFrameworkInspectCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		f, err := c.framework(ctx, args[0])
		if err != nil {
			return err
		}
		return printMessage(cmd, f)
	})
	cmd := &cobra.Command{Use: "inspect FRAMEWORK", Short: "Show all that the master knows of a framework, as JSON", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

func newFrameworkTeardownCommand() *cobra.Command {
	var yes bool
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		f, err := c.framework(ctx, args[0])
		if err != nil {
			return err
		}
		info := f.GetFrameworkInfo()
		if !yes {
			if err := confirm(cmd, fmt.Sprintf("Framework %s (%s) and all its tasks end, and it can't come back. Go on?", printable(info.GetName()), info.GetId().GetValue())); err != nil {
				return err
			}
		}
		err = c.ask(ctx, &masterv1.Call{Type: masterv1.Call_TEARDOWN.Enum(), Teardown: &masterv1.Call_Teardown{FrameworkId: info.GetId()}}, nil)
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "framework %s is torn down\n", printable(info.GetName()))
		}
		return err
	})
	cmd := &cobra.Command{Use: "teardown FRAMEWORK", Short: "End a framework with all its tasks", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask.")
	return cmd
}
