package cli

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/bulk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/zkfile"
	"github.com/orchestrator/orchestrator/internal/zksync"
)

func printZKTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, c := range r {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, c)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// exported is one line of an export. Data that is not UTF-8 stands in data64.
type exported struct {
	Path   string   `json:"path"` // below the exported node; "" is that node
	Data   string   `json:"data,omitempty"`
	Data64 []byte   `json:"data64,omitempty"`
	ACL    []zk.ACL `json:"acl,omitempty"`
}

func newZKExportCommand(o *zkOptions) *cobra.Command {
	var file string
	var how zkReading
	var noACL bool
	cmd := &cobra.Command{
		Use:   "export PATH",
		Short: "Write a node and all below it as JSON lines (data and ACLs; ephemeral nodes are left out)",
		Long: `Write a node and all below it as JSON lines: data and ACLs. Ephemeral nodes are left out.

Servers tell ACLs only node by node, which takes most of the time: --no-acl leaves them out, and --snapshot reads everything through the
quorum port.`,
		Args: cobra.ExactArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) (err error) {
			t, err := how.tree(cmd, o, c, args[0], bulk.Options{Stat: true, Data: true, ACL: !noACL, Depth: -1})
			if err != nil {
				return err
			}
			if t.Denied > 0 {
				return fmt.Errorf("the ACLs of %d nodes do not let us read them whole, so the export would have holes: --auth gives more rights", t.Denied)
			}
			out := cmd.OutOrStdout()
			if file != "" {
				f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				out = f
			}
			w := bufio.NewWriter(out)
			enc := json.NewEncoder(w)
			enc.SetEscapeHTML(false)
			err = walk(&t.Root, 0, func(n *bulk.Node, _ int) error {
				if n.Stat.Kind() == zk.KindEphemeral || zk.Within(n.Path, "/zookeeper") {
					return nil
				}
				if slices.ContainsFunc(n.ACL, masked) {
					return fmt.Errorf("the server hides the digests in the ACL of %s from who may not administer it, so they could not be restored: --auth gives more rights, --no-acl leaves ACLs out", n.Path)
				}
				e := exported{Path: n.Path[len(args[0]):], ACL: n.ACL}
				if args[0] == "/" {
					e.Path = n.Path
				}
				if n.Path == args[0] {
					e.Path = ""
				}
				if utf8.Valid(n.Data) {
					e.Data = string(n.Data)
				} else {
					e.Data64 = n.Data
				}
				return enc.Encode(e)
			})
			return errors.Join(err, w.Flush())
		}),
	}
	how.flags(cmd)
	cmd.Flags().BoolVar(&noACL, "no-acl", false, "Leave ACLs out: what is imported is open to everybody.")
	cmd.Flags().StringVar(&file, "file", "", "Write to this new file instead of standard output.")
	return cmd
}

// masked reports an entry that a server of 3.5+ shows without its digest.
func masked(a zk.ACL) bool { return a.Scheme == "digest" && strings.HasSuffix(a.ID, ":x") }

func newZKImportCommand(o *zkOptions) *cobra.Command {
	var file string
	var replace bool
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Make what export wrote, below PATH",
		Args:  cobra.ExactArgs(1),
		RunE: o.withPath(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			root := args[0]
			in := cmd.InOrStdin()
			if file != "" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			if err := c.MakePath(cmd.Context(), zk.Parent(root), zk.OpenACL()); err != nil {
				return err
			}
			if !replace && root != "/" { // before anything is written
				switch ok, _, err := c.Exists(cmd.Context(), root); {
				case err != nil:
					return err
				case ok:
					return fmt.Errorf("%s is there already, nothing was written: --replace keeps what is there and sets the data", root)
				}
			}
			p := newProgress(cmd, "writing")
			defer p.end()
			dec := json.NewDecoder(bufio.NewReaderSize(in, 1<<20))
			n, kept := 0, 0
			w := bulk.NewWriter(c, func(op *zk.Op, err error) error {
				if !errors.Is(err, zk.ErrNodeExists) {
					return err
				}
				if !replace {
					return fmt.Errorf("%s is there already; --replace sets its data", op.Path)
				}
				kept++
				return nil
			})
			for {
				var e exported
				if err := dec.Decode(&e); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return fmt.Errorf("reading node %d: %w", n+1, err)
				}
				path := root + e.Path
				if root == "/" {
					path = e.Path
					if path == "" {
						continue
					}
				}
				if err := zk.ValidatePath(path); err != nil {
					return fmt.Errorf("reading node %d: %w", n+1, err)
				}
				data := []byte(e.Data)
				if e.Data64 != nil {
					data = e.Data64
				}
				acl := e.ACL
				if len(acl) == 0 {
					acl = zk.OpenACL()
				}
				err := w.Add(cmd.Context(), zk.Create(path, data, acl, zk.Persistent))
				if err == nil && replace {
					err = w.Add(cmd.Context(), zk.Set(path, data, zk.AnyVersion))
				}
				if err != nil {
					return fmt.Errorf("after about %d nodes: %w", n, err)
				}
				n++
				p.at(n, 0)
			}
			if err := w.Flush(cmd.Context()); err != nil {
				return err
			}
			p.end()
			if o.output == "json" {
				return printJSON(cmd, map[string]any{"path": root, "nodes": n, "there_already": kept})
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d nodes written, %d of them were there already\n", n, kept)
			return nil
		}),
	}
	cmd.Flags().StringVar(&file, "file", "", "Read from this file instead of standard input.")
	cmd.Flags().BoolVar(&replace, "replace", false, "Set the data of nodes that are there already.")
	return cmd
}

