package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func newAppCommand() *cobra.Command {
	f := &marathonFlags{}
	cmd := &cobra.Command{Use: "app", Short: "Run and look after services"}
	f.bind(cmd)
	return group(cmd,
		newAppLsCommand(f),
		newAppInspectCommand(f),
		newAppRunCommand(f),
		newAppUpdateCommand(f),
		newAppScaleCommand(f),
		newAppRestartCommand(f),
		newAppRollbackCommand(f),
		newAppRmCommand(f),
		newAppWhyCommand(f),
	)
}

// printRows prints a table.
func printRows(w io.Writer, rows [][]string, head ...string) error {
	t := newTable(w, head...)
	for _, r := range rows {
		t.row(r...)
	}
	return t.flush()
}

// appPath is the API's path of an app.
func appPath(id string) string {
	u := url.URL{Path: "/v2/apps/" + strings.Trim(id, "/")}
	return u.EscapedPath()
}

// change is what commands that start a deployment share.
type change struct {
	force  bool
	detach bool
}

func (ch *change) bind(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&ch.force, "force", false, "Take the place of a deployment that holds the app.")
	cmd.Flags().BoolVarP(&ch.detach, "detach", "d", false, "Don't wait for the deployment to end.")
}

func (ch *change) query() string { return "?force=" + strconv.FormatBool(ch.force) }

// done shows the deployment that a change started and waits for it.
func (ch *change) done(cmd *cobra.Command, f *marathonFlags, c *marathonClient, answer []byte) error {
	var res struct {
		DeploymentID string `json:"deploymentId"`
		Deployments  []struct{ ID string }
	}
	if err := json.Unmarshal(answer, &res); err != nil {
		return fmt.Errorf("reading Marathon's answer: %w", err)
	}
	id := res.DeploymentID
	if id == "" && len(res.Deployments) > 0 {
		id = res.Deployments[0].ID
	}
	if f.output == "json" {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), string(answer)); err != nil {
			return err
		}
	}
	if id == "" || ch.detach {
		if f.output != "json" && id != "" {
			fmt.Fprintln(cmd.OutOrStdout(), id)
		}
		return nil
	}
	out := cmd.OutOrStdout()
	if f.output == "json" {
		out = cmd.ErrOrStderr()
	}
	return c.follow(cmd.Context(), out, id)
}

func newAppLsCommand(f *marathonFlags) *cobra.Command {
	var label string
	cmd := &cobra.Command{Use: "ls", Short: "List apps", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		path := "/v2/apps"
		if label != "" {
			path += "?label=" + url.QueryEscape(label)
		}
		var raw []byte
		if err := c.call(cmd.Context(), http.MethodGet, path, nil, &raw); err != nil {
			return err
		}
		if f.output == "json" {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), string(raw))
			return err
		}
		var list struct{ Apps []appInfo }
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("reading Marathon's answer: %w", err)
		}
		var rows [][]string
		for _, a := range list.Apps {
			health := "-"
			if len(a.Checks) > 0 {
				health = fmt.Sprintf("%d/%d", a.Healthy, a.Instances)
			}
			state := "running"
			switch {
			case len(a.Deployments) > 0:
				state = "deploying"
			case a.Instances == 0:
				state = "stopped"
			case a.Running < a.Instances:
				state = "waiting"
			}
			what := a.Cmd
			if a.Container != nil && a.Container.Docker != nil {
				what = a.Container.Docker.Image
			}
			if len(what) > 40 {
				what = what[:37] + "..."
			}
			rows = append(rows, []string{a.ID, fmt.Sprintf("%d/%d", a.Running, a.Instances), health, state, strconv.FormatFloat(a.CPUs, 'f', -1, 64), strconv.FormatFloat(a.Mem, 'f', -1, 64), what})
		}
		return printRows(cmd.OutOrStdout(), rows, "ID", "RUNNING", "HEALTHY", "STATE", "CPUS", "MEM", "RUNS")
	}}
	cmd.Flags().StringVarP(&label, "label", "l", "", "Only apps with these labels, such as tier==web.")
	return cmd
}

func newAppInspectCommand(f *marathonFlags) *cobra.Command {
	return &cobra.Command{Use: "inspect ID", Short: "Show an app as JSON, with its tasks", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		var v any
		if err := c.call(cmd.Context(), http.MethodGet, appPath(args[0]), nil, &v); err != nil {
			return err
		}
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	}}
}

// readDefinition reads a file, or standard input for "-".
func readDefinition(cmd *cobra.Command, path string) ([]byte, error) {
	if path == "-" {
		b, err := io.ReadAll(cmd.InOrStdin())
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the definition: %w", err)
	}
	return b, nil
}

