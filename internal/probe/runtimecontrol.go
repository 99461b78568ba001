package probe

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/probe/containerd"
	"github.com/orchestrator/orchestrator/internal/probe/logfile"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// runtimeRef is under what name a runtime other than the Engine knows a container, and what it tells of its log.
type runtimeRef struct {
	watch          *runtimeWatch
	namespace, id  string
	kube           bool
	stdout, stderr string // URIs of files; "" when the output goes elsewhere
	stateDir       string // nerdctl's, which keeps the log there
}

func newRuntimeRef(w *runtimeWatch, c *containerd.Container) *runtimeRef {
	if c.Sandbox || c.Namespace == "moby" { // nothing of their own to do; dockerd's, who would take an end for a crash
		return nil
	}
	r := &runtimeRef{watch: w, namespace: c.Namespace, id: c.ID, kube: c.Kube}
	// Labels come from images and from people's descriptions of pods, too: a directory is nerdctl's only where nerdctl puts it, and no
	// more than the one file in it is read.
	if dir := c.Labels["nerdctl/state-dir"]; !c.Kube && filepath.IsAbs(dir) && strings.HasSuffix(filepath.Clean(dir), filepath.Join("/containers", c.Namespace, c.ID)) {
		r.stateDir = filepath.Clean(dir)
	}
	if strings.HasPrefix(c.Stdout, "file://") {
		r.stdout, r.stderr = c.Stdout, c.Stderr
	}
	return r
}

func (r *runtimeRef) hasLog() bool { return r.kube || r.stdout != "" || r.stateDir != "" }

// runtimeOf finds the runtime of a container that is not the Engine's.
func (p *Probe) runtimeOf(e *probev1.Entity) *runtimeRef {
	id := attr(e, topology.AttrContainerID)
	for _, w := range p.others {
		if info := w.containers()[id]; info != nil && info.by != nil {
			return info.by
		}
	}
	return nil
}

// runtimeControls are what a runtime other than the Engine does for a container, besides what goes through the kernel.
func (p *Probe) runtimeControls(c *containerInfo) (out []string) {
	if c.by == nil {
		return nil
	}
	if p.cfg.allowed(PolicyLogs) && c.by.hasLog() {
		out = append(out, "logs")
	}
	if p.cfg.allowed(PolicyLifecycle) {
		switch c.state {
		case topology.StateRunning:
			out = append(out, "stop")
			if !c.by.kube {
				out = append(out, "pause")
			}
		case topology.StatePaused:
			if !c.by.kube {
				out = append(out, "unpause")
			}
		}
	}
	return out
}

const (
	// stopGrace is how long a container has to end by itself, as with Docker.
	stopGrace = 10 * time.Second
	// maxStopGrace leaves the rest of the minute that a request has for killing it.
	maxStopGrace = 50 * time.Second
)

// runtimeLifecycle has a runtime other than the Engine act on a container.
func (p *Probe) runtimeLifecycle(ctx context.Context, action string, req *probev1.Request, e *probev1.Entity) (any, error) {
	r := p.runtimeOf(e)
	if r == nil {
		return nil, refuse("conflict", "%s is run neither by Docker nor by a runtime that this probe reads: it is controlled by what started it", e.Label)
	}
	grace := stopGrace
	if t := arg(req, "timeout"); t != "" {
		n, err := strconv.ParseUint(t, 10, 16)
		if err != nil {
			return nil, refuse("bad_request", "timeout %q is not a number of seconds", t)
		}
		if grace = time.Duration(n) * time.Second; grace > maxStopGrace {
			return nil, refuse("bad_request", "timeout %q: a container of %s gets at most %s to end by itself", t, r.watch.name, maxStopGrace)
		}
	}
	client := containerd.Dial(r.watch.socket)
	defer client.Close()
	began := time.Now()
	var err error
	var past string
	switch {
	case action == "stop" && r.kube:
		past, err = "stopped", client.StopKube(ctx, r.id, grace)
	case action == "stop":
		var killed bool
		if killed, err = client.Stop(ctx, r.namespace, r.id, grace); killed {
			past = fmt.Sprintf("killed, since it had not ended %s after SIGTERM,", grace)
		} else {
			past = "stopped"
		}
	case action == "pause" && !r.kube:
		past, err = "paused", client.Pause(ctx, r.namespace, r.id)
	case action == "unpause" && !r.kube:
		past, err = "unpaused", client.Resume(ctx, r.namespace, r.id)
	default:
		return nil, &refusal{
			"conflict", fmt.Sprintf("%s can't %s %s: it starts a container once", cmp.Or(attr(e, topology.AttrRuntime), r.watch.name), action, e.Label),
			"what has made it (the kubelet, nerdctl, a program of yours) makes another",
		}
	}
	if containerd.Gone(err) {
		return nil, refuse("not_found", "%s has ended", e.Label)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.watch.name, err)
	}
	return done{fmt.Sprintf("%s in %d ms", past, time.Since(began).Milliseconds())}, nil
}

