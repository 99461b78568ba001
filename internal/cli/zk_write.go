package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/bulk"
)

// dataArg is the data of a command: the second argument, or standard input when that is "-".
func dataArg(cmd *cobra.Command, args []string) ([]byte, error) {
	switch {
	case len(args) < 2:
		return []byte{}, nil
	case args[1] != "-":
		return []byte(args[1]), nil
	}
	return io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<20))
}

func newZKSetCommand(o *zkOptions) *cobra.Command {
	version := zk.AnyVersion
	create := false
	cmd := &cobra.Command{
		Use:   "set PATH DATA",
		Short: "Replace a node's data (DATA - reads standard input)",
		Args:  cobra.ExactArgs(2),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			data, err := dataArg(cmd, args)
			if err != nil {
				return err
			}
			st, err := c.Set(cmd.Context(), args[0], data, version)
			if create && errors.Is(err, zk.ErrNoNode) {
				if err = c.MakePath(cmd.Context(), zk.Parent(args[0]), zk.OpenACL()); err == nil {
					_, err = c.Create(cmd.Context(), args[0], data, zk.OpenACL(), zk.Persistent)
				}
			}
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(cmd, map[string]any{"path": args[0], "stat": st})
			}
			return nil
		}),
	}
	cmd.Flags().Int32Var(&version, "version", zk.AnyVersion, "Only when the node has this version.")
	cmd.Flags().BoolVar(&create, "create", false, "Make the node, and what is missing above it, when it is not there.")
	return cmd
}

func newZKCreateCommand(o *zkOptions) *cobra.Command {
	var sequential, parents, container bool
	var ttl time.Duration
	var acl string
	cmd := &cobra.Command{
		Use:   "create PATH [DATA]",
		Short: "Make a node and print its path (DATA - reads standard input)",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			check := args[0]
			if sequential {
				check += "1"
			}
			if err := pathArg(check); err != nil {
				return err
			}
			list := zk.OpenACL()
			if acl != "" {
				var err error
				if list, err = zk.ParseACL(acl); err != nil {
					return usageError{err}
				}
			}
			if container && (sequential || ttl > 0) {
				return usagef("--container goes with neither --sequential nor --ttl")
			}
			data, err := dataArg(cmd, args)
			if err != nil {
				return err
			}
			mode := zk.Persistent
			if sequential {
				mode = zk.PersistentSequential
			}
			op := zk.Create(args[0], data, list, mode)
			switch {
			case container:
				op = zk.Create(args[0], data, list, zk.Container)
			case ttl > 0 && sequential:
				op = zk.CreateTTL(args[0], data, list, zk.PersistentSequentialTTL, ttl)
			case ttl > 0:
				op = zk.CreateTTL(args[0], data, list, zk.PersistentTTL, ttl)
			}
			return o.withClient(func(cmd *cobra.Command, c *zk.Client, _ []string) error {
				return o.create(cmd, c, op, parents)
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&sequential, "sequential", "s", false, "The server appends a number to the name.")
	f.BoolVarP(&parents, "parents", "p", false, "Make what is missing above it.")
	f.BoolVar(&container, "container", false, "The server removes the node when its last child has gone (3.5+).")
	f.DurationVar(&ttl, "ttl", 0, "The server removes the node when it was not changed for so long (needs extendedTypesEnabled).")
	f.StringVar(&acl, "acl", "", "scheme:id:perms[,…], for example world:anyone:r,auth::cdrwa.")
	return cmd
}

// create makes a node and prints its path.
func (o *zkOptions) create(cmd *cobra.Command, c *zk.Client, op zk.Op, parents bool) error {
	if parents {
		if err := c.MakePath(cmd.Context(), zk.Parent(op.Path), zk.OpenACL()); err != nil {
			return err
		}
	}
	r, err := c.Do(cmd.Context(), op)
	if errors.Is(err, zk.ErrNoNode) {
		return fmt.Errorf("%w; -p makes the parents", err)
	}
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(cmd, map[string]any{"path": r.Path})
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), r.Path)
	return err
}

