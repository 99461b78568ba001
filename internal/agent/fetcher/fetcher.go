package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Config is the fetcher's configuration. The names in brackets are Mesos' flags.
type Config struct {
	// FrameworksHome is where relative local paths begin [frameworks_home].
	FrameworksHome string
	// CacheDir holds the cache [fetcher_cache_dir]; it is emptied at the start.
	CacheDir string
	// CacheBytes is the cache's size [fetcher_cache_size]; 0: 2 GB.
	CacheBytes int64
	// StallTimeout gives a transfer up when nothing arrives for so long [fetcher_stall_timeout]; 0: 1 min.
	StallTimeout time.Duration
	// MaxBytes bounds one file, and what one archive unpacks to; 0: 64 GiB.
	MaxBytes int64
	// MaxEntries bounds the entries of one archive; 0: 1,000,000.
	MaxEntries int
	// AllowLinkLocal lets tasks fetch from link-local addresses, where clouds serve credentials.
	AllowLinkLocal bool
}

// Deps are what the fetcher needs from others.
type Deps struct {
	Log      *slog.Logger
	Registry prometheus.Registerer
	// Transport replaces the HTTP transport in tests.
	Transport http.RoundTripper
}

// Request is the fetching for one container.
type Request struct {
	Directory string // the sandbox
	User      string // whose cache entries are used
	// UID and GID own what is fetched; -1: the agent's own user does.
	UID, GID int
	Groups   []uint32
	URIs     []*mesosv1.CommandInfo_URI
}

// Fetcher fetches.
type Fetcher struct {
	cfg     Config
	log     *slog.Logger
	client  *http.Client
	cache   *cache
	metrics *metrics
	// ratioFloor is how much may come out of an archive whatever its size.
	ratioFloor int64
}

// maxURIs bounds one container's list.
const maxURIs = 1000

// New empties the cache and makes the fetcher.
func New(cfg Config, deps Deps) (*Fetcher, error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 2 << 30
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = time.Minute
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 64 << 30
	}
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = 1_000_000
	}
	f := &Fetcher{cfg: cfg, log: deps.Log, metrics: newMetrics(deps.Registry), ratioFloor: ratioFloor}
	if deps.Transport == nil {
		deps.Transport = transport(cfg)
	}
	f.client = &http.Client{Transport: deps.Transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
			return fmt.Errorf("redirect to scheme %q", r.URL.Scheme)
		}
		return nil
	}}
	if cfg.CacheDir != "" {
		if err := os.RemoveAll(cfg.CacheDir); err != nil {
			return nil, fmt.Errorf("empty the fetcher's cache: %w", err)
		}
		if err := os.MkdirAll(cfg.CacheDir, 0o700); err != nil {
			return nil, fmt.Errorf("make the fetcher's cache: %w", err)
		}
		f.cache = newCache(cfg.CacheDir, cfg.CacheBytes, f.metrics)
	}
	return f, nil
}

// Fetch brings all URIs, in order, into the sandbox. What went wrong is also in the sandbox's stderr, for the task's owner.
func (f *Fetcher) Fetch(ctx context.Context, r Request) error {
	if len(r.URIs) > maxURIs {
		return fmt.Errorf("%d URIs, limit %d", len(r.URIs), maxURIs)
	}
	root, err := os.OpenRoot(r.Directory)
	if err != nil {
		return fmt.Errorf("open the sandbox: %w", err)
	}
	defer root.Close()
	for _, u := range r.URIs {
		started := time.Now()
		name, err := f.one(ctx, root, &r, u)
		if err != nil {
			f.metrics.fetches.WithLabelValues("failed").Inc()
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			err = fmt.Errorf("failed to fetch '%s': %w", clip(redact(u.GetValue())), err)
			f.note(root, &r, err.Error())
			return err
		}
		f.metrics.fetches.WithLabelValues("done").Inc()
		f.note(root, &r, fmt.Sprintf("Fetched '%s' to '%s' in %s", clip(redact(u.GetValue())), name, time.Since(started).Round(time.Millisecond)))
	}
	return nil
}

// note writes a line into the sandbox's stderr.
func (f *Fetcher) note(root *os.Root, r *Request, line string) {
	w, err := root.OpenFile("stderr", os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		f.log.Warn("cannot write to a sandbox's stderr", "error", err)
		return
	}
	defer w.Close()
	if fi, err := w.Stat(); err != nil || !fi.Mode().IsRegular() {
		return
	}
	if r.UID >= 0 {
		_ = w.Chown(r.UID, r.GID)
	}
	_, _ = fmt.Fprintln(w, line)
}

