package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zksync/stretch"
)

func newZKStretchCommand(o *zkOptions) *cobra.Command {
	var to []string
	yes := false
	wait := 2 * time.Minute
	cmd := &cobra.Command{
		Use:   "stretch",
		Short: "Move an ensemble to other servers without copying: sessions and ephemeral nodes survive",
		Long: `Move an ensemble to other servers without copying. It stays one ensemble throughout: the new servers follow without a vote, get
votes one at a time, and after each an old server loses its vote, the leader last. Needs servers from 3.5 on with
reconfigEnabled=true, quorum ports that reach each other, and super (--auth digest:super:PASSWORD).

First start the new servers, each with the old members and itself (as participant) in its configuration. Then

  orchestrator zk stretch --server OLD:2181,… --auth … --to 'server.4=new1:2888:3888:participant;new1:2181' --to … --yes

shows the plan and carries it out, with a gate behind every step. Without --yes it shows the plan only. If it is interrupted,
run it again: it plans from where it stopped. Until the old servers are stopped, the way back is the same command with the old
members: they follow on without a vote. When it is done, give clients the new addresses and stop the old servers.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(to) == 0 {
				return usagef("name the servers to move to by --to 'server.ID=host:quorum:election:participant;host:client'")
			}
			var aim []stretch.Member
			for _, line := range to {
				m, err := stretch.ParseMember(line)
				if err != nil {
					return usageError{err}
				}
				aim = append(aim, m)
			}
			cs, err := zk.ParseConnectString(o.server)
			if err != nil {
				return usageError{err}
			}
			// The old servers' client ports will close in the end: the session must know the new ones as well.
			servers := cs.Servers
			for _, m := range aim {
				servers = append(servers, m.Client)
			}
			c, err := o.connect(cmd.Context(), strings.Join(servers, ","))
			if err != nil {
				return err
			}
			defer c.Close()
			began := time.Now()
			mover := &stretch.Mover{Client: c, Wait: wait, Report: func(s stretch.Step, done bool) {
				if done {
					fmt.Fprintf(cmd.ErrOrStderr(), "%8s  %s server.%d: done\n", time.Since(began).Round(10*time.Millisecond), s.Do, s.Member.ID)
				}
			}}
			now, leader, err := mover.Current(cmd.Context())
			if err != nil {
				return err
			}
			if leader < 0 {
				return errors.New("no server says that it leads: is the four-letter word srvr allowed (4lw.commands.whitelist)?")
			}
			steps, err := stretch.Plan(now, aim, leader)
			if err != nil {
				return usageError{err}
			}
			if len(steps) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to do: these servers are the ensemble")
				return nil
			}
			for i, s := range steps {
				fmt.Fprintf(cmd.OutOrStdout(), "%2d. %s\n", i+1, s)
			}
			if !yes {
				fmt.Fprintln(cmd.OutOrStdout(), "\nNothing was changed. Add --yes to carry it out.")
				return nil
			}
			return mover.Run(cmd.Context(), steps)
		},
	}
	cmd.Flags().StringArrayVar(&to, "to", nil, "A server of the new ensemble, as in ZooKeeper's configuration: server.ID=host:quorum:election:participant;host:client. Repeat it.")
	cmd.Flags().BoolVar(&yes, "yes", false, "Carry the plan out.")
	cmd.Flags().DurationVar(&wait, "wait", wait, "How long each gate may take.")
	return cmd
}
