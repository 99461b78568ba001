package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
	"github.com/orchestrator/orchestrator/internal/topology/scope"
)

const (
	pluginAPIVersion = "1" // of Weave Scope's plugin interface

	pluginScanEvery   = 2 * time.Second
	pluginReportEvery = 3 * time.Second
	pluginSlowest     = 15 * time.Second // between reports of a plugin that keeps failing
	pluginKeep        = 20 * time.Second // how long a report holds after which none came
	pluginControlMax  = 10 * time.Second

	maxPlugins      = 64
	maxPluginWrong  = 16 // sockets that can't be plugins and are listed
	maxPluginFiles  = 4096
	maxPluginDepth  = 3
	maxPluginMemory = 16 << 20 // of the reports that are held, all plugins together
	maxPluginShown  = 900      // templates of all plugins
)

var rePluginName = regexp.MustCompile(`^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$`)

// pluginWatch finds plugins by their sockets and keeps their newest reports. Every plugin is asked by a goroutine of its own: one
// that hangs holds up nothing but itself.
type pluginWatch struct {
	dir     string
	timeout time.Duration
	probeID string
	hosts   []string // names of this host, the one that entities carry first
	poke    func()
	state   atomic.Pointer[collectorState]
	decode  sync.Mutex // one report is decoded at a time: it may take twenty times its size
	wg      sync.WaitGroup
	memory  atomic.Int64 // what the reports that are held took on the wire

	mu      sync.Mutex
	plugins map[string]*plugin // by path below dir
	wrong   []*probev1.Collector
}

// plugin is one socket.
type plugin struct {
	id, path string
	http     *http.Client
	stop     context.CancelFunc
	again    chan struct{} // ask for a report now

	mu             sync.Mutex
	spec           scope.PluginSpec
	state, message string
	found          *pluginFound
	at             time.Time
	gone           bool
	generation     int // of found: a report that was under way while a control changed things is too old
}

func newPluginWatch(dir, probeID, hostname string, timeout time.Duration, poke func()) *pluginWatch {
	w := &pluginWatch{dir: dir, timeout: timeout, probeID: probeID, hosts: []string{hostname}, poke: poke, plugins: map[string]*plugin{}}
	if h, err := os.Hostname(); err == nil && h != hostname {
		w.hosts = append(w.hosts, h)
	}
	w.state.Store(&collectorState{"off", "not looked yet"})
	return w
}

func (w *pluginWatch) run(ctx context.Context) {
	defer w.wg.Wait()
	for ctx.Err() == nil {
		w.scan(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(pluginScanEvery):
		}
	}
}

// scan compares the directory with the plugins that are known.
func (w *pluginWatch) scan(ctx context.Context) {
	sockets, wrong, state := w.sockets()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = wrong
	w.state.Store(&state)
	for at, p := range w.plugins {
		if !slices.Contains(sockets, at) {
			p.stop()
			p.drop(&w.memory)
			delete(w.plugins, at)
			w.poke()
		}
	}
	for _, at := range sockets {
		if w.plugins[at] == nil {
			p := w.open(at)
			own, stop := context.WithCancel(ctx)
			p.stop = stop
			w.plugins[at] = p
			w.wg.Go(func() { w.follow(own, p) })
		}
	}
}

func pluginName(at string) string { return strings.TrimSuffix(path.Base(at), path.Ext(at)) }

