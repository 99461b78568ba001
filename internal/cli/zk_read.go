package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/zk"
)

func newZKGetCommand(o *zkOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "get PATH",
		Short: "Print a node's data",
		Args:  cobra.ExactArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			if err := pathArg(args[0]); err != nil {
				return err
			}
			data, st, err := c.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(cmd, map[string]any{"path": args[0], "data": string(data), "stat": st})
			}
			if _, err = cmd.OutOrStdout().Write(data); err == nil && (len(data) == 0 || data[len(data)-1] != '\n') {
				_, err = fmt.Fprintln(cmd.OutOrStdout())
			}
			return err
		}),
	}
}

func newZKStatCommand(o *zkOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "stat PATH",
		Short: "Print what the server knows about a node, and its ACL",
		Args:  cobra.ExactArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			if err := pathArg(args[0]); err != nil {
				return err
			}
			acl, st, err := c.GetACL(cmd.Context(), args[0])
			if errors.Is(err, zk.ErrNoAuth) {
				var r zk.Result
				r, err = c.Do(cmd.Context(), zk.Exists(args[0]))
				st = r.Stat
			}
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(cmd, map[string]any{"path": args[0], "stat": st, "acl": acl})
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			row := func(k string, v any) { fmt.Fprintf(w, "%s\t%v\n", k, v) }
			ms := func(t int64) string { return time.UnixMilli(t).UTC().Format(time.RFC3339Nano) }
			row("kind", st.Kind())
			row("version", st.Version)
			row("children", fmt.Sprintf("%d (cversion %d)", st.NumChildren, st.Cversion))
			row("size", fmt.Sprintf("%d bytes", st.DataLength))
			row("created", fmt.Sprintf("%s in 0x%x", ms(st.Ctime), st.Czxid))
			row("modified", fmt.Sprintf("%s in 0x%x", ms(st.Mtime), st.Mzxid))
			row("children changed", fmt.Sprintf("in 0x%x", st.Pzxid))
			if st.EphemeralOwner != 0 {
				row("owner", fmt.Sprintf("session 0x%x", uint64(st.EphemeralOwner)))
			}
			row("acl version", st.Aversion)
			for _, a := range acl {
				row("acl", a)
			}
			return w.Flush()
		}),
	}
}

// zkNode is one node that was read.
type zkNode struct {
	Path     string    `json:"path"`
	Data     []byte    `json:"-"`
	Stat     zk.Stat   `json:"stat"`
	ACL      []zk.ACL  `json:"acl,omitempty"`
	children []*zkNode // sorted
}

// readTree reads a node and all below it, a level at a time, pipelined; visible says what is wanted of each. Nodes that may not
// be read, or go meanwhile, are left out.
func readTree(ctx context.Context, c *zk.Client, root string, depth int, data, acl bool, p *progress) (*zkNode, int, error) {
	if err := c.Sync(ctx); err != nil && !errors.Is(err, zk.ErrNotReadOnly) {
		return nil, 0, err
	}
	top := &zkNode{Path: root}
	level := []*zkNode{top}
	count, denied := 0, 0
	for d := 0; len(level) > 0; d++ {
		type answer struct {
			names []string
			gone  bool
		}
		answers := make([]answer, len(level))
		var mu sync.Mutex
		w := c.NewWindow(1000)
		for i, n := range level {
			a := &answers[i]
			take := func(f func(zk.Result)) func(zk.Result, error) error {
				return func(r zk.Result, err error) error {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, zk.ErrNoNode) && d > 0:
						a.gone = true
						return nil
					case errors.Is(err, zk.ErrNoAuth):
						denied++
						return nil
					case err == nil:
						f(r)
					}
					return err
				}
			}
			if err := w.Send(ctx, zk.Children(n.Path), take(func(r zk.Result) { n.Stat, a.names = r.Stat, r.Children })); err != nil {
				break
			}
			if data {
				_ = w.Send(ctx, zk.Get(n.Path), take(func(r zk.Result) { n.Data, n.Stat = r.Data, r.Stat }))
			}
			if acl {
				_ = w.Send(ctx, zk.GetACL(n.Path), take(func(r zk.Result) { n.ACL = r.ACL }))
			}
			if i%500 == 0 && p != nil {
				p.at(count+i, 0)
			}
		}
		if err := w.Wait(ctx); err != nil {
			return nil, denied, err
		}
		var next []*zkNode
		for i, n := range level {
			if answers[i].gone {
				n.Path = ""
				continue
			}
			count++
			if depth >= 0 && d >= depth {
				continue
			}
			slices.Sort(answers[i].names)
			for _, name := range answers[i].names {
				child := &zkNode{Path: zk.Join(n.Path, name)}
				n.children = append(n.children, child)
				next = append(next, child)
			}
		}
		level = next
	}
	if p != nil {
		p.end()
	}
	return top, denied, nil
}