func newZKRmCommand(o *zkOptions) *cobra.Command {
	recursive := false
	version := zk.AnyVersion
	cmd := &cobra.Command{
		Use:   "rm PATH",
		Short: "Delete a node, with -r also all below it",
		Args:  cobra.ExactArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := args[0]
			done := func(nodes int) error {
				if o.output == "json" {
					return printJSON(cmd, map[string]any{"path": path, "nodes": nodes})
				}
				return nil
			}
			if !recursive {
				err := c.Delete(cmd.Context(), path, version)
				switch {
				case errors.Is(err, zk.ErrNotEmpty):
					return fmt.Errorf("%w; -r deletes all of it", err)
				case err != nil:
					return err
				}
				return done(1)
			}
			deleted := 0
			p := newProgress(cmd, "deleting")
			defer p.end()
			// Nodes may be made while this goes on: a few rounds, then whoever makes them has won.
			for range 5 {
				t, err := bulk.Read(cmd.Context(), c, path, bulk.Options{Depth: -1, Progress: func(n int) { p.at(n, 0) }})
				if err != nil {
					return err
				}
				all := make([]string, 0, t.Nodes)
				_ = walk(&t.Root, 0, func(n *bulk.Node, _ int) error { all = append(all, n.Path); return nil })
				w := c.NewWindow(16)
				again := false
				const each = 500
				left := len(all)
				for chunk := range slices.Chunk(reversed(all), each) {
					ops := make([]zk.Op, len(chunk))
					for i, p := range chunk {
						ops[i] = zk.Delete(p, zk.AnyVersion)
					}
					left -= len(chunk)
					p.at(len(all)-left, len(all))
					err := w.Send(cmd.Context(), zk.Multi(ops...), func(_ zk.Result, err error) error {
						if errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrNotEmpty) {
							again = true
							return nil
						}
						if err == nil {
							deleted += len(ops)
						}
						return err
					})
					if err != nil {
						break
					}
				}
				if err := w.Wait(cmd.Context()); err != nil {
					return err
				}
				if !again {
					return done(deleted)
				}
				ok, _, err := c.Exists(cmd.Context(), path)
				switch {
				case err != nil:
					return err
				case !ok:
					return done(deleted)
				}
			}
			return fmt.Errorf("%s is still there: something makes nodes below it as fast as they are deleted", path)
		}),
	}
	remove := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "/" || args[0] == "/zookeeper" {
			return usagef("%s cannot be deleted", args[0])
		}
		return remove(cmd, args)
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "Delete all that is below it as well.")
	cmd.Flags().Int32Var(&version, "version", zk.AnyVersion, "Only when the node has this version.")
	return cmd
}

func reversed(s []string) []string {
	out := slices.Clone(s)
	slices.Reverse(out)
	return out
}

func newZKLatencyCommand(o *zkOptions) *cobra.Command {
	n := 200
	write := ""
	cmd := &cobra.Command{
		Use:   "latency",
		Short: "Measure how long the servers take to answer, one by one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.connect(cmd.Context(), "")
			if err != nil {
				return err
			}
			c.Close()
			cs, err := zk.ParseConnectString(o.server)
			if err != nil {
				return usageError{err}
			}
			type row struct {
				Server string  `json:"server"`
				Op     string  `json:"operation"`
				P50    float64 `json:"p50_ms"`
				P95    float64 `json:"p95_ms"`
				P99    float64 `json:"p99_ms"`
				Max    float64 `json:"max_ms"`
				Error  string  `json:"error,omitempty"`
			}
			var rows []row
			p := newProgress(cmd, "measuring")
			for _, server := range cs.Servers {
				c, err := o.connect(cmd.Context(), server)
				if err != nil {
					rows = append(rows, row{Server: server, Error: err.Error()})
					continue
				}
				ops := []zk.Op{zk.Exists("/"), zk.Sync("/")}
				if write != "" {
					ops = append(ops, zk.Set(write, []byte("latency"), zk.AnyVersion))
				}
				for _, op := range ops {
					var took []time.Duration
					var failed error
					for i := range n {
						at := time.Now()
						if _, failed = c.Do(cmd.Context(), op); failed != nil {
							break
						}
						took = append(took, time.Since(at))
						p.at(i, n)
					}
					if failed != nil {
						rows = append(rows, row{Server: server, Op: op.Code.String(), Error: failed.Error()})
						continue
					}
					slices.Sort(took)
					q := func(f float64) float64 {
						return float64(took[min(int(f*float64(len(took))), len(took)-1)].Microseconds()) / 1000
					}
					rows = append(rows, row{Server: server, Op: op.Code.String(), P50: q(.5), P95: q(.95), P99: q(.99), Max: q(1)})
				}
				c.Close()
			}
			p.end()
			if o.output == "json" {
				return printJSON(cmd, rows)
			}
			table := [][]string{{"SERVER", "OPERATION", "P50", "P95", "P99", "MAX"}}
			for _, r := range rows {
				if r.Error != "" {
					table = append(table, []string{r.Server, cmp.Or(r.Op, "-"), r.Error})
					continue
				}
				f := func(v float64) string { return fmt.Sprintf("%.2f ms", v) }
				table = append(table, []string{r.Server, r.Op, f(r.P50), f(r.P95), f(r.P99), f(r.Max)})
			}
			return printZKTable(cmd.OutOrStdout(), table)
		},
	}
	cmd.Flags().IntVarP(&n, "count", "n", 200, "Requests of each kind.")
	cmd.Flags().StringVar(&write, "write", "", "Also set this node's data, which must exist; what it holds is lost.")
	return cmd
}
