package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

func newTaskCommand() *cobra.Command {
	return group(&cobra.Command{Use: "task", Short: "List tasks, look at them, read their output, run commands beside them"},
		newTaskLsCommand(),
		newTaskInspectCommand(),
		newTaskLogsCommand(),
		newTaskExecCommand(),
		newTaskKillCommand(),
		newTaskWhyCommand(),
	)
}

func (c *cluster) tasks(ctx context.Context) (*masterv1.Response_GetTasks, error) {
	r, err := c.query(ctx, masterv1.Call_GET_TASKS)
	return r.GetGetTasks(), err
}

// task finds a task by its id or a unique beginning of it: among the live ones first, then the unreachable, then the
// completed, latest first.
func (c *cluster) task(ctx context.Context, name string) (*mesosv1.Task, error) {
	all, err := c.tasks(ctx)
	if err != nil {
		return nil, err
	}
	names := func(t *mesosv1.Task) (string, []string) { return t.GetTaskId().GetValue(), []string{t.GetName()} }
	var firstErr error
	for _, list := range [][]*mesosv1.Task{all.GetTasks(), all.GetUnreachableTasks(), latest(all.GetCompletedTasks())} {
		t, err := pick("task", name, list, names)
		if err == nil {
			return t, nil
		}
		if firstErr == nil || strings.Contains(err.Error(), " means ") {
			firstErr = err
		}
	}
	return nil, firstErr
}

// latest keeps the last of the completed tasks that had the same id.
func latest(list []*mesosv1.Task) []*mesosv1.Task {
	seen := map[string]bool{}
	var out []*mesosv1.Task
	for i := len(list) - 1; i >= 0; i-- {
		if id := list[i].GetTaskId().GetValue(); !seen[id] {
			seen[id] = true
			out = append(out, list[i])
		}
	}
	return out
}

func taskState(s mesosv1.TaskState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TASK_"))
}

func lastTime(t *mesosv1.Task) float64 {
	if n := len(t.GetStatuses()); n > 0 {
		return t.GetStatuses()[n-1].GetTimestamp()
	}
	return 0
}

func newTaskLsCommand() *cobra.Command {
	var all bool
	var framework, state, node string
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, _ []string) error {
		got, err := c.tasks(ctx)
		if err != nil {
			return err
		}
		list := append(append([]*mesosv1.Task(nil), got.GetTasks()...), got.GetUnreachableTasks()...)
		if all {
			list = append(list, got.GetCompletedTasks()...)
		}
		hosts := map[string]string{}
		if nodes, err := c.agents(ctx); err == nil {
			for _, a := range nodes.GetAgents() {
				hosts[a.GetAgentInfo().GetId().GetValue()] = a.GetAgentInfo().GetHostname()
			}
		}
		kept := list[:0]
		for _, t := range list {
			switch {
			case framework != "" && t.GetFrameworkId().GetValue() != framework && !strings.HasSuffix(t.GetFrameworkId().GetValue(), "-"+framework):
			case state != "" && taskState(t.GetState()) != strings.ToLower(strings.TrimPrefix(strings.ToUpper(state), "TASK_")):
			case node != "" && !strings.HasPrefix(t.GetAgentId().GetValue(), node) && hosts[t.GetAgentId().GetValue()] != node:
			default:
				kept = append(kept, t)
			}
		}
		if c.json() {
			return printMessages(cmd, kept)
		}
		tab := newTable(cmd.OutOrStdout(), "ID", "NAME", "FRAMEWORK", "STATE", "NODE", "CPUS", "MEM", "SINCE")
		for _, t := range kept {
			host := hosts[t.GetAgentId().GetValue()]
			if host == "" {
				host = t.GetAgentId().GetValue()
			}
			tab.row(t.GetTaskId().GetValue(), t.GetName(), t.GetFrameworkId().GetValue(), taskState(t.GetState()), host,
				first(share(t.GetResources(), nil, "cpus")), first(share(t.GetResources(), nil, "mem")), ageSeconds(lastTime(t)))
		}
		return tab.flush()
	})
	cmd := &cobra.Command{Use: "ls", Short: "List the tasks", Args: cobra.NoArgs, RunE: runE}
	conn.bind(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Also list completed tasks.")
	cmd.Flags().StringVar(&framework, "framework", "", "Only those of this framework (id, or its last part).")
	cmd.Flags().StringVar(&state, "state", "", "Only those in this state, such as running.")
	cmd.Flags().StringVar(&node, "node", "", "Only those on this node (hostname, or the beginning of its id).")
	return cmd
}

func newTaskInspectCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		t, err := c.task(ctx, args[0])
		if err != nil {
			return err
		}
		raw, err := mesosjson.Marshal(t)
		if err != nil {
			return err
		}
		if stages := c.launchStages(ctx, args[0]); stages != nil {
			raw = append(raw[:len(raw)-1], `,"launch_stages":`...) // an object that is never empty
			raw = append(append(raw, stages...), '}')
		}
		return printJSON(cmd, json.RawMessage(raw))
	})
	cmd := &cobra.Command{Use: "inspect TASK", Short: "Show all that the master knows of a task, and how long its launch took, as JSON", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

// launchStages asks a task's node how long the stages of its container's launch took; nil when the node can't say.
func (c *cluster) launchStages(ctx context.Context, name string) json.RawMessage {
	p, err := c.place(ctx, name)
	if err != nil || p.container == nil {
		return nil
	}
	id := p.container.GetValue()
	for up := p.container.GetParent(); up != nil; up = up.GetParent() {
		id = up.GetValue() + "." + id
	}
	var answer []struct {
		Stages json.RawMessage `json:"stages"`
	}
	_, address, _ := strings.Cut(p.agent.GetPid(), "@")
	if c.plainOn(ctx, address, "/monitor/launches?container_id="+url.QueryEscape(id), nil, &answer) != nil || len(answer) != 1 {
		return nil
	}
	return answer[0].Stages
}

func newTaskWhyCommand() *cobra.Command {
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		t, err := c.task(ctx, args[0])
		if err != nil {
			return err
		}
		if c.json() {
			return printMessages(cmd, t.GetStatuses())
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "task %s of framework %s is %s\n\n", printable(t.GetTaskId().GetValue()), t.GetFrameworkId().GetValue(), taskState(t.GetState()))
		tab := newTable(out, "WHEN", "STATE", "SAID BY", "REASON", "MESSAGE")
		for _, st := range t.GetStatuses() {
			reason := ""
			if st.Reason != nil {
				reason = strings.ToLower(strings.TrimPrefix(st.GetReason().String(), "REASON_"))
			}
			who := ""
			if st.Source != nil {
				who = strings.ToLower(strings.TrimPrefix(st.GetSource().String(), "SOURCE_"))
			}
			tab.row(ageSeconds(st.GetTimestamp())+" ago", taskState(st.GetState()), who, reason, firstLine(st.GetMessage()))
		}
		if err := tab.flush(); err != nil {
			return err
		}
		if advice := adviceFor(t); advice != "" {
			fmt.Fprintf(out, "\n%s\n", advice)
		}
		return nil
	})
	cmd := &cobra.Command{Use: "why TASK", Short: "Say how a task came into its state, and what to do about it", Args: cobra.ExactArgs(1), RunE: runE}
	conn.bind(cmd)
	return cmd
}

