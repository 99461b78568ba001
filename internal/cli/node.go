package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/wire"
)

type agentView = masterv1.Response_GetAgents_Agent

func newNodeCommand() *cobra.Command {
	return group(&cobra.Command{Use: "node", Short: "List nodes (agents), look at them, drain them, clean them and give them up"},
		newNodeLsCommand(),
		newNodeInspectCommand(),
		newNodeDrainCommand(),
		newNodeUndrainCommand(),
		newNodePruneCommand(),
		newNodeGoneCommand(),
	)
}

func (c *cluster) agents(ctx context.Context) (*masterv1.Response_GetAgents, error) {
	r, err := c.query(ctx, masterv1.Call_GET_AGENTS)
	return r.GetGetAgents(), err
}

// node finds a node by its id, a unique beginning of it, or its hostname.
func (c *cluster) node(ctx context.Context, name string) (*agentView, error) {
	all, err := c.agents(ctx)
	if err != nil {
		return nil, err
	}
	return pick("node", name, all.GetAgents(), func(a *agentView) (string, []string) {
		return a.GetAgentInfo().GetId().GetValue(), []string{a.GetAgentInfo().GetHostname()}
	})
}

func nodeState(a *agentView) string {
	switch {
	case a.GetDrainInfo().GetState() == mesosv1.DrainState_DRAINING:
		return "draining"
	case a.GetDrainInfo().GetState() == mesosv1.DrainState_DRAINED:
		return "drained"
	case a.GetDeactivated():
		return "deactivated"
	case !a.GetActive():
		return "disconnected"
	}
	return "active"
}

func newNodeLsCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, _ []string) error {
		all, err := c.agents(ctx)
		if err != nil {
			return err
		}
		if c.json() {
			return printMessage(cmd, all)
		}
		t := newTable(cmd.OutOrStdout(), "ID", "HOST", "STATE", "CPUS", "MEM", "DISK", "SINCE")
		for _, a := range all.GetAgents() {
			used, total := a.GetAllocatedResources(), a.GetTotalResources()
			seen := a.GetRegisteredTime()
			if a.ReregisteredTime != nil {
				seen = a.GetReregisteredTime()
			}
			t.row(a.GetAgentInfo().GetId().GetValue(), a.GetAgentInfo().GetHostname(), nodeState(a),
				share(used, total, "cpus"), share(used, total, "mem"), share(used, total, "disk"), age(seen))
		}
		for _, a := range all.GetRecoveredAgents() {
			t.row(a.GetId().GetValue(), a.GetHostname(), "not back yet", "", "", "", "")
		}
		return t.flush()
	})
	cmd := &cobra.Command{Use: "ls", Short: "List the nodes with what is used of them", Args: cobra.NoArgs, RunE: runE}
	conn.bind(cmd)
	return cmd
}

func newNodeInspectCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		a, err := c.node(ctx, args[0])
		if err != nil {
			return err
		}
		if c.json() {
			return printMessage(cmd, a)
		}
		tasks, err := c.tasks(ctx)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		t := newTable(out, "id", a.GetAgentInfo().GetId().GetValue())
		t.row("host", a.GetAgentInfo().GetHostname())
		t.row("address", a.GetPid())
		t.row("state", nodeState(a))
		t.row("version", a.GetVersion())
		for _, name := range []string{"cpus", "mem", "disk", "gpus"} {
			t.row(name, share(a.GetAllocatedResources(), a.GetTotalResources(), name))
		}
		var attributes []string
		for _, at := range a.GetAgentInfo().GetAttributes() {
			attributes = append(attributes, attribute(at))
		}
		t.row("attributes", strings.Join(attributes, "; "))
		t.row("registered", age(a.GetRegisteredTime())+" ago")
		if a.DrainInfo != nil {
			t.row("drain", fmt.Sprintf("started %s ago, mark gone: %v", age(a.GetEstimatedDrainStartTime()), a.GetDrainInfo().GetConfig().GetMarkGone()))
		}
		if err := t.flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
		t = newTable(out, "TASK", "NAME", "FRAMEWORK", "STATE", "SINCE")
		for _, task := range tasks.GetTasks() {
			if task.GetAgentId().GetValue() == a.GetAgentInfo().GetId().GetValue() {
				t.row(task.GetTaskId().GetValue(), task.GetName(), task.GetFrameworkId().GetValue(), taskState(task.GetState()), ageSeconds(lastTime(task)))
			}
		}
		return t.flush()
	})
	cmd := &cobra.Command{Use: "inspect NODE", Short: "Show a node and what runs on it", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

func attribute(a *mesosv1.Attribute) string {
	switch a.GetType() {
	case mesosv1.Value_SCALAR:
		return fmt.Sprintf("%s=%g", a.GetName(), a.GetScalar().GetValue())
	case mesosv1.Value_SET:
		return a.GetName() + "={" + strings.Join(a.GetSet().GetItem(), ",") + "}"
	case mesosv1.Value_RANGES:
		var parts []string
		for _, r := range a.GetRanges().GetRange() {
			parts = append(parts, fmt.Sprintf("%d-%d", r.GetBegin(), r.GetEnd()))
		}
		return a.GetName() + "=[" + strings.Join(parts, ",") + "]"
	}
	return a.GetName() + "=" + a.GetText().GetValue()
}

func newNodeDrainCommand() *cobra.Command {
	var grace string
	var markGone, wait bool
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		a, err := c.node(ctx, args[0])
		if err != nil {
			return err
		}
		call := &masterv1.Call_DrainAgent{AgentId: a.GetAgentInfo().GetId()}
		if grace != "" {
			d, err := config.ParseDuration(grace)
			if err != nil || d < 0 {
				return usagef("--grace: %q is not a duration such as 5mins", grace)
			}
			call.MaxGracePeriod = durationpb.New(d)
		}
		if markGone {
			call.MarkGone = proto.Bool(true)
		}
		if err := c.ask(ctx, &masterv1.Call{Type: masterv1.Call_DRAIN_AGENT.Enum(), DrainAgent: call}, nil); err != nil {
			return err
		}
		if !wait {
			fmt.Fprintf(cmd.OutOrStdout(), "node %s is draining; `orchestrator node inspect %s` shows what is left\n", a.GetAgentInfo().GetHostname(), a.GetAgentInfo().GetId().GetValue())
			return nil
		}
		return c.awaitDrained(ctx, cmd, a)
	})
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Take no new tasks on a node and end those that it has", Args: cobra.ExactArgs(1), RunE: runE,
		Example: "  orchestrator node drain web-3\n  orchestrator node drain web-3 --grace 5mins --wait=false",
	}
	conn.bind(cmd)
	cmd.Flags().StringVar(&grace, "grace", "", "Longest time that a task may take to end, such as 5mins. Unset: what the task asks for.")
	cmd.Flags().BoolVar(&markGone, "mark-gone", false, "Give the node up for good once it is drained.")
	cmd.Flags().BoolVar(&wait, "wait", true, "Wait until nothing runs on the node any more.")
	return cmd
}

