package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// marathonClient calls Marathon's API for the commands.
type marathonClient struct {
	base string
	http *http.Client
}

// marathonFlags are what every command about services has.
type marathonFlags struct {
	address string
	output  string
}

func (f *marathonFlags) bind(cmd *cobra.Command) {
	def := os.Getenv("ORCHESTRATOR_MARATHON")
	if def == "" {
		def = "http://127.0.0.1:8080"
	}
	cmd.PersistentFlags().StringVar(&f.address, "marathon", def, "Address of Marathon; ORCHESTRATOR_MARATHON sets it too.")
	cmd.PersistentFlags().StringVarP(&f.output, "output", "o", "table", "How to show results: table or json.")
}

func (f *marathonFlags) client() (*marathonClient, error) {
	if f.output != "table" && f.output != "json" {
		return nil, usagef("--output must be table or json, got %q", f.output)
	}
	base := f.address
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	return &marathonClient{base: strings.TrimSuffix(base, "/"), http: &http.Client{Timeout: time.Minute}}, nil
}

// marathonError is an answer of Marathon's that is no success.
type marathonError struct {
	status int
	text   string
}

func (e *marathonError) Error() string { return e.text }

// call sends a request and decodes the answer into v, unless that is nil; *[]byte takes it as it is.
func (c *marathonClient) call(ctx context.Context, method, path string, body []byte, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("calling Marathon: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("calling Marathon: %w; is it running there? Set --marathon or ORCHESTRATOR_MARATHON", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<30))
	if err != nil {
		return fmt.Errorf("reading Marathon's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return &marathonError{resp.StatusCode, describe(resp.StatusCode, b)}
	}
	switch v := v.(type) {
	case nil:
		return nil
	case *[]byte:
		*v = b
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading Marathon's answer: %w", err)
	}
	return nil
}

// describe makes a sentence of an error's body.
func describe(status int, body []byte) string {
	var e struct {
		Message     string          `json:"message"`
		Details     json.RawMessage `json:"details"`
		Deployments []struct{ ID string }
	}
	if json.Unmarshal(body, &e) != nil || e.Message == "" {
		text := fmt.Sprintf("Marathon answers %d %s", status, http.StatusText(status))
		if status == http.StatusNotFound {
			text += ": no Marathon may be there, but something else; --marathon or ORCHESTRATOR_MARATHON name its address"
		}
		return text
	}
	text := e.Message
	var list []struct {
		Path   string
		Errors []string
	}
	var detail string
	if json.Unmarshal(e.Details, &list) == nil {
		for _, d := range list {
			text += "\n  " + d.Path + ": " + strings.Join(d.Errors, "; ")
		}
	} else if json.Unmarshal(e.Details, &detail) == nil {
		text += ": " + detail
	}
	for _, d := range e.Deployments {
		text += "\n  held by deployment " + d.ID + " (see `orchestrator deployment ls`, or use --force)"
	}
	return text
}

type deploymentInfo struct {
	ID           string   `json:"id"`
	Version      string   `json:"version"`
	AffectedApps []string `json:"affectedApps"`
	AffectedPods []string `json:"affectedPods"`
	CurrentStep  int      `json:"currentStep"`
	TotalSteps   int      `json:"totalSteps"`
	Paused       string   `json:"paused"`
	Actions      []struct {
		Action string `json:"action"`
		App    string `json:"app"`
		Pod    string `json:"pod"`
	} `json:"currentActions"`
}

type appInfo struct {
	ID        string  `json:"id"`
	Instances int     `json:"instances"`
	Staged    int     `json:"tasksStaged"`
	Running   int     `json:"tasksRunning"`
	Healthy   int     `json:"tasksHealthy"`
	Unhealthy int     `json:"tasksUnhealthy"`
	CPUs      float64 `json:"cpus"`
	Mem       float64 `json:"mem"`
	Version   string  `json:"version"`
	Checks    []any   `json:"healthChecks"`
	Container *struct {
		Docker *struct{ Image string } `json:"docker"`
	} `json:"container"`
	Cmd         string                `json:"cmd"`
	Deployments []struct{ ID string } `json:"deployments"`
}

func (c *marathonClient) deployments(ctx context.Context) ([]deploymentInfo, error) {
	var out []deploymentInfo
	return out, c.call(ctx, http.MethodGet, "/v2/deployments", nil, &out)
}

// pollEvery is how often a deployment is looked at while it is waited for.
const pollEvery = 250 * time.Millisecond

// errPaused ends the waiting for a deployment that will not go on by itself.
var errPaused = errors.New("the deployment is paused")

// follow shows the progress of a deployment until it has ended: one line that changes on a terminal, lines otherwise.
func (c *marathonClient) follow(ctx context.Context, w io.Writer, id string) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("nobody waits for deployment %s any more (%w); it goes on: `orchestrator deployment ls` shows how far it is, `orchestrator deployment cancel %s` undoes it", id, ctx.Err(), id)
		}
	}()
	tty := false
	if f, ok := w.(*os.File); ok {
		tty = term.IsTerminal(int(f.Fd()))
	}
	last := ""
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		list, err := c.deployments(ctx)
		if err != nil {
			return err
		}
		var d *deploymentInfo
		for i := range list {
			if list[i].ID == id {
				d = &list[i]
			}
		}
		if d == nil {
			if tty && last != "" {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return c.outcome(ctx, w, id)
		}
		line := c.progress(ctx, d, tty)
		if line != last {
			if tty {
				fmt.Fprintf(w, "\r\x1b[K%s", line)
			} else {
				fmt.Fprintln(w, line)
			}
			last = line
		}
		if d.Paused != "" {
			if tty {
				fmt.Fprintln(w)
			}
			return fmt.Errorf("%w: %s; continue it with `orchestrator deployment resume %s`, or undo it with `orchestrator deployment cancel %s`", errPaused, d.Paused, id, id)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// errNotDone is what a command ends with whose deployment did not do what it was for.
var errNotDone = errors.New("the deployment failed")

// outcome says how a deployment ended. Marathon itself doesn't tell; then nothing is claimed.
func (c *marathonClient) outcome(ctx context.Context, w io.Writer, id string) error {
	var o struct {
		Succeeded *bool  `json:"succeeded"`
		Reason    string `json:"reason"`
	}
	err := c.call(ctx, http.MethodGet, "/v2/deployments/"+id, nil, &o)
	var answer *marathonError
	switch {
	case err != nil && !errors.As(err, &answer):
		return err
	case err != nil || o.Succeeded == nil:
		fmt.Fprintf(w, "deployment %s has ended\n", id)
	case *o.Succeeded:
		fmt.Fprintf(w, "done: deployment %s\n", id)
	default:
		return fmt.Errorf("%w: %s; `orchestrator app why ID` and `orchestrator app inspect ID` say more", errNotDone, o.Reason)
	}
	return nil
}

// progress is one line about a deployment.
func (c *marathonClient) progress(ctx context.Context, d *deploymentInfo, bar bool) string {
	line := fmt.Sprintf("step %d of %d", d.CurrentStep, d.TotalSteps)
	for n, a := range d.Actions {
		if n == 3 {
			line += fmt.Sprintf(", and %d more", len(d.Actions)-n)
			break
		}
		line += fmt.Sprintf("  %s %s", a.Action, a.App+a.Pod)
		if a.App == "" {
			continue
		}
		var got struct{ App appInfo }
		if c.call(ctx, http.MethodGet, "/v2/apps"+a.App, nil, &got) == nil {
			good := got.App.Running
			if len(got.App.Checks) > 0 {
				good = got.App.Healthy
			}
			if bar {
				line += " " + meter(good, got.App.Instances)
			}
			line += fmt.Sprintf(" %d/%d", good, got.App.Instances)
		}
	}
	return line
}

// meter draws a share of twenty marks.
func meter(n, of int) string {
	const width = 20
	full := width
	if of > 0 {
		full = min(width, n*width/of)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}