// adviceFor is the next step for a task that is not simply running.
func adviceFor(t *mesosv1.Task) string {
	id := t.GetTaskId().GetValue()
	var last *mesosv1.TaskStatus
	if n := len(t.GetStatuses()); n > 0 {
		last = t.GetStatuses()[n-1]
	}
	switch t.GetState() {
	case mesosv1.TaskState_TASK_STAGING:
		return "It waits for its node to start it: fetching its artifacts, preparing its container. `orchestrator node inspect " + t.GetAgentId().GetValue() + "` shows whether the node is there."
	case mesosv1.TaskState_TASK_UNREACHABLE:
		return "Its node does not answer; the task may still run there. It is told again when the node comes back; `orchestrator node gone " + t.GetAgentId().GetValue() + "` gives the node up."
	case mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_ERROR:
		if last.GetReason() == mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY {
			return "It used more memory than it asked for: give it more, or make it use less."
		}
		if t.GetState() == mesosv1.TaskState_TASK_ERROR {
			return "It was never started: the framework described it wrongly. The message above says how."
		}
		return "`orchestrator task logs --stderr " + id + "` shows what it printed last."
	}
	return ""
}

func newTaskKillCommand() *cobra.Command {
	var grace string
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		t, err := c.task(ctx, args[0])
		if err != nil {
			return err
		}
		form := url.Values{"framework_id": {t.GetFrameworkId().GetValue()}, "task_id": {t.GetTaskId().GetValue()}}
		if grace != "" {
			form.Set("grace", grace)
		}
		if err := c.plain(ctx, "/api/orchestrator/v1/kill", form, nil); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "task %s is being killed; its framework decides whether it is started again\n", printable(t.GetTaskId().GetValue()))
		return nil
	})
	cmd := &cobra.Command{
		Use: "kill TASK", Short: "Kill a task, past its framework", Args: cobra.ExactArgs(1), RunE: runE,
		Long: `Kill a task as if its framework had asked for it: SIGTERM, and SIGKILL once the grace period is over. The framework hears of it and may start
another one. To end a service for good use its framework (orchestrator app scale, app rm).`,
	}
	conn.bind(cmd)
	cmd.Flags().StringVar(&grace, "grace", "", "Time to end by itself, such as 5secs. Unset: what the task asks for.")
	return cmd
}

// place is where a task is.
type place struct {
	task      *mesosv1.Task
	agent     *agentView
	container *mesosv1.ContainerID
	sandbox   string // virtual path on the agent
}

// place finds where a task is, or was last.
func (c *cluster) place(ctx context.Context, name string) (*place, error) {
	t, err := c.task(ctx, name)
	if err != nil {
		return nil, err
	}
	p := &place{task: t}
	all, err := c.agents(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range all.GetAgents() {
		if a.GetAgentInfo().GetId().GetValue() == t.GetAgentId().GetValue() {
			p.agent = a
		}
	}
	if p.agent == nil {
		return nil, fmt.Errorf("node %s, which has task %s, is not registered now", t.GetAgentId().GetValue(), name)
	}
	for _, st := range t.GetStatuses() {
		if id := st.GetContainerStatus().GetContainerId(); id != nil {
			p.container = id
		}
	}
	executor := t.GetExecutorId().GetValue()
	below := ""
	if executor == "" {
		executor = t.GetTaskId().GetValue() // a command task's executor has its id
	} else if r, err := c.query(ctx, masterv1.Call_GET_EXECUTORS); err == nil {
		for _, x := range r.GetGetExecutors().GetExecutors() {
			info := x.GetExecutorInfo()
			if info.GetExecutorId().GetValue() == executor && info.GetFrameworkId().GetValue() == t.GetFrameworkId().GetValue() &&
				info.GetType() == mesosv1.ExecutorInfo_DEFAULT {
				below = "/tasks/" + t.GetTaskId().GetValue()
			}
		}
	}
	p.sandbox = "/frameworks/" + t.GetFrameworkId().GetValue() + "/executors/" + executor + "/runs/latest" + below
	return p, nil
}

func newTaskLogsCommand() *cobra.Command {
	var follow, stdout, stderr bool
	var file string
	var tail int64
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		p, err := c.place(ctx, args[0])
		if err != nil {
			return err
		}
		_, address, _ := strings.Cut(p.agent.GetPid(), "@")
		show := func(ctx context.Context, name string, to io.Writer) error {
			r := &remoteFile{c: c, address: address, path: p.sandbox + "/" + name}
			return r.copy(ctx, to, tail, follow)
		}
		switch {
		case file != "":
			return show(ctx, strings.TrimPrefix(file, "/"), cmd.OutOrStdout())
		case stdout != stderr:
			return show(ctx, map[bool]string{true: "stdout", false: "stderr"}[stdout], cmd.OutOrStdout())
		}
		// Both, each where it belongs: what many programs have to say is in the second.
		g, ctx := errgroup.WithContext(ctx)
		if !follow {
			g.SetLimit(1) // one after the other
		}
		g.Go(func() error { return show(ctx, "stdout", cmd.OutOrStdout()) })
		g.Go(func() error { return show(ctx, "stderr", cmd.ErrOrStderr()) })
		return g.Wait()
	})
	cmd := &cobra.Command{
		Use: "logs TASK", Short: "Print what a task wrote to its standard output and error", Args: cobra.ExactArgs(1), RunE: runE,
		Example: "  orchestrator task logs web.1\n  orchestrator task logs -f --stderr web.1\n  orchestrator task logs --file work/debug.log web.1",
	}
	conn.bind(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "Go on printing what it writes.")
	cmd.Flags().BoolVar(&stdout, "stdout", false, "Its standard output alone.")
	cmd.Flags().BoolVar(&stderr, "stderr", false, "Its standard error alone, printed to the standard output.")
	cmd.Flags().StringVar(&file, "file", "", "Another file of its sandbox instead.")
	cmd.Flags().Int64Var(&tail, "tail", -1, "Only the last so many bytes of each.")
	return cmd
}