// one fetches one URI and gives the name it has in the sandbox.
func (f *Fetcher) one(ctx context.Context, root *os.Root, r *Request, u *mesosv1.CommandInfo_URI) (string, error) {
	src, err := f.parse(u.GetValue())
	if err != nil {
		return "", err
	}
	name := src.name
	if out := u.GetOutputFile(); out != "" {
		if name, err = inside(out); err != nil {
			return "", fmt.Errorf("output_file %q %w", clip(out), err)
		}
	}
	unpackable := u.GetExtract() && !u.GetExecutable() && archiveOf(name) != notArchive

	var from *os.File
	if u.GetCache() && f.cache != nil {
		e, err := f.cache.get(ctx, r.User+"\x00"+u.GetValue(), func(ctx context.Context, w *os.File, reserve func(int64) error) error {
			return f.transfer(ctx, src, r, w, reserve)
		})
		switch {
		case errors.Is(err, errTooLargeForCache):
			// It goes to the sandbox directly.
		case err != nil:
			return "", err
		default:
			defer f.cache.release(e)
			if from, err = os.Open(e.path); err != nil {
				return "", err
			}
			defer from.Close()
			if unpackable {
				return name, f.unpack(ctx, root, r, from, name)
			}
		}
	}
	if err := f.place(ctx, root, r, src, from, name, u.GetExecutable()); err != nil {
		return "", err
	}
	if !unpackable {
		return name, nil
	}
	a, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer a.Close()
	return name, f.unpack(ctx, root, r, a, name)
}

// place writes the file into the sandbox under a temporary name and then renames it: a task never sees half of it.
func (f *Fetcher) place(ctx context.Context, root *os.Root, r *Request, src *source, from *os.File, name string, executable bool) (err error) {
	if err := mkdirAll(root, path.Dir(name), r); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(name), ".fetch-"+path.Base(name))
	if len(path.Base(tmp)) > 255 {
		tmp = path.Join(path.Dir(name), ".fetch")
	}
	_ = root.Remove(tmp)
	w, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(tmp)
		}
	}()
	if from != nil {
		_, err = io.Copy(w, io.LimitReader(from, f.cfg.MaxBytes+1))
	} else {
		err = f.transfer(ctx, src, r, w, nil)
	}
	mode := fs.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	if err == nil {
		err = w.Chmod(mode)
	}
	if err == nil && r.UID >= 0 {
		err = w.Chown(r.UID, r.GID)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return root.Rename(tmp, name)
}

// source is a parsed URI.
type source struct {
	url  *url.URL // http and https
	path string   // local
	name string   // the last part of its path
}

// parse understands a URI as Mesos does: with scheme, or a local path.
func (f *Fetcher) parse(v string) (*source, error) {
	if strings.TrimSpace(v) == "" || strings.ContainsRune(v, 0) {
		return nil, errors.New("the URI is empty or malformed")
	}
	scheme, rest, ok := strings.Cut(v, "://")
	s := &source{}
	switch {
	case !ok:
		s.path = v
	case scheme == "file":
		// file:///path and file://localhost/path.
		s.path = strings.TrimPrefix(rest, "localhost")
		if !strings.HasPrefix(s.path, "/") {
			return nil, errors.New("a file URI must hold an absolute path: file:///path")
		}
	case scheme == "http" || scheme == "https":
		u, err := url.Parse(v)
		if err != nil || u.Host == "" {
			return nil, errors.New("the URI is malformed")
		}
		s.url = u
		s.name = path.Base(u.Path)
	default:
		return nil, fmt.Errorf("scheme %q is not supported: http, https and file are", clip(scheme))
	}
	if s.url == nil {
		if !filepath.IsAbs(s.path) {
			if f.cfg.FrameworksHome == "" {
				return nil, errors.New("a relative path needs the agent's flag frameworks_home")
			}
			rel, err := inside(s.path)
			if err != nil {
				return nil, fmt.Errorf("the path %w", err)
			}
			s.path = filepath.Join(f.cfg.FrameworksHome, rel)
		}
		s.name = filepath.Base(s.path)
	}
	if s.name == "" || s.name == "." || s.name == "/" || s.name == ".." {
		return nil, errors.New("the URI has no file name at its end")
	}
	if len(s.name) > 255 {
		return nil, errors.New("the file name is longer than 255 bytes")
	}
	return s, nil
}

// inside cleans a path that must stay below where it starts.
func inside(p string) (string, error) {
	c := path.Clean(p)
	switch {
	case path.IsAbs(p):
		return "", errors.New("must be relative")
	case c == "." || c == ".." || strings.HasPrefix(c, "../"):
		return "", errors.New("leads out of the sandbox")
	case strings.ContainsRune(c, 0):
		return "", errors.New("contains NUL")
	}
	return c, nil
}

// mkdirAll makes directories beneath the sandbox, the new ones for the task's user.
func mkdirAll(root *os.Root, dir string, r *Request) error {
	if dir == "." {
		return nil
	}
	at := ""
	for _, part := range strings.Split(dir, "/") {
		at = path.Join(at, part)
		err := root.Mkdir(at, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil && r.UID >= 0 {
			err = root.Lchown(at, r.UID, r.GID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// redact hides a password in a URI.
func redact(v string) string {
	if u, err := url.Parse(v); err == nil && u.User != nil {
		return u.Redacted()
	}
	return v
}

func clip(s string) string {
	if len(s) > 1000 {
		return s[:1000] + "…"
	}
	return s
}