func newZKBackupCommand(o *zkOptions) *cobra.Command {
	quorum := ""
	epoch := int64(0)
	seed := false
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Write a snapshot of the whole ensemble, from which a server can be started",
		Long: `Write a snapshot of the whole ensemble at one transaction, without stopping anything: as an observer, through the quorum
port. DIR gets a snapshot.<zxid> file in the server's own format: data, ACLs, versions, counters, kinds; ephemeral nodes with
their sessions.

With --epoch-ahead DIR also gets the epoch files that make it a data directory (version-2) for a new ensemble whose transaction
numbers are far above this one's, so that clients that move there do not find it in their past.

With --seed it is what "zk sync" makes of the ensemble: a target that is started from it is nearly equal already, and the first
"zk sync --overwrite" into it writes only what has changed since. Ephemeral nodes are persistent there, as in every target.`,
		Args: cobra.ExactArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			t, err := o.snapshot(cmd, c, quorum)
			if err != nil {
				return err
			}
			if seed {
				if err := mirror(t); err != nil {
					return err
				}
				epoch = cmp.Or(epoch, 1000)
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			path, err := zkfile.WriteSnapshot(args[0], t)
			if err != nil {
				return err
			}
			if epoch > 0 {
				if err := zkfile.WriteEpoch(args[0], t.Zxid()>>32+epoch); err != nil {
					return err
				}
			}
			if o.output == "json" {
				return printJSON(cmd, map[string]any{"file": path, "zxid": fmt.Sprintf("0x%x", t.Zxid()), "nodes": t.Len()})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d nodes at 0x%x\n", path, t.Len(), t.Zxid())
			return err
		}),
	}
	cmd.Flags().StringVar(&quorum, "quorum", "", "Quorum ports, host:port[,…]; found through the client port when not given.")
	cmd.Flags().BoolVar(&seed, "seed", false, "Write the data directory of a target for zk sync (epoch files included).")
	cmd.Flags().Int64Var(&epoch, "epoch-ahead", 0, "Also write epoch files, this many epochs ahead (1000 is a good number).")
	return cmd
}

// mirror makes of an ensemble's tree what zk sync makes of it in a target: ephemeral nodes become persistent, and engines' own nodes go.
func mirror(t *tree.Tree) error {
	for session := range t.Sessions() {
		for _, n := range slices.Collect(t.Ephemerals(session)) {
			st := n.Stat
			st.Owner = 0
			if err := t.Put(n.Path, n.Data, t.ACL(n), st); err != nil {
				return err
			}
		}
	}
	t.Remove("/zksync")
	return nil
}