// awaitDrained waits until a drain has ended and says what it still waits for.
func (c *cluster) awaitDrained(ctx context.Context, cmd *cobra.Command, a *agentView) error {
	id, host := a.GetAgentInfo().GetId().GetValue(), a.GetAgentInfo().GetHostname()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := -1
	for {
		all, err := c.agents(ctx)
		if err != nil {
			return err
		}
		var now *agentView
		for _, x := range all.GetAgents() {
			if x.GetAgentInfo().GetId().GetValue() == id {
				now = x
			}
		}
		switch {
		case now == nil:
			fmt.Fprintf(cmd.OutOrStdout(), "node %s has left the cluster\n", host)
			return nil
		case now.GetDrainInfo().GetState() == mesosv1.DrainState_DRAINED:
			fmt.Fprintf(cmd.OutOrStdout(), "node %s is drained; `orchestrator node undrain %s` puts it back to work\n", host, id)
			return nil
		case now.DrainInfo == nil:
			return fmt.Errorf("node %s is not draining any more: somebody took the drain back", host)
		}
		tasks, err := c.tasks(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, t := range tasks.GetTasks() {
			if t.GetAgentId().GetValue() == id {
				left++
			}
		}
		if left != last {
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting for %d tasks on %s\n", left, host)
			last = left
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func newNodePruneCommand() *cobra.Command {
	var older string
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		a, err := c.node(ctx, args[0])
		if err != nil {
			return err
		}
		if d, err := config.ParseDuration(older); err != nil || d < 0 {
			return usagef("--older-than: %q is not a duration such as 1hrs", older)
		}
		_, address, _ := strings.Cut(a.GetPid(), "@")
		var answer struct{ Deleted, Failed int }
		if err := c.plainOn(ctx, address, "/sandboxes/prune", url.Values{"older_than": {older}}, &answer); err != nil {
			return fmt.Errorf("prune node %s: %w", a.GetAgentInfo().GetHostname(), err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d old sandboxes deleted on %s\n", answer.Deleted, a.GetAgentInfo().GetHostname())
		if answer.Failed > 0 {
			return fmt.Errorf("%d could not be deleted: the agent's log says why", answer.Failed)
		}
		client, err := wire.NewClient(wire.ClientConfig{
			Masters: []string{address}, Path: "/api/v1", ContentType: wire.Protobuf, Principal: c.Principal, Secret: c.Secret, CallTimeout: c.Timeout,
		})
		if err != nil {
			return err
		}
		defer client.Close()
		if err := client.Call(ctx, &agentv1.Call{Type: agentv1.Call_PRUNE_IMAGES.Enum()}); err != nil {
			return fmt.Errorf("prune the images of node %s: %w", a.GetAgentInfo().GetHostname(), err)
		}
		return nil
	})
	cmd := &cobra.Command{
		Use: "prune NODE", Short: "Delete what a node keeps of ended tasks: sandboxes, and images that nothing uses", Args: cobra.ExactArgs(1), RunE: runE,
		Long: `Delete what a node keeps of ended tasks: sandboxes, and images that nothing uses. The node does so by itself, by age and as its
disk fills (--gc_delay, --gc_disk_headroom); this is for now.`,
		Example: "  orchestrator node prune web-3\n  orchestrator node prune web-3 --older-than 1days",
	}
	conn.bind(cmd)
	cmd.Flags().StringVar(&older, "older-than", "0secs", "Only sandboxes of tasks that ended at least this long ago, such as 1days.")
	return cmd
}

func newNodeUndrainCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		a, err := c.node(ctx, args[0])
		if err != nil {
			return err
		}
		err = c.ask(ctx, &masterv1.Call{
			Type: masterv1.Call_REACTIVATE_AGENT.Enum(), ReactivateAgent: &masterv1.Call_ReactivateAgent{AgentId: a.GetAgentInfo().GetId()},
		}, nil)
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "node %s takes tasks again\n", a.GetAgentInfo().GetHostname())
		}
		return err
	})
	cmd := &cobra.Command{Use: "undrain NODE", Short: "Let a drained or deactivated node take tasks again", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

func newNodeGoneCommand() *cobra.Command {
	var yes bool
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		id, host := args[0], args[0]
		a, err := c.node(ctx, args[0])
		switch {
		case err == nil:
			id, host = a.GetAgentInfo().GetId().GetValue(), a.GetAgentInfo().GetHostname()
		case !strings.Contains(args[0], "-S"):
			return err // not even an id: unreachable nodes, which are not listed, can only be named by that
		}
		if !yes {
			if err := confirm(cmd, fmt.Sprintf("Node %s (%s) can never come back under this id, and its tasks count as gone. Go on?", host, id)); err != nil {
				return err
			}
		}
		err = c.ask(ctx, &masterv1.Call{
			Type:          masterv1.Call_MARK_AGENT_GONE.Enum(),
			MarkAgentGone: &masterv1.Call_MarkAgentGone{AgentId: &mesosv1.AgentID{Value: proto.String(id)}},
		}, nil)
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "node %s is gone\n", host)
		}
		return err
	})
	cmd := &cobra.Command{Use: "gone NODE", Short: "Give a node up for good: its tasks are gone and it may not come back", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask.")
	return cmd
}

// confirm asks a yes-or-no question on a terminal; elsewhere --yes is needed.
func confirm(cmd *cobra.Command, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("%s Say so with --yes", question)
	}
	fmt.Fprint(cmd.ErrOrStderr(), question+" [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}