func newAppRunCommand(f *marathonFlags) *cobra.Command {
	var (
		ch        change
		file      string
		id, image string
		instances int
		cpus, mem float64
		env       []string
	)
	cmd := &cobra.Command{
		Use: "run [FILE | --id ID [flags] [COMMAND]]", Short: "Run an app, a pod or a group of apps",
		Long: `Run what a Marathon JSON file describes, as it is: an app, a pod (it has "containers"), a group (it has "apps" or
"groups"), or an array of apps; FILE - is standard input. Or describe a simple app by flags:

  orchestrator app run --id /web --instances 3 'python3 -m http.server $PORT'`,
		Example: "  orchestrator app run web.json\n  orchestrator app run --id /once --image nginx:1",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			if file == "" && id == "" && image == "" && len(args) == 1 {
				file, args = args[0], nil
				if _, err := os.Stat(file); file != "-" && errors.Is(err, os.ErrNotExist) {
					return usagef("there is no file %q; to run it as a command, name the app with --id", printable(file))
				}
			}
			var body []byte
			switch {
			case file != "" && (id != "" || len(args) > 0):
				return usagef("give either --file or --id with a command, not both")
			case file != "":
				if body, err = readDefinition(cmd, file); err != nil {
					return err
				}
			case id == "":
				return usagef("say what to run: a FILE, or --id ID and a command or --image")
			default:
				app := map[string]any{"id": id, "instances": instances, "cpus": cpus, "mem": mem}
				if len(args) > 0 {
					app["cmd"] = args[0]
				}
				if image != "" {
					app["container"] = map[string]any{"type": "DOCKER", "docker": map[string]any{"image": image}}
				}
				vars := map[string]string{}
				for _, e := range env {
					k, v, ok := strings.Cut(e, "=")
					if !ok {
						return usagef("--env must be NAME=VALUE, got %q", e)
					}
					vars[k] = v
				}
				app["env"] = vars
				if body, err = json.Marshal(app); err != nil {
					return fmt.Errorf("encoding the app: %w", err)
				}
			}
			method, path := http.MethodPost, "/v2/apps"
			var kind struct {
				ID         string
				Containers []any
				Apps       []any
				Groups     []any
			}
			if err := json.Unmarshal(body, &kind); err != nil {
				var list []any
				if json.Unmarshal(body, &list) != nil {
					return fmt.Errorf("the definition is no valid JSON: %w", err)
				}
				method = http.MethodPut
			}
			switch {
			case kind.Containers != nil:
				path = "/v2/pods"
			case kind.Apps != nil || kind.Groups != nil:
				path = "/v2/groups"
			}
			var answer []byte
			err = c.call(cmd.Context(), method, path+ch.query(), body, &answer)
			var exists *marathonError
			if errors.As(err, &exists) && exists.status == http.StatusConflict && strings.Contains(exists.text, "already") {
				return fmt.Errorf("%s; change it with `orchestrator app update %s`", strings.TrimSuffix(exists.text, "."), printable(kind.ID))
			}
			if err != nil {
				return err
			}
			if path == "/v2/pods" {
				fmt.Fprintln(cmd.OutOrStdout(), kind.ID)
				return nil
			}
			return ch.done(cmd, f, c, answer)
		},
	}
	ch.bind(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "A Marathon JSON file; - is standard input.")
	cmd.Flags().StringVar(&id, "id", "", "Id of the app.")
	cmd.Flags().StringVar(&image, "image", "", "Docker image to run.")
	cmd.Flags().IntVarP(&instances, "instances", "n", 1, "How many instances to run.")
	cmd.Flags().Float64Var(&cpus, "cpus", 0.1, "Cores for each instance.")
	cmd.Flags().Float64Var(&mem, "mem", 64, "MiB of memory for each instance.")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE for the environment; can be repeated.")
	return cmd
}

func newAppUpdateCommand(f *marathonFlags) *cobra.Command {
	var (
		ch   change
		file string
	)
	cmd := &cobra.Command{
		Use: "update ID (-f FILE | KEY=VALUE ...)", Short: "Change an app; only the keys given are replaced", Args: cobra.MinimumNArgs(1),
		Long: "Change an app. Values are JSON where they can be read as JSON, and text otherwise:\n\n  orchestrator app update /web cpus=0.5 cmd='serve --fast' 'env={\"A\":\"1\"}'",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			var body []byte
			switch {
			case file != "" && len(args) > 1:
				return usagef("give either --file or KEY=VALUE, not both")
			case file != "":
				if body, err = readDefinition(cmd, file); err != nil {
					return err
				}
			case len(args) == 1:
				return usagef("say what to change: --file FILE or KEY=VALUE")
			default:
				o := map[string]any{}
				for _, a := range args[1:] {
					k, v, ok := strings.Cut(a, "=")
					if !ok {
						return usagef("expected KEY=VALUE, got %q", a)
					}
					var x any
					if json.Unmarshal([]byte(v), &x) != nil {
						x = v
					}
					o[k] = x
				}
				if body, err = json.Marshal(o); err != nil {
					return fmt.Errorf("encoding the change: %w", err)
				}
			}
			var answer []byte
			if err := c.call(cmd.Context(), http.MethodPatch, appPath(args[0])+ch.query(), body, &answer); err != nil {
				return err
			}
			return ch.done(cmd, f, c, answer)
		},
	}
	ch.bind(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "A JSON file with the keys to change; - is standard input.")
	return cmd
}