func newZKRestoreCommand(o *zkOptions) *cobra.Command {
	var path, to string
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT",
		Short: "Make the nodes of a snapshot file in a running ensemble, below a path that is not there",
		Long: `Make the nodes of a snapshot file (or of a server's version-2 directory with its logs) in a running ensemble. Data, ACLs and
kinds are restored; versions begin anew and ephemeral nodes are left out. To restore all of it as it was, put the file from
"zk backup --epoch-ahead" into an empty data directory of every server instead.`,
		Args: cobra.ExactArgs(1),
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, args []string) error {
			if to == "" {
				to = path
			}
			for _, p := range []string{path, to} {
				if err := pathArg(p); err != nil {
					return err
				}
			}
			var t *tree.Tree
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if info.IsDir() {
				t, err = zkfile.Load(filepath.Clean(args[0]))
			} else {
				t, err = zkfile.ReadSnapshot(args[0])
			}
			if err != nil {
				return err
			}
			if t.Get(path) == nil {
				return fmt.Errorf("%s holds no node %s", args[0], path)
			}
			if ok, st, err := c.Exists(cmd.Context(), to); err != nil {
				return err
			} else if ok && (to != "/" || st.NumChildren > 1) {
				return fmt.Errorf("%s is there already; restore to another path with --to, or remove it first", to)
			}
			if err := c.MakePath(cmd.Context(), zk.Parent(to), zk.OpenACL()); err != nil {
				return err
			}
			scope := zksync.Scope{Source: path, Target: to}
			p := newProgress(cmd, "writing")
			defer p.end()
			w := bulk.NewWriter(c, nil)
			n := 0
			for node := range t.Walk(path) {
				if zk.Within(node.Path, "/zookeeper") || node.Path == "/" || node.Kind() == zk.KindEphemeral {
					continue
				}
				target := scope.ToTarget(node.Path)
				op := zk.Create(target, node.Data, t.ACL(node), zk.Persistent)
				switch node.Kind() {
				case zk.KindContainer:
					op = zk.Create(target, node.Data, t.ACL(node), zk.Container)
				case zk.KindTTL:
					op = zk.CreateTTL(target, node.Data, t.ACL(node), zk.PersistentTTL, node.TTL())
				}
				if err := w.Add(cmd.Context(), op); err != nil {
					return fmt.Errorf("after about %d nodes: %w", n, err)
				}
				n++
				p.at(n, t.Len())
			}
			if err := w.Flush(cmd.Context()); err != nil {
				return fmt.Errorf("after about %d nodes: %w", n, err)
			}
			p.end()
			if o.output == "json" {
				return printJSON(cmd, map[string]any{"path": to, "nodes": n})
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%d nodes restored\n", n)
			return err
		}),
	}
	cmd.Flags().StringVar(&path, "path", "/", "What to restore of the snapshot.")
	cmd.Flags().StringVar(&to, "to", "", "Where to; the same path when not given.")
	return cmd
}

func newZKEnsembleCommand(o *zkOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "ensemble",
		Short: "Show the servers: who leads, versions, sizes, and whether a quorum port is open to us",
		Args:  cobra.NoArgs,
		RunE: o.withClient(func(cmd *cobra.Command, c *zk.Client, _ []string) error {
			cs, err := zk.ParseConnectString(o.server)
			if err != nil {
				return usageError{err}
			}
			out := struct {
				Servers []serverInfo `json:"servers"`
				Config  string       `json:"config,omitempty"`
				Quorum  []string     `json:"open_quorum_ports"`
			}{}
			for _, s := range cs.Servers {
				out.Servers = append(out.Servers, askServer(cmd, s))
			}
			if data, _, err := c.Get(cmd.Context(), "/zookeeper/config"); err == nil {
				out.Config = string(data)
				out.Quorum = learner.Reachable(cmd.Context(), learner.QuorumAddrs(out.Config))
			}
			if o.output == "json" {
				return printJSON(cmd, out)
			}
			rows := [][]string{{"SERVER", "MODE", "VERSION", "NODES", "CONNECTIONS", "LATENCY (min/avg/max)", "ZXID"}}
			for _, s := range out.Servers {
				if s.Error != "" {
					rows = append(rows, []string{s.Server, s.Error})
					continue
				}
				rows = append(rows, []string{s.Server, s.Mode, s.Info["Zookeeper version"], s.Info["Node count"], s.Info["Connections"], s.Info["Latency min/avg/max"], s.Info["Zxid"]})
			}
			if err := printZKTable(cmd.OutOrStdout(), rows); err != nil {
				return err
			}
			if out.Config != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", out.Config)
			}
			if len(out.Quorum) > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "\nOpen quorum ports: %v. Whoever reaches one can read the whole tree, whatever the ACLs say.\n", out.Quorum)
			}
			return nil
		}),
	}
}

// serverInfo is what one server says about itself.
type serverInfo struct {
	Server string            `json:"server"`
	Mode   string            `json:"mode"`
	Info   map[string]string `json:"info,omitempty"`
	Error  string            `json:"error,omitempty"`
}

func askServer(cmd *cobra.Command, addr string) serverInfo {
	ctx, cancel := contextWithTimeout(cmd, 3*time.Second)
	defer cancel()
	out := serverInfo{Server: addr}
	text, err := zk.FourLetter(ctx, nil, addr, "srvr")
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Info = parseSrvr(text)
	if out.Mode = out.Info["Mode"]; out.Mode == "" {
		out.Error = firstLine(text)
	}
	return out
}
