package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// explanation is what the master says of a framework's offers, per role (docs/reference/master-api.md).
type explanation struct {
	Roles []struct {
		Role       string             `json:"role"`
		Subscribed bool               `json:"subscribed"`
		Active     bool               `json:"active"`
		Suppressed bool               `json:"suppressed"`
		Paused     bool               `json:"paused"`
		Share      float64            `json:"share"`
		Ahead      int                `json:"ahead"`
		Filters    int                `json:"filters"`
		FilterEnds *time.Time         `json:"filter_ends,omitempty"`
		Agents     map[string]int     `json:"agents"`
		Guarantees map[string]float64 `json:"guarantees,omitempty"`
		Limits     map[string]float64 `json:"limits,omitempty"`
		Consumed   map[string]float64 `json:"consumed,omitempty"`
	} `json:"roles"`
}

func newFrameworkWhyCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		f, err := c.framework(ctx, args[0])
		if err != nil {
			return err
		}
		info := f.GetFrameworkInfo()
		var x explanation
		if err := c.plain(ctx, "/api/orchestrator/v1/explain?framework_id="+url.QueryEscape(info.GetId().GetValue()), nil, &x); err != nil {
			return err
		}
		if c.json() {
			return printJSON(cmd, x)
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "framework %s (%s) is %s and has %d offers now\n", printable(info.GetName()), info.GetId().GetValue(), frameworkState(f), len(f.GetOffers()))
		for _, r := range x.Roles {
			fmt.Fprintf(out, "\nrole %s:\n", printable(r.Role))
			say := func(format string, args ...any) { fmt.Fprintf(out, "  "+format+"\n", args...) }
			switch {
			case !r.Subscribed:
				say("it has left this role and gets no offers in it")
			case !r.Active:
				say("it is not connected: its scheduler must subscribe again")
			case r.Suppressed:
				say("it has suppressed offers: its scheduler must revive them")
			case r.Paused:
				say("the master waits for nodes to come back after a fail-over before it offers again")
			}
			if len(r.Guarantees)+len(r.Limits) > 0 {
				say("quota: guarantees %s, limits %s, consumed %s", amountsText(r.Guarantees), amountsText(r.Limits), amountsText(r.Consumed))
			}
			if r.Ahead > 0 {
				say("%d others with a smaller share come first (its own is %.3g)", r.Ahead, r.Share)
			}
			if r.Filters > 0 {
				ends := ""
				if r.FilterEnds != nil {
					ends = fmt.Sprintf(", the first ends in %s", time.Until(*r.FilterEnds).Round(time.Second))
				}
				say("it declined offers: %d filters are in force%s", r.Filters, ends)
			}
			if len(r.Agents) == 0 {
				say("there is no node: start one with `orchestrator agent`")
			}
			reasons := slices.SortedFunc(maps.Keys(r.Agents), func(a, b string) int {
				return cmp.Or(r.Agents[b]-r.Agents[a], strings.Compare(a, b))
			})
			for _, reason := range reasons {
				nodes := "nodes"
				if r.Agents[reason] == 1 {
					nodes = "node"
				}
				say("%d %s: %s", r.Agents[reason], nodes, reason)
			}
		}
		return nil
	})
	cmd := &cobra.Command{Use: "why FRAMEWORK", Short: "Say what keeps offers from a framework, role by role", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

func amountsText(m map[string]float64) string {
	if len(m) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s:%g", name, m[name]))
	}
	return strings.Join(parts, ";")
}