// sockets looks for plugins below the directory. Links are not followed: who may write a link here could otherwise have the
// probe, which is root, talk to any socket of the host.
func (w *pluginWatch) sockets() (found []string, wrong []*probev1.Collector, state collectorState) {
	root, err := os.OpenRoot(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, collectorState{"off", "no directory " + w.dir}
	}
	if err != nil {
		return nil, nil, collectorState{"failed", "look for plugins: " + err.Error()}
	}
	defer root.Close()
	left, more := maxPluginFiles, 0
	refuse := func(at, why string) {
		if len(wrong) < maxPluginWrong {
			wrong = append(wrong, &probev1.Collector{Name: topology.Printable(at, 200), Label: topology.Printable(pluginName(at), 200), State: "failed", Message: why})
		} else {
			more++
		}
	}
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		d, err := root.Open(dir)
		if err != nil {
			return // gone meanwhile
		}
		entries, _ := d.ReadDir(left + 1)
		d.Close()
		if len(entries) > left {
			entries = entries[:left]
			more++
		}
		left -= len(entries)
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			at := path.Join(dir, e.Name())
			switch t := e.Type(); {
			case t.IsDir():
				if depth < maxPluginDepth {
					walk(at, depth+1)
				}
			case t == fs.ModeSocket:
				found = append(found, at)
			case path.Ext(at) != ".sock": // whatever a plugin keeps beside its socket
			case t == fs.ModeSymlink:
				refuse(at, "is a symbolic link: links are not followed")
			default:
				refuse(at, "is not a socket")
			}
		}
	}
	walk(".", 0)
	names := map[string]bool{}
	found = slices.DeleteFunc(found, func(at string) bool {
		switch name := pluginName(at); {
		case !rePluginName.MatchString(name):
			refuse(at, "the socket's name must be letters and digits with single dashes between them")
		case names[name]:
			refuse(at, "another socket has the same name")
		case len(names) >= maxPlugins:
			more++
		default:
			names[name] = true
			return false
		}
		return true
	})
	if more > 0 {
		return found, wrong, collectorState{"degraded", fmt.Sprintf("only the first %d sockets and %d files are looked at: take some away from %s", maxPlugins, maxPluginFiles, w.dir)}
	}
	return found, wrong, collectorState{"ok", strconv.Itoa(len(found)) + " sockets"}
}

// open makes a plugin of a socket. Nothing is connected yet.
func (w *pluginWatch) open(at string) *plugin {
	p := &plugin{id: pluginName(at), path: at, state: "starting", again: make(chan struct{}, 1)}
	p.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dial(ctx, at) },
			MaxConnsPerHost:    2, // a report and a control
			IdleConnTimeout:    30 * time.Second,
			DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	return p
}

// dial connects to the very file that was looked at: a link that takes its place meanwhile can't lead out of the directory.
func (w *pluginWatch) dial(ctx context.Context, at string) (net.Conn, error) {
	root, err := os.OpenRoot(w.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(at, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Mode().Type() != fs.ModeSocket {
		return nil, errors.New("it is not a socket any more")
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(f.Fd())))
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil, errors.New("nobody listens on the socket: the plugin has ended without taking it away")
	}
	return c, err
}

// follow asks one plugin for its reports until it is gone.
func (w *pluginWatch) follow(ctx context.Context, p *plugin) {
	defer p.http.CloseIdleConnections()
	wait := pluginReportEvery
	for {
		switch err := w.report(ctx, p); {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = min(2*wait, pluginSlowest)
		default:
			wait = pluginReportEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-p.again:
		case <-time.After(wait):
		}
	}
}

// report asks a plugin once.
func (w *pluginWatch) report(ctx context.Context, p *plugin) error {
	p.mu.Lock()
	generation := p.generation
	p.mu.Unlock()
	ctx, stop := context.WithTimeout(ctx, w.timeout)
	defer stop()
	found, spec, err := w.fetch(ctx, p)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no whole report within %v", w.timeout)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.generation == generation {
		err = p.hold(&w.memory, found)
	}
	if err != nil {
		p.state, p.message = "failed", topology.Printable(err.Error(), 400)
		if time.Since(p.at) > pluginKeep {
			_ = p.hold(&w.memory, nil)
		}
		return err
	}
	p.spec, p.at, p.state, p.message = spec, time.Now(), "ok", fmt.Sprintf("brings something to %d nodes", len(found.nodes))
	if found.foreign > 0 {
		p.message += fmt.Sprintf("; %d are not of this host or of a kind that is not shown", found.foreign)
	}
	if found.cut > 0 {
		p.state = "degraded"
		p.message += fmt.Sprintf("; %d things beyond the limits were left out", found.cut)
	}
	return nil
}

// hold takes findings in place of the earlier ones, if all plugins together do not hold too much then. The plugin is locked.
func (p *plugin) hold(memory *atomic.Int64, found *pluginFound) error {
	more := int64(0)
	if found != nil && !p.gone {
		more = int64(found.size)
	}
	if p.found != nil {
		more -= int64(p.found.size)
	}
	if memory.Add(more) > maxPluginMemory && more > 0 {
		memory.Add(-more)
		return fmt.Errorf("the reports of all plugins are larger than %d MB together", maxPluginMemory>>20)
	}
	if p.gone {
		found = nil
	}
	p.found = found
	return nil
}