// walk calls f for every node, parents first.
func (n *zkNode) walk(depth int, f func(n *zkNode, depth int) error) error {
	if n.Path == "" {
		return nil
	}
	if err := f(n, depth); err != nil {
		return err
	}
	for _, c := range n.children {
		if err := c.walk(depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

func warnDenied(cmd *cobra.Command, denied int) {
	if denied > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "orchestrator: %d reads were not permitted by the nodes' ACLs; --auth gives more rights\n", denied)
	}
}

func newZKLsCommand(o *zkOptions) *cobra.Command {
	var long, recursive bool
	cmd := &cobra.Command{
		Use:   "ls [PATH]",
		Short: "List a node's children",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := "/"
			if len(args) == 1 {
				path = args[0]
			}
			if err := pathArg(path); err != nil {
				return err
			}
			if !long && !recursive {
				names, _, err := c.Children(cmd.Context(), path)
				if err != nil {
					return err
				}
				slices.Sort(names)
				if o.output == "json" {
					if names == nil {
						names = []string{}
					}
					return printJSON(cmd, names)
				}
				for _, n := range names {
					fmt.Fprintln(cmd.OutOrStdout(), n)
				}
				return nil
			}
			depth := 1
			if recursive {
				depth = -1
			}
			top, denied, err := readTree(cmd.Context(), c, path, depth, false, false, newProgress(cmd, "reading"))
			if err != nil {
				return err
			}
			defer warnDenied(cmd, denied)
			nodes := []*zkNode{}
			_ = top.walk(0, func(n *zkNode, d int) error {
				if d > 0 {
					nodes = append(nodes, n)
				}
				return nil
			})
			if o.output == "json" {
				return printJSON(cmd, nodes)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
			if long {
				fmt.Fprintln(w, "VERSION\tSIZE\tCHILDREN\tMODIFIED\t PATH")
			}
			for _, n := range nodes {
				name := n.Path
				if !recursive {
					name = zk.Name(n.Path)
				}
				if !long {
					fmt.Fprintln(cmd.OutOrStdout(), name)
					continue
				}
				mark := ""
				if n.Stat.Kind() == zk.KindEphemeral {
					mark = " *"
				}
				fmt.Fprintf(w, "%d\t%d\t%d\t%s\t %s%s\n", n.Stat.Version, n.Stat.DataLength, n.Stat.NumChildren, time.UnixMilli(n.Stat.Mtime).UTC().Format(time.DateTime), name, mark)
			}
			return w.Flush()
		}),
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "Version, size, number of children and time as well; ephemeral nodes have a *.")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "All that is below, with whole paths.")
	return cmd
}

func newZKTreeCommand(o *zkOptions) *cobra.Command {
	depth := -1
	cmd := &cobra.Command{
		Use:   "tree [PATH]",
		Short: "Draw a node and all below it",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := "/"
			if len(args) == 1 {
				path = args[0]
			}
			if err := pathArg(path); err != nil {
				return err
			}
			top, denied, err := readTree(cmd.Context(), c, path, depth, false, false, newProgress(cmd, "reading"))
			if err != nil {
				return err
			}
			defer warnDenied(cmd, denied)
			if o.output == "json" {
				return printJSON(cmd, nested(top))
			}
			var b strings.Builder
			b.WriteString(top.Path + "\n")
			draw(&b, top, "")
			_, err = fmt.Fprint(cmd.OutOrStdout(), b.String())
			return err
		}),
	}
	cmd.Flags().IntVar(&depth, "depth", -1, "How many levels; -1 is all.")
	return cmd
}

type nestedNode struct {
	Name     string       `json:"name"`
	Stat     zk.Stat      `json:"stat"`
	Children []nestedNode `json:"children,omitempty"`
}

func nested(n *zkNode) nestedNode {
	out := nestedNode{Name: zk.Name(n.Path), Stat: n.Stat}
	for _, c := range n.children {
		if c.Path != "" {
			out.Children = append(out.Children, nested(c))
		}
	}
	return out
}

