package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/bulk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zksync"
)

func newZKGetCommand(o *zkOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "get PATH",
		Short: "Print a node's data",
		Args:  cobra.ExactArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
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
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
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

// zkReading is how the commands that read whole trees do it.
type zkReading struct {
	snapshot bool
	quorum   string
}

func (r *zkReading) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.snapshot, "snapshot", false, "Read a snapshot through the quorum port: the whole ensemble is sent, at one moment, in seconds for a million nodes, whatever the ACLs say.")
	cmd.Flags().StringVar(&r.quorum, "quorum", "", "With --snapshot: quorum ports, host:port[,…]; found through the client port when not given.")
}

// tree reads a node and all below it, depth levels of it (-1: all). Nodes that go meanwhile are left out.
func (r *zkReading) tree(cmd *cobra.Command, o *zkOptions, c *zk.Client, root string, want bulk.Options) (*bulk.Tree, error) {
	p := newProgress(cmd, "reading")
	defer p.end()
	if r.snapshot {
		v, err := o.snapshot(cmd, c, r.quorum)
		if err != nil {
			return nil, err
		}
		return bulk.FromTree(v, root, want)
	}
	total := 0
	if p.w != nil && want.Depth < 0 {
		if n, err := c.Do(cmd.Context(), zk.CountChildren(root)); err == nil { // 3.6+
			total = int(n.Count) + 1
		}
	}
	want.Progress = func(n int) { p.at(n, total) }
	return bulk.Read(cmd.Context(), c, root, want)
}

// snapshot reads the whole ensemble through its quorum port.
func (o *zkOptions) snapshot(cmd *cobra.Command, c *zk.Client, quorum string) (*tree.Tree, error) {
	addrs := quorumOf(cmd.Context(), c, quorum)
	if len(addrs) == 0 {
		return nil, errors.New("no quorum port can be reached, so no snapshot can be had: name it with --quorum host:port, or read node by node (export without --snapshot)")
	}
	deps, err := o.learner()
	if err != nil {
		return nil, err
	}
	p := newProgress(cmd, "receiving")
	defer p.end()
	defer p.turn()()
	v, err := zksync.Side{Quorum: addrs, Learner: deps}.Read(cmd.Context(), "/")
	return v.Tree, err
}

// walk calls f for every node that is there, parents first.
func walk(n *bulk.Node, depth int, f func(n *bulk.Node, depth int) error) error {
	if n.Gone {
		return nil
	}
	if err := f(n, depth); err != nil {
		return err
	}
	for i := range n.Children {
		if err := walk(&n.Children[i], depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

func warnDenied(cmd *cobra.Command, denied int) {
	if denied > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "orchestrator: the ACLs of %d nodes do not let us read them whole; --auth gives more rights\n", denied)
	}
}

func newZKLsCommand(o *zkOptions) *cobra.Command {
	var long, recursive bool
	var how zkReading
	cmd := &cobra.Command{
		Use:   "ls [PATH]",
		Short: "List a node's children",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := "/"
			if len(args) == 1 {
				path = args[0]
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
			t, err := how.tree(cmd, o, c, path, bulk.Options{Stat: long || o.output == "json", Depth: depth})
			if err != nil {
				return err
			}
			defer warnDenied(cmd, t.Denied)
			w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			if o.output == "json" {
				err = listJSON(w, &t.Root)
			} else {
				err = list(w, &t.Root, long, recursive)
			}
			return errors.Join(err, w.Flush())
		}),
	}
	how.flags(cmd)
	cmd.Flags().BoolVarP(&long, "long", "l", false, "Version, size, number of children and time as well; ephemeral nodes have a *.")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "All that is below, with whole paths.")
	return cmd
}

// list prints the nodes below top, one a line.
func list(w io.Writer, top *bulk.Node, long, whole bool) error {
	rows := newColumns(w, "VERSION", "SIZE", "CHILDREN", "MODIFIED", "PATH")
	return errors.Join(walk(top, 0, func(n *bulk.Node, d int) error {
		name := n.Path
		if !whole {
			name = zk.Name(n.Path)
		}
		switch {
		case d == 0:
			return nil
		case !long:
			_, err := io.WriteString(w, name+"\n")
			return err
		}
		if n.Stat.Kind() == zk.KindEphemeral {
			name += " *"
		}
		modified := time.UnixMilli(n.Stat.Mtime).UTC().Format(time.DateTime)
		return rows.add(strconv.Itoa(int(n.Stat.Version)), strconv.Itoa(int(n.Stat.DataLength)), strconv.Itoa(int(n.Stat.NumChildren)), modified, name)
	}), rows.end(long))
}

// listJSON prints the nodes below top as one JSON array, node by node.
func listJSON(w io.Writer, top *bulk.Node) error {
	comma := "[\n  "
	err := walk(top, 0, func(n *bulk.Node, d int) error {
		if d == 0 {
			return nil
		}
		b, err := json.MarshalIndent(struct {
			Path string  `json:"path"`
			Stat zk.Stat `json:"stat"`
		}{n.Path, n.Stat}, "  ", "  ")
		if err == nil {
			_, err = fmt.Fprintf(w, "%s%s", comma, b)
		}
		comma = ",\n  "
		return err
	})
	end := "\n]\n"
	if comma[0] == '[' {
		end = "[]\n"
	}
	_, werr := io.WriteString(w, end)
	return errors.Join(err, werr)
}