// drop forgets what a plugin said, for good.
func (p *plugin) drop(memory *atomic.Int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	_ = p.hold(memory, nil)
}

func (w *pluginWatch) fetch(ctx context.Context, p *plugin) (*pluginFound, scope.PluginSpec, error) {
	b, err := w.do(ctx, p, http.MethodGet, "/report", nil)
	if err != nil {
		return nil, scope.PluginSpec{}, err
	}
	w.decode.Lock()
	defer w.decode.Unlock()
	in, err := decodePlugin(b)
	if err != nil {
		return nil, scope.PluginSpec{}, err
	}
	spec, err := handshake(in, p.id)
	if err != nil {
		return nil, spec, err
	}
	return w.translate(p.id, in, len(b), slices.Contains(spec.Interfaces, "controller")), spec, nil
}

// do sends a request to a plugin and reads the answer, up to the limit.
func (w *pluginWatch) do(ctx context.Context, p *plugin, method, route string, body []byte) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: "plugin", Path: route, RawQuery: url.Values{"api_version": {pluginAPIVersion}, "probe_id": {w.probeID}}.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("%s %s: %w", method, route, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return nil, fmt.Errorf("%s %s: the plugin answers %d: %s", method, route, resp.StatusCode, strings.TrimSpace(string(said)))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxPluginReply+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, route, err)
	}
	if len(b) > maxPluginReply {
		return nil, fmt.Errorf("%s %s: the reply is larger than %d MB", method, route, maxPluginReply>>20)
	}
	return b, nil
}

// current lists the plugins whose findings hold, by name.
func (w *pluginWatch) current(now time.Time) []*pluginFound {
	w.mu.Lock()
	list := make([]*plugin, 0, len(w.plugins))
	for _, p := range w.plugins {
		list = append(list, p)
	}
	w.mu.Unlock()
	slices.SortFunc(list, func(a, b *plugin) int { return strings.Compare(a.id, b.id) })
	out := make([]*pluginFound, 0, len(list))
	for _, p := range list {
		p.mu.Lock()
		if p.found != nil && now.Sub(p.at) <= pluginKeep {
			out = append(out, p.found)
		}
		p.mu.Unlock()
	}
	return out
}

// decorate adds to a round what plugins say of its entities. Their own attributes stand first: what is too much for an entity is a
// plugin's.
func (w *pluginWatch) decorate(r *round, now time.Time, controls bool) {
	all := w.current(now)
	for _, f := range all {
		for _, t := range f.templates {
			if len(r.templates) < maxPluginShown {
				r.templates = append(r.templates, t)
			}
		}
	}
	if len(all) == 0 {
		return
	}
	for i, e := range r.entities {
		key, own := decorationKey(e), false
		for _, f := range all {
			n := f.nodes[key]
			if n == nil {
				continue
			}
			if !own { // what has not changed is shared from round to round
				e, own = e.CloneVT(), true
				r.entities[i] = e
			}
			e.Attrs = append(e.Attrs, n.attrs[:max(0, min(len(n.attrs), topology.MaxAttrs-len(e.Attrs)))]...)
			if controls {
				e.Controls = append(e.Controls, n.controls[:max(0, min(len(n.controls), topology.MaxControls-len(e.Controls)))]...)
			}
		}
	}
}

// measure adds the plugins' metrics to a batch.
func (w *pluginWatch) measure(b *batch, now time.Time, wanted func(key string) uint32) {
	names := map[string]bool{}
	for _, f := range w.current(now) {
		for key, n := range f.nodes {
			if len(n.metrics) == 0 {
				continue
			}
			ref := wanted(key)
			for _, m := range n.metrics {
				if names[m.Name] || len(names) < topology.MaxMetricNames/2 {
					names[m.Name] = true
					b.add(ref, m.Name, m.Value)
				}
			}
		}
	}
}

// status is what the probe says of each plugin.
func (w *pluginWatch) status() []*probev1.Collector {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*probev1.Collector
	for _, p := range w.plugins {
		p.mu.Lock()
		c := &probev1.Collector{Name: p.id, Label: p.spec.Label, State: p.state, Message: p.message, Description: p.spec.Description, Interfaces: p.spec.Interfaces}
		p.mu.Unlock()
		if c.Label == "" {
			c.Label = p.id
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *probev1.Collector) int { return strings.Compare(a.Name, b.Name) })
	return append(out, w.wrong...)
}