// logPlace is a log file on this host.
type logPlace struct {
	path   string
	format logfile.Format
	plain  string // the stream that a plain file holds
}

// logPlaces finds where a container's log is written.
func (r *runtimeRef) logPlaces(ctx context.Context, e *probev1.Entity) ([]logPlace, error) {
	switch {
	case r.kube:
		client := containerd.Dial(r.watch.socket)
		defer client.Close()
		path, err := client.LogPath(ctx, r.id)
		if containerd.Gone(err) {
			return nil, refuse("not_found", "%s was removed", e.Label)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.watch.name, err)
		}
		if path == "" {
			return nil, refuse("conflict", "%s was made without a log: Kubernetes was not asked to keep one", e.Label)
		}
		return []logPlace{{path, logfile.CRI, ""}}, nil
	case r.stdout != "":
		var out []logPlace
		for i, uri := range []string{r.stdout, r.stderr} {
			u, err := url.Parse(uri)
			if err != nil || u.Scheme != "file" || u.Path == "" || len(out) > 0 && out[0].path == u.Path {
				continue
			}
			out = append(out, logPlace{u.Path, logfile.Plain, []string{logfile.Stdout, logfile.Stderr}[i]})
		}
		return out, nil
	case r.stateDir != "":
		return r.nerdctlLog(e)
	}
	return nil, refuse("conflict", "the output of %s goes to the program that started it: %s keeps none", e.Label, r.watch.name)
}

// nerdctlLog finds the file that nerdctl's helper writes, and says so when it was told to send the log elsewhere.
func (r *runtimeRef) nerdctlLog(e *probev1.Entity) ([]logPlace, error) {
	var told struct {
		Driver string            `json:"driver"`
		Opts   map[string]string `json:"opts"`
	}
	root, err := os.OpenRoot(r.stateDir)
	if err != nil {
		return nil, fmt.Errorf("open nerdctl's directory: %w", err)
	}
	defer root.Close()
	b, err := root.ReadFile("log-config.json")
	switch {
	case errors.Is(err, fs.ErrNotExist): // older ones write none
	case err != nil:
		return nil, fmt.Errorf("read how nerdctl logs: %w", err)
	case json.Unmarshal(b, &told) != nil:
		return nil, refuse("probe_failed", "%s holds no JSON", filepath.Join(r.stateDir, "log-config.json"))
	case told.Driver != "" && told.Driver != "json-file":
		return nil, refuse("conflict", "nerdctl was told to log %s with %s", e.Label, topology.Clean(told.Driver, 64))
	case told.Opts["log-path"] != "":
		return nil, refuse("conflict", "nerdctl was told to write the log of %s to a place of its own, %s, which the probe does not read", e.Label, topology.Clean(told.Opts["log-path"], 200))
	}
	return []logPlace{{filepath.Join(r.stateDir, r.id+"-json.log"), logfile.JSON, ""}}, nil
}

// runtimeLogs streams the log that a runtime other than the Engine has written to files.
func (p *Probe) runtimeLogs(ctx context.Context, req *probev1.Request, e *probev1.Entity, r *runtimeRef, s *pipe.Pipe) error {
	places, err := r.logPlaces(ctx, e)
	if err != nil {
		return err
	}
	o, err := logOptions(req)
	if err != nil {
		return err
	}
	after, err := placesAfter(arg(req, "after"))
	if err != nil {
		return err
	}
	var tails []*logfile.Tail
	for _, place := range places {
		o.Format, o.Plain, o.After = place.format, place.plain, nil
		if o.Format == logfile.Plain {
			o.After = after[cmp.Or(o.Plain, logfile.Stdout)]
		}
		if o.Format == logfile.Plain && o.Stream != "" && o.Stream != o.Plain && len(places) > 1 {
			continue
		}
		root, err := os.OpenRoot(filepath.Dir(place.path))
		if err == nil {
			defer root.Close()
			var t *logfile.Tail
			if t, err = openLog(ctx, root, filepath.Base(place.path), o); err == nil {
				defer t.Close()
				tails = append(tails, t)
				continue
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return &refusal{"not_found", fmt.Sprintf("the log of %s is not at %s", e.Label, place.path), "a probe in a container needs this directory of its host at the same place"}
		}
		return fmt.Errorf("open the log: %w", err)
	}
	return p.copyLogs(ctx, req, e, tails, s)
}

// openLog opens a log. For a moment there is none while it is rotated: the old file has another name already, and the new one is yet to come.
func openLog(ctx context.Context, root *os.Root, name string, o logfile.Options) (*logfile.Tail, error) {
	for tries := 1; ; tries++ {
		t, err := logfile.Open(root, name, o)
		if tries == 5 || !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(logPoll):
		}
	}
}