// remoteFile is a file of a sandbox, read through the agent's /files.
type remoteFile struct {
	c       *cluster
	address string
	path    string
}

func (r *remoteFile) request(ctx context.Context, endpoint string, q url.Values, header http.Header) (*http.Response, error) {
	q.Set("path", r.path)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address+"/files/"+endpoint+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if r.c.Principal != "" {
		req.SetBasicAuth(r.c.Principal, r.c.Secret)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r.path, err)
	}
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if resp.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("the node has no %s (any more): sandboxes are removed some time after their task has ended", r.path)
		}
		return nil, fmt.Errorf("reading %s: %s: %s", r.path, resp.Status, printable(strings.TrimSpace(string(text))))
	}
	return resp, nil
}

// size asks how long the file is now.
func (r *remoteFile) size(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.c.Timeout)
	defer cancel()
	resp, err := r.request(ctx, "read", url.Values{}, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer struct{ Offset int64 }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return 0, fmt.Errorf("reading %s: %w", r.path, err)
	}
	return answer.Offset, nil
}

// copy writes the file from its last tail bytes (all when negative), then what is appended, as bytes: downloads carry what
// /files/read, being JSON, can't.
func (r *remoteFile) copy(ctx context.Context, out io.Writer, tail int64, follow bool) error {
	at := int64(0)
	if tail >= 0 {
		size, err := r.size(ctx)
		if err != nil {
			return err
		}
		at = max(size-tail, 0)
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := r.piece(ctx, out, at)
		if err != nil {
			if ctx.Err() != nil && follow {
				return nil
			}
			return err
		}
		at += n
		if n > 0 {
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if size, err := r.size(ctx); err == nil && size < at {
				at = 0 // it was rotated
			}
		}
	}
}

// piece copies what there is from an offset on.
func (r *remoteFile) piece(ctx context.Context, out io.Writer, at int64) (int64, error) {
	resp, err := r.request(ctx, "download", url.Values{}, http.Header{"Range": {fmt.Sprintf("bytes=%d-", at)}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, nil // nothing there yet
	case http.StatusPartialContent:
		return io.Copy(out, resp.Body)
	}
	// An agent that does not know ranges sends it all.
	if _, err := io.CopyN(io.Discard, resp.Body, at); err != nil {
		return 0, nil //nolint:nilerr // shorter than what was read: nothing new
	}
	return io.Copy(out, resp.Body)
}