func newAppScaleCommand(f *marathonFlags) *cobra.Command {
	var ch change
	cmd := &cobra.Command{Use: "scale ID INSTANCES", Short: "Change the number of instances", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 {
			return usagef("INSTANCES must be a number, got %q", args[1])
		}
		c, err := f.client()
		if err != nil {
			return err
		}
		var answer []byte
		if err := c.call(cmd.Context(), http.MethodPatch, appPath(args[0])+ch.query(), fmt.Appendf(nil, `{"instances":%d}`, n), &answer); err != nil {
			return err
		}
		return ch.done(cmd, f, c, answer)
	}}
	ch.bind(cmd)
	return cmd
}

func newAppRestartCommand(f *marathonFlags) *cobra.Command {
	var ch change
	cmd := &cobra.Command{Use: "restart ID", Short: "Replace all instances, within the app's upgrade strategy", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		var answer []byte
		if err := c.call(cmd.Context(), http.MethodPost, appPath(args[0])+"/restart"+ch.query(), nil, &answer); err != nil {
			return err
		}
		return ch.done(cmd, f, c, answer)
	}}
	ch.bind(cmd)
	return cmd
}

func newAppRollbackCommand(f *marathonFlags) *cobra.Command {
	var ch change
	cmd := &cobra.Command{Use: "rollback ID [VERSION]", Short: "Go back to an earlier version: the one before, or the one named", Args: cobra.RangeArgs(1, 2), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		var version string
		if len(args) == 2 {
			version = args[1]
		} else {
			var list struct{ Versions []string }
			if err := c.call(cmd.Context(), http.MethodGet, appPath(args[0])+"/versions", nil, &list); err != nil {
				return err
			}
			if len(list.Versions) < 2 {
				return fmt.Errorf("%s has no earlier version to go back to", args[0])
			}
			version = list.Versions[1]
		}
		var answer []byte
		if err := c.call(cmd.Context(), http.MethodPut, appPath(args[0])+ch.query(), fmt.Appendf(nil, `{"version":%q}`, version), &answer); err != nil {
			return err
		}
		return ch.done(cmd, f, c, answer)
	}}
	ch.bind(cmd)
	return cmd
}

func newAppRmCommand(f *marathonFlags) *cobra.Command {
	ch := change{}
	cmd := &cobra.Command{Use: "rm ID", Short: "Stop an app and forget it", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		var answer []byte
		if err := c.call(cmd.Context(), http.MethodDelete, appPath(args[0])+ch.query(), nil, &answer); err != nil {
			return err
		}
		return ch.done(cmd, f, c, answer)
	}}
	ch.bind(cmd)
	return cmd
}

func newAppWhyCommand(f *marathonFlags) *cobra.Command {
	return &cobra.Command{Use: "why ID", Short: "Say why an app is not as it should be", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := f.client()
		if err != nil {
			return err
		}
		var raw []byte
		if err := c.call(cmd.Context(), http.MethodGet, appPath(args[0])+"::why", nil, &raw); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if f.output == "json" {
			_, err := fmt.Fprintln(out, string(raw))
			return err
		}
		var w struct {
			Wanted, Running, Healthy, Waiting int
			Reasons                           []string
			Offers                            []struct {
				Offer  struct{ Hostname string }
				Reason []string
				Detail string
			} `json:"lastUnusedOffers"`
		}
		if err := json.Unmarshal(raw, &w); err != nil {
			return fmt.Errorf("reading Marathon's answer: %w", err)
		}
		fmt.Fprintf(out, "%s: %d of %d instances run, %d wait for an offer\n", args[0], w.Running, w.Wanted, w.Waiting)
		for _, r := range w.Reasons {
			fmt.Fprintln(out, "- "+printable(r))
		}
		var rows [][]string
		for n, o := range w.Offers {
			if n == 20 {
				break
			}
			rows = append(rows, []string{o.Offer.Hostname, strings.Join(o.Reason, ","), o.Detail})
		}
		if len(rows) > 0 {
			return printRows(out, rows, "AGENT", "REFUSED FOR", "DETAIL")
		}
		if len(w.Reasons) == 0 {
			fmt.Fprintln(out, "nothing is in the way")
		}
		return nil
	}}
}