// pluginRequest is the body of POST /control.
type pluginRequest struct {
	AppID       string            `json:"AppID"`
	NodeID      string            `json:"NodeID"`
	Control     string            `json:"Control"`
	ControlArgs map[string]string `json:"ControlArgs,omitempty"`
}

// control has a plugin do what it offers on an entity.
func (w *pluginWatch) control(ctx context.Context, e *probev1.Entity, verb string, args map[string]string) (any, error) {
	id, control, _ := strings.Cut(verb, "~")
	p := w.byID(id)
	if p == nil {
		return nil, refuse("not_found", "the plugin %s is not here any more", id)
	}
	p.mu.Lock()
	node, label := "", p.spec.Label
	if p.found != nil {
		if n := p.found.nodes[decorationKey(e)]; n != nil && slices.Contains(n.controls, verb) {
			node = n.id
		}
	}
	p.mu.Unlock()
	if node == "" {
		return nil, refuse("conflict", "%s does not offer %s on %s now", label, control, e.Label)
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // ids hold < and >, and not every plugin reads its JSON with a parser
	if err := enc.Encode(pluginRequest{"orchestrator", node, control, args}); err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, pluginControlMax)
	defer stop()
	b, err := w.do(ctx, p, http.MethodPost, "/control", body.Bytes())
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, &refusal{"timeout", fmt.Sprintf("%s did not answer within %v", label, pluginControlMax), "look at the node: it may have been done"}
	}
	if err != nil {
		return nil, refuse("probe_failed", "%s: %s", label, topology.Printable(err.Error(), 400))
	}
	message, shortcut, err := w.response(p, b)
	if err != nil {
		return nil, refuse("probe_failed", "%s: %s", label, topology.Printable(err.Error(), 400))
	}
	p.mu.Lock()
	p.generation++
	if shortcut != nil && p.found != nil {
		if err := p.hold(&w.memory, p.found.with(shortcut)); err != nil {
			p.state, p.message = "degraded", err.Error()
		}
	}
	p.mu.Unlock()
	select {
	case p.again <- struct{}{}: // and see what it says by itself
	default:
	}
	w.poke()
	return done{message}, nil
}

func (w *pluginWatch) byID(id string) *plugin {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.plugins {
		if p.id == id {
			return p
		}
	}
	return nil
}

// response reads the answer to a control.
func (w *pluginWatch) response(p *plugin, b []byte) (message string, shortcut *pluginFound, err error) {
	w.decode.Lock()
	defer w.decode.Unlock()
	var in struct {
		Value          json.RawMessage `json:"value"`
		Error          string          `json:"error"`
		Pipe           string          `json:"pipe"`
		ShortcutReport json.RawMessage `json:"shortcutReport"`
	}
	if len(bytes.TrimSpace(b)) > 0 {
		if err := json.Unmarshal(b, &in); err != nil {
			return "", nil, fmt.Errorf("the reply is not the JSON that it should be: %w", err)
		}
	}
	if in.Error != "" {
		return "", nil, errors.New(in.Error)
	}
	message = "done"
	var text string
	if json.Unmarshal(in.Value, &text) == nil && text != "" {
		message = topology.Printable(text, 400)
	}
	if in.Pipe != "" {
		message += " (the plugin offers a terminal, which is not shown)"
	}
	if len(in.ShortcutReport) > 0 && string(in.ShortcutReport) != "null" {
		report, err := decodePlugin(in.ShortcutReport)
		if err != nil {
			return "", nil, fmt.Errorf("the shortcut report: %w", err)
		}
		shortcut = w.translate(p.id, report, len(b), true)
	}
	return message, shortcut, nil
}

// pluginControlVerb serves the verbs of plugins: those with a "~" in them.
func pluginControlVerb(p *Probe, ctx context.Context, req *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	if p.plugins == nil {
		return nil, refuse("not_found", "this probe has no plugins")
	}
	args := map[string]string{}
	for _, a := range req.Args {
		args[a.Key] = a.Value
	}
	return p.plugins.control(ctx, e, req.Verb, args)
}