func draw(b *strings.Builder, n *zkNode, indent string) {
	children := slices.DeleteFunc(slices.Clone(n.children), func(c *zkNode) bool { return c.Path == "" })
	for i, c := range children {
		branch, below := "├── ", "│   "
		if i == len(children)-1 {
			branch, below = "└── ", "    "
		}
		b.WriteString(indent + branch + zk.Name(c.Path) + "\n")
		draw(b, c, indent+below)
	}
}

func newZKDuCommand(o *zkOptions) *cobra.Command {
	depth := 1
	cmd := &cobra.Command{
		Use:   "du [PATH]",
		Short: "Count nodes and bytes below a node",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := "/"
			if len(args) == 1 {
				path = args[0]
			}
			if err := pathArg(path); err != nil {
				return err
			}
			top, denied, err := readTree(cmd.Context(), c, path, -1, false, false, newProgress(cmd, "reading"))
			if err != nil {
				return err
			}
			defer warnDenied(cmd, denied)
			type usage struct {
				Path  string `json:"path"`
				Nodes int    `json:"nodes"`
				Bytes int64  `json:"bytes"`
			}
			rows := []usage{}
			var sum func(n *zkNode, d int) usage
			sum = func(n *zkNode, d int) usage {
				u := usage{n.Path, 1, int64(n.Stat.DataLength)}
				at := len(rows)
				if d <= depth {
					rows = append(rows, u)
				}
				for _, ch := range n.children {
					if ch.Path == "" {
						continue
					}
					s := sum(ch, d+1)
					u.Nodes += s.Nodes
					u.Bytes += s.Bytes
				}
				if d <= depth {
					rows[at] = u
				}
				return u
			}
			sum(top, 0)
			if o.output == "json" {
				return printJSON(cmd, rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(w, "NODES\tBYTES\t PATH")
			for _, u := range rows {
				fmt.Fprintf(w, "%d\t%d\t %s\n", u.Nodes, u.Bytes, u.Path)
			}
			return w.Flush()
		}),
	}
	cmd.Flags().IntVar(&depth, "depth", 1, "How many levels to list.")
	return cmd
}

func newZKWatchCommand(o *zkOptions) *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "watch PATH",
		Short: "Print changes below a node as they happen (servers 3.6+)",
		Args:  cobra.ExactArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			if err := pathArg(args[0]); err != nil {
				return err
			}
			// The callback must not wait for the terminal; what does not fit is counted, not hidden.
			events := make(chan zk.Event, 10_000)
			var mu sync.Mutex
			dropped := 0
			w := zk.NewWatch(func(e zk.Event) {
				select {
				case events <- e:
				default:
					mu.Lock()
					dropped++
					mu.Unlock()
				}
			})
			_, err := c.Do(cmd.Context(), zk.AddWatch(args[0], zk.WatchPersistentRecursive, w))
			if errors.Is(err, zk.ErrUnimplemented) {
				return fmt.Errorf("%w; watching a subtree needs a server of 3.6 or later", err)
			}
			if err != nil {
				return err
			}
			for n := 0; count == 0 || n < count; {
				select {
				case e := <-events:
					mu.Lock()
					missed := dropped
					dropped = 0
					mu.Unlock()
					if missed > 0 {
						fmt.Fprintf(cmd.ErrOrStderr(), "orchestrator: %d changes came faster than they could be printed\n", missed)
					}
					if e.Type == zk.EventSession {
						fmt.Fprintf(cmd.ErrOrStderr(), "orchestrator: session %v; changes made while it was not connected are not told\n", e.State)
						continue
					}
					n++
					if o.output == "json" {
						fmt.Fprintf(cmd.OutOrStdout(), "{\"time\":%q,\"type\":%q,\"path\":%q}\n", time.Now().UTC().Format(time.RFC3339Nano), e.Type, e.Path)
						continue
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s  %-8s  %s\n", time.Now().UTC().Format("15:04:05.000"), e.Type, e.Path)
				case <-c.Done():
					return errors.New("the session ended")
				case <-cmd.Context().Done():
					return nil
				}
			}
			return nil
		}),
	}
	cmd.Flags().IntVar(&count, "count", 0, "Stop after so many changes; 0 goes on until interrupted.")
	return cmd
}