// columns prints rows with right-aligned columns and a left-aligned last one. Widths are those of the first rows and grow when a later
// row needs more: a million rows are not held back to be measured.
type columns struct {
	w      io.Writer
	widths []int
	held   [][]string
	buf    []byte
}

const columnsHeld = 1000

func newColumns(w io.Writer, head ...string) *columns {
	return &columns{w: w, widths: make([]int, len(head)), held: [][]string{head}}
}

func (c *columns) add(cells ...string) error {
	for i, s := range cells[:len(cells)-1] {
		c.widths[i] = max(c.widths[i], len(s))
	}
	if c.held == nil {
		return c.print(cells)
	}
	if c.held = append(c.held, cells); len(c.held) > columnsHeld {
		return c.end(true)
	}
	return nil
}

func (c *columns) print(cells []string) error {
	c.buf = c.buf[:0]
	for i, s := range cells[:len(cells)-1] {
		for range c.widths[i] - len(s) {
			c.buf = append(c.buf, ' ')
		}
		c.buf = append(append(c.buf, s...), "  "...)
	}
	c.buf = append(append(c.buf, cells[len(cells)-1]...), '\n')
	_, err := c.w.Write(c.buf)
	return err
}

// end prints what was held back, if anything is to be printed.
func (c *columns) end(show bool) error {
	held := c.held
	c.held = nil
	if !show || held == nil {
		return nil
	}
	for i, s := range held[0][:len(c.widths)-1] {
		c.widths[i] = max(c.widths[i], len(s))
	}
	for _, cells := range held {
		if err := c.print(cells); err != nil {
			return err
		}
	}
	return nil
}

func newZKTreeCommand(o *zkOptions) *cobra.Command {
	depth := -1
	var how zkReading
	cmd := &cobra.Command{
		Use:   "tree [PATH]",
		Short: "Draw a node and all below it",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := "/"
			if len(args) == 1 {
				path = args[0]
			}
			t, err := how.tree(cmd, o, c, path, bulk.Options{Stat: o.output == "json", Depth: depth})
			if err != nil {
				return err
			}
			defer warnDenied(cmd, t.Denied)
			w := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			if o.output == "json" {
				nested(w, &t.Root, "")
				fmt.Fprintln(w)
			} else {
				fmt.Fprintln(w, t.Root.Path)
				draw(w, &t.Root, "")
			}
			return w.Flush()
		}),
	}
	how.flags(cmd)
	cmd.Flags().IntVar(&depth, "depth", -1, "How many levels; -1 is all.")
	return cmd
}

// nested prints a node as a JSON object with its children in it. Errors stay with w.
func nested(w *bufio.Writer, n *bulk.Node, indent string) {
	in := indent + "  "
	stat, _ := json.MarshalIndent(n.Stat, in, "  ") // numbers cannot fail
	fmt.Fprintf(w, "{\n%s\"name\": %s,\n%s\"stat\": %s", in, quoted(zk.Name(n.Path)), in, stat)
	first := true
	for i := range n.Children {
		if n.Children[i].Gone {
			continue
		}
		if first {
			fmt.Fprintf(w, ",\n%s\"children\": [\n%s  ", in, in)
		} else {
			fmt.Fprintf(w, ",\n%s  ", in)
		}
		first = false
		nested(w, &n.Children[i], in+"  ")
	}
	if !first {
		fmt.Fprintf(w, "\n%s]", in)
	}
	fmt.Fprintf(w, "\n%s}", indent)
}

func quoted(s string) []byte {
	b, _ := json.Marshal(s) // a string cannot fail
	return b
}

func draw(w *bufio.Writer, n *bulk.Node, indent string) {
	last := -1
	for i := range n.Children {
		if !n.Children[i].Gone {
			last = i
		}
	}
	for i := range n.Children {
		c := &n.Children[i]
		if c.Gone {
			continue
		}
		branch, below := "├── ", "│   "
		if i == last {
			branch, below = "└── ", "    "
		}
		fmt.Fprint(w, indent, branch, zk.Name(c.Path), "\n")
		if len(c.Children) > 0 {
			draw(w, c, indent+below)
		}
	}
}

func newZKDuCommand(o *zkOptions) *cobra.Command {
	depth := 1
	var how zkReading
	cmd := &cobra.Command{
		Use:   "du [PATH]",
		Short: "Count nodes and bytes below a node",
		Args:  cobra.MaximumNArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			path := "/"
			if len(args) == 1 {
				path = args[0]
			}
			t, err := how.tree(cmd, o, c, path, bulk.Options{Stat: true, Depth: -1})
			if err != nil {
				return err
			}
			defer warnDenied(cmd, t.Denied)
			type usage struct {
				Path  string `json:"path"`
				Nodes int    `json:"nodes"`
				Bytes int64  `json:"bytes"`
			}
			rows := []usage{}
			var sum func(n *bulk.Node, d int) usage
			sum = func(n *bulk.Node, d int) usage {
				u := usage{n.Path, 1, int64(n.Stat.DataLength)}
				at := len(rows)
				if d <= depth {
					rows = append(rows, u)
				}
				for i := range n.Children {
					ch := &n.Children[i]
					if ch.Gone {
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
			sum(&t.Root, 0)
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
	how.flags(cmd)
	cmd.Flags().IntVar(&depth, "depth", 1, "How many levels to list.")
	return cmd
}

func newZKWatchCommand(o *zkOptions) *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "watch PATH",
		Short: "Print changes below a node as they happen (servers 3.6+)",
		Args:  cobra.ExactArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
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