// logOptions reads which lines are wanted.
func logOptions(req *probev1.Request) (logfile.Options, error) {
	o := logfile.Options{Lines: -1, Stream: arg(req, "stream")}
	if o.Stream != "" && o.Stream != logfile.Stdout && o.Stream != logfile.Stderr {
		return o, refuse("bad_request", "stream %q is neither stdout nor stderr", topology.Clean(o.Stream, 32))
	}
	if n, err := strconv.Atoi(arg(req, "tail")); err == nil && n >= 0 {
		o.Lines = n
	}
	for name, at := range map[string]*time.Time{"since": &o.Since, "until": &o.Until} {
		if ms, err := strconv.ParseInt(arg(req, name), 10, 64); err == nil && ms > 0 {
			*at = time.UnixMilli(ms)
		}
	}
	return o, nil
}

// logPoll is how often a file is looked at for what was written to it.
const logPoll = 250 * time.Millisecond

// copyLogs sends what is in files, and what comes, as long as it is wanted and the container is there to write it.
func (p *Probe) copyLogs(ctx context.Context, req *probev1.Request, e *probev1.Entity, tails []*logfile.Tail, s *pipe.Pipe) error {
	out := logWriter{ctx: ctx, pipe: s}
	placed := arg(req, "places") == "1"
	for over := 0; ; {
		for _, t := range tails {
			if out.of = nil; placed && t.Plain() {
				out.of = t
			}
			if err := t.Copy(ctx, out.line); err != nil {
				return ended(err)
			}
			if err := out.flush(); err != nil {
				return ended(err)
			}
		}
		// Two looks after the end: the first may just have noticed that the file was rotated, and the last words are in the new one.
		if arg(req, "follow") != "1" || over == 2 {
			return nil
		}
		if over > 0 {
			over++
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logPoll):
		}
		if now := p.hub.entity(e.Id); now == nil || now.State == topology.StateExited || now.State == topology.StateDead {
			over = 1
		}
	}
}

// placesAfter reads how far somebody has read plain logs: "stdout=<inode>-<offset>,stderr=…".
func placesAfter(text string) (map[string]*logfile.Place, error) {
	out := map[string]*logfile.Place{}
	if text == "" {
		return out, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		stream, at, _ := strings.Cut(item, "=")
		file, offset, _ := strings.Cut(at, "-")
		place := &logfile.Place{}
		var errs [2]error
		place.File, errs[0] = strconv.ParseUint(file, 10, 64)
		place.Offset, errs[1] = strconv.ParseInt(offset, 10, 64)
		if errs[0] != nil || errs[1] != nil || place.Offset < 0 || stream != logfile.Stdout && stream != logfile.Stderr {
			return nil, refuse("bad_request", "after=%q is no place in a log", topology.Clean(text, 100))
		}
		out[stream] = place
	}
	return out, nil
}

// logWriter gathers lines of one stream, each after its time (and, of a plain file for who wants to go on later, "@" and its place there), into pieces of some size.
type logWriter struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the request
	pipe   *pipe.Pipe
	stream uint32
	buf    []byte
	of     *logfile.Tail // whose lines are told their places; nil: none are
}

func (w *logWriter) line(stream string, at time.Time, text []byte) error {
	to := uint32(pipe.Stdout)
	if stream == logfile.Stderr {
		to = pipe.Stderr
	}
	if to != w.stream || len(w.buf) > 32<<10 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.stream = to
	w.buf = at.UTC().AppendFormat(w.buf, "2006-01-02T15:04:05.000000000Z07:00")
	if w.of != nil {
		place := w.of.Place()
		w.buf = strconv.AppendUint(append(w.buf, '@'), place.File, 10)
		w.buf = strconv.AppendInt(append(w.buf, '-'), place.Offset, 10)
	}
	w.buf = append(append(append(w.buf, ' '), text...), '\n')
	return nil
}

func (w *logWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.pipe.Send(w.ctx, w.stream, w.buf)
	w.buf = w.buf[:0]
	return err
}
