package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// DefaultDir is where probes look for plugins.
const DefaultDir = "/var/run/scope/plugins"

// Plugin is what a plugin's author writes: who it is and two functions, which may be called at the same time.
type Plugin struct {
	// ID is letters, digits and single dashes between them. It is also the name of the socket.
	ID, Label, Description string
	// Report tells what the plugin knows. It is called every few seconds and should answer at once.
	Report func(ctx context.Context) (*Report, error)
	// Control does something to a node; nil when the plugin only reports. An error is shown to who asked.
	Control func(ctx context.Context, r Request) (*Response, error)
}

var validID = regexp.MustCompile(`^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$`)

// Validate joins everything that is wrong with the plugin's description.
func (p *Plugin) Validate() error {
	var errs []error
	if !validID.MatchString(p.ID) {
		errs = append(errs, fmt.Errorf("plugin id %q: letters and digits, with single dashes between them", p.ID))
	}
	if p.Label == "" {
		errs = append(errs, errors.New("plugin without a label"))
	}
	if p.Report == nil {
		errs = append(errs, errors.New("plugin without a report: every plugin must have one"))
	}
	return errors.Join(errs...)
}

func (p *Plugin) spec() Spec {
	s := Spec{ID: p.ID, Label: p.Label, Description: p.Description, Interfaces: []string{"reporter"}, APIVersion: APIVersion}
	if p.Control != nil {
		s.Interfaces = append(s.Interfaces, "controller")
	}
	return s
}

// Run listens in a directory of the plugin's own below dir (DefaultDir in production) and serves until ctx ends. It then takes
// the socket away, so that no probe shows a plugin that is not there.
func (p *Plugin) Run(ctx context.Context, dir string) error {
	if err := p.Validate(); err != nil {
		return err
	}
	own := filepath.Join(dir, p.ID)
	if err := os.MkdirAll(own, 0o700); err != nil {
		return fmt.Errorf("make the plugin's directory: %w", err)
	}
	socket := filepath.Join(own, p.ID+".sock")
	if fi, err := os.Lstat(socket); err == nil && fi.Mode()&os.ModeSocket != 0 {
		if c, err := net.DialTimeout("unix", socket, time.Second); err == nil {
			c.Close()
			return fmt.Errorf("a plugin %s is running already: %s answers", p.ID, socket)
		}
		if err := os.Remove(socket); err != nil { // of one that was killed
			return fmt.Errorf("remove the old socket: %w", err)
		}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer os.Remove(own) // when it is empty; closing the listener removes the socket
	srv := &http.Server{
		Handler: p.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	_ = srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// maxRequest bounds what a control may carry.
const maxRequest = 1 << 20

// Handler answers the interface's requests, for who brings a listener of his own.
func (p *Plugin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) {
		rep, err := p.Report(r.Context())
		if err == nil && rep == nil {
			rep = &Report{}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		p.answer(w, p.signed(rep))
	})
	mux.HandleFunc("POST /control", func(w http.ResponseWriter, r *http.Request) {
		if p.Control == nil {
			http.Error(w, "this plugin has no controls", http.StatusNotFound)
			return
		}
		var in Request
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&in); err != nil {
			http.Error(w, "the request can't be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		out, err := p.Control(r.Context(), in)
		if out == nil {
			out = &Response{}
		}
		if err != nil {
			out.Error = err.Error()
		}
		if out.ShortcutReport != nil {
			out.ShortcutReport = p.signed(out.ShortcutReport)
		}
		p.answer(w, out)
	})
	return mux
}

// signed gives a copy of a report that says whose it is.
func (p *Plugin) signed(r *Report) *Report {
	c := *r
	c.Plugins = []Spec{p.spec()}
	return &c
}

func (p *Plugin) answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a number that JSON has no form for
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
