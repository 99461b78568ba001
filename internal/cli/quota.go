package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	quotav1 "github.com/orchestrator/orchestrator/api/mesos/v1/quota"
)

func newQuotaCommand() *cobra.Command {
	return group(&cobra.Command{Use: "quota", Short: "List, set and remove the guarantees and limits of roles"}, newQuotaLsCommand(), newQuotaSetCommand(), newQuotaRmCommand())
}

func newQuotaLsCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, _ []string) error {
		r, err := c.query(ctx, masterv1.Call_GET_QUOTA)
		if err != nil {
			return err
		}
		configs := r.GetGetQuota().GetStatus().GetConfigs()
		if c.json() {
			return printMessages(cmd, configs)
		}
		t := newTable(cmd.OutOrStdout(), "ROLE", "GUARANTEES", "LIMITS")
		for _, q := range configs {
			t.row(q.GetRole(), scalarText(q.GetGuarantees()), scalarText(q.GetLimits()))
		}
		return t.flush()
	})
	cmd := &cobra.Command{Use: "ls", Short: "List the quotas", Args: cobra.NoArgs, RunE: runE}
	conn.bind(cmd)
	return cmd
}

func scalarText(m map[string]*mesosv1.Value_Scalar) string {
	var parts []string
	for name, v := range m {
		parts = append(parts, fmt.Sprintf("%s:%g", name, v.GetValue()))
	}
	slices.Sort(parts)
	return strings.Join(parts, ";")
}

// parseScalars reads "cpus:4;mem:1024" (or with commas).
func parseScalars(text string) (map[string]*mesosv1.Value_Scalar, error) {
	out := map[string]*mesosv1.Value_Scalar{}
	for item := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == ',' }) {
		name, value, ok := strings.Cut(strings.TrimSpace(item), ":")
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || name == "" || err != nil || v < 0 {
			return nil, fmt.Errorf("%q is not name:amount, such as cpus:4;mem:1024", item)
		}
		out[name] = &mesosv1.Value_Scalar{Value: proto.Float64(v)}
	}
	return out, nil
}

func newQuotaSetCommand() *cobra.Command {
	var guarantee, limit string
	var force bool
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		q := &quotav1.QuotaConfig{Role: proto.String(args[0])}
		var err error
		if q.Guarantees, err = parseScalars(guarantee); err != nil {
			return usagef("--guarantee: %w", err)
		}
		if q.Limits, err = parseScalars(limit); err != nil {
			return usagef("--limit: %w", err)
		}
		if len(q.Guarantees) == 0 && len(q.Limits) == 0 {
			return usagef("give --guarantee or --limit; `quota rm` removes a quota")
		}
		return c.updateQuota(ctx, cmd, q, force, "set")
	})
	cmd := &cobra.Command{
		Use: "set ROLE", Short: "Replace the quota of a role", Args: cobra.ExactArgs(1), RunE: runE,
		Example: "  orchestrator quota set web --guarantee 'cpus:4;mem:8192' --limit 'cpus:16'",
	}
	conn.bind(cmd)
	cmd.Flags().StringVar(&guarantee, "guarantee", "", "What is kept for the role, such as cpus:4;mem:8192.")
	cmd.Flags().StringVar(&limit, "limit", "", "What the role may use at most. What is not named has no limit.")
	cmd.Flags().BoolVar(&force, "force", false, "Even if the cluster has less, or the role uses more.")
	return cmd
}

func newQuotaRmCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		return c.updateQuota(ctx, cmd, &quotav1.QuotaConfig{Role: proto.String(args[0])}, false, "removed")
	})
	cmd := &cobra.Command{Use: "rm ROLE", Short: "Remove the quota of a role", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

func (c *cluster) updateQuota(ctx context.Context, cmd *cobra.Command, q *quotav1.QuotaConfig, force bool, done string) error {
	err := c.ask(ctx, &masterv1.Call{
		Type:        masterv1.Call_UPDATE_QUOTA.Enum(),
		UpdateQuota: &masterv1.Call_UpdateQuota{Force: proto.Bool(force), QuotaConfigs: []*quotav1.QuotaConfig{q}},
	}, nil)
	if err != nil && !force && strings.Contains(err.Error(), "'force'") {
		return fmt.Errorf("%w (--force)", err)
	}
	if err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "quota of role %s is %s\n", q.GetRole(), done)
	}
	return err
}

func newRoleCommand() *cobra.Command {
	return group(&cobra.Command{Use: "role", Short: "List roles and set their weights"}, newRoleLsCommand(), newRoleWeightCommand())
}

func newRoleLsCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, _ []string) error {
		r, err := c.query(ctx, masterv1.Call_GET_ROLES)
		if err != nil {
			return err
		}
		roles := r.GetGetRoles().GetRoles()
		if c.json() {
			return printMessages(cmd, roles)
		}
		quotas := map[string]*quotav1.QuotaConfig{}
		if q, err := c.query(ctx, masterv1.Call_GET_QUOTA); err == nil {
			for _, x := range q.GetGetQuota().GetStatus().GetConfigs() {
				quotas[x.GetRole()] = x
			}
		}
		t := newTable(cmd.OutOrStdout(), "ROLE", "WEIGHT", "FRAMEWORKS", "CPUS", "MEM", "GUARANTEES", "LIMITS")
		for _, role := range roles {
			q := quotas[role.GetName()]
			t.row(role.GetName(), fmt.Sprintf("%g", role.GetWeight()), fmt.Sprint(len(role.GetFrameworks())),
				first(share(role.GetResources(), nil, "cpus")), first(share(role.GetResources(), nil, "mem")),
				scalarText(q.GetGuarantees()), scalarText(q.GetLimits()))
		}
		return t.flush()
	})
	cmd := &cobra.Command{Use: "ls", Short: "List the roles with what they hold", Args: cobra.NoArgs, RunE: runE}
	conn.bind(cmd)
	return cmd
}

func newRoleWeightCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		w, err := strconv.ParseFloat(args[1], 64)
		if err != nil || !(w > 0) {
			return usagef("%q is not a weight: write a positive number", args[1])
		}
		err = c.ask(ctx, &masterv1.Call{
			Type: masterv1.Call_UPDATE_WEIGHTS.Enum(),
			UpdateWeights: &masterv1.Call_UpdateWeights{
				WeightInfos: []*mesosv1.WeightInfo{{Role: proto.String(args[0]), Weight: proto.Float64(w)}},
			},
		}, nil)
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "role %s has weight %g\n", args[0], w)
		}
		return err
	})
	cmd := &cobra.Command{Use: "weight ROLE WEIGHT", Short: "Set the weight of a role: with twice the weight it gets twice the share", Args: cobra.ExactArgs(2), RunE: runE}
	conn.bind(cmd)
	return cmd
}
