package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Bounds on what an image says of itself.
const (
	maxLayers   = 200 // of descriptors that overlayfs' options have room for
	maxManifest = 8 << 20
	maxConfig   = 16 << 20
)

// source is where images come from.
type source interface {
	parse(image string) (reference, error)
	resolve(ctx context.Context, ref reference, keys credentials) (*manifest, error)
}

// manifest is an image that can be fetched.
type manifest struct {
	digest string // of the manifest for this platform; of the configuration where there is no manifest
	index  string // what the name led to
	config *v1.ConfigFile
	blobs  []blob // the lowest first
}

// blob is a layer to fetch: compressed or not, its first bytes tell.
type blob struct {
	diffID string
	open   func() (io.ReadCloser, error)
}

// newSource understands --docker_registry.
func newSource(cfg Config, rt http.RoundTripper) (source, error) {
	if filepath.IsAbs(cfg.Registry) {
		return &directory{path: cfg.Registry}, nil
	}
	keys, err := parseDockerConfig(cfg.DockerConfig)
	if err != nil {
		return nil, fmt.Errorf("docker_config: %w", err)
	}
	r := &registry{keys: keys}
	if cfg.Registry != "" {
		u, err := url.Parse(cfg.Registry)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("docker_registry %q is neither a URL (https://host) nor an absolute path", cfg.Registry)
		}
		if r.host = registryHost(u.Host); r.host == "index.docker.io" {
			r.host = ""
		}
		r.plain = u.Scheme == "http"
	}
	if rt == nil {
		t := remote.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = cfg.Stall
		t.MaxIdleConnsPerHost = cfg.Parallel
		rt = t
	}
	r.transport = &watchful{base: rt, stall: cfg.Stall}
	return r, nil
}

// registry is the source of images from registries (Docker's and OCI's distribution API).
type registry struct {
	host      string // of names without one; empty: Docker Hub
	plain     bool   // that host speaks HTTP
	keys      credentials
	transport http.RoundTripper
}

func (r *registry) parse(image string) (reference, error) {
	opts := []name.Option{name.WithDefaultTag("latest")}
	if r.host != "" {
		opts = append(opts, name.WithDefaultRegistry(r.host))
	}
	ref, err := name.ParseReference(image, opts...)
	if err != nil {
		return reference{}, fmt.Errorf("image name %q: %w", image, err)
	}
	if r.plain && ref.Context().RegistryStr() == r.host {
		if ref, err = name.ParseReference(image, append(opts, name.Insecure)...); err != nil {
			return reference{}, fmt.Errorf("image name %q: %w", image, err)
		}
	}
	return reference{Reference: ref, given: image}, nil
}

func (r *registry) resolve(ctx context.Context, ref reference, keys credentials) (*manifest, error) {
	if keys == nil {
		keys = r.keys
	}
	desc, err := remote.Get(ref.Reference,
		remote.WithContext(ctx), remote.WithTransport(r.transport), remote.WithAuthFromKeychain(keys),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: .3, Steps: 3}),
	)
	if err != nil {
		return nil, r.explain(ref, err)
	}
	if desc.MediaType.IsSchema1() {
		return nil, fmt.Errorf("image %s has a manifest of Docker's schema 1, which registries gave up: push it again with a current docker", ref.given)
	}
	img, err := desc.Image()
	if err != nil {
		return nil, r.explain(ref, err)
	}
	m := &manifest{index: desc.Digest.String()}
	man, err := img.Manifest()
	if err != nil {
		return nil, r.explain(ref, err)
	}
	if man.Config.Size > maxConfig {
		return nil, fmt.Errorf("image %s: its configuration has %d bytes, limit %d", ref.given, man.Config.Size, maxConfig)
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, r.explain(ref, err)
	}
	m.digest = digest.String()
	if m.config, err = img.ConfigFile(); err != nil {
		return nil, r.explain(ref, err)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, r.explain(ref, err)
	}
	for i, l := range layers {
		b := blob{open: func() (io.ReadCloser, error) {
			rc, err := l.Compressed()
			if err != nil {
				return nil, r.explain(ref, err)
			}
			return rc, nil
		}}
		if i < len(m.config.RootFS.DiffIDs) {
			b.diffID = m.config.RootFS.DiffIDs[i].String()
		}
		m.blobs = append(m.blobs, b)
	}
	return m, m.check(ref.given)
}

// check refuses what no registry should serve.
func (m *manifest) check(image string) error {
	ids := m.config.RootFS.DiffIDs
	switch {
	case len(ids) != len(m.blobs):
		return fmt.Errorf("image %s: its configuration names %d layers, its manifest %d", image, len(ids), len(m.blobs))
	case len(ids) == 0:
		return fmt.Errorf("image %s has no layers", image)
	case len(ids) > maxLayers:
		return fmt.Errorf("image %s has %d layers, limit %d: squash it", image, len(ids), maxLayers)
	case m.config.OS != "" && m.config.OS != "linux":
		return fmt.Errorf("image %s is for %s, this agent runs linux", image, m.config.OS)
	case m.config.Architecture != "" && m.config.Architecture != runtime.GOARCH:
		return fmt.Errorf("image %s is for %s, this agent's processor is %s", image, m.config.Architecture, runtime.GOARCH)
	}
	for _, id := range ids {
		if id.Algorithm != "sha256" || len(id.Hex) != 64 {
			return fmt.Errorf("image %s: layer %s: only sha256 is known", image, id)
		}
	}
	return nil
}

// explain says what a registry's answer means to who asked for the image.
func (r *registry) explain(ref reference, err error) error {
	host := ref.Context().RegistryStr()
	var t *transport.Error
	switch {
	case errors.Is(err, errStalled):
		return fmt.Errorf("image %s: registry %s: %w", ref.given, host, errStalled)
	case errors.As(err, &t) && t.StatusCode == http.StatusUnauthorized, errors.As(err, &t) && t.StatusCode == http.StatusForbidden:
		return fmt.Errorf("image %s: registry %s denies access (%d): the image does not exist, or the credentials of --docker_config or of the image's docker.config do not allow to read it: %w", ref.given, host, t.StatusCode, err)
	case errors.As(err, &t) && t.StatusCode == http.StatusNotFound:
		return fmt.Errorf("image %s: registry %s: %w: check name and tag: %w", ref.given, host, errNoImage, err)
	case errors.As(err, &t) && t.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("image %s: registry %s limits how much may be pulled: try later or with credentials: %w", ref.given, host, err)
	}
	return fmt.Errorf("image %s: registry %s: %w", ref.given, host, err)
}

// errStalled: a registry stopped sending.
var errStalled = errors.New("the transfer has not moved for too long (--fetcher_stall_timeout)")

// watchful ends transfers that do not move, and bounds answers that are no layers.
type watchful struct {
	base  http.RoundTripper
	stall time.Duration
}

func (w *watchful) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(w.stall, func() { cancel(errStalled) })
	why := func(err error) error {
		if errors.Is(context.Cause(ctx), errStalled) {
			return errStalled
		}
		return err
	}
	resp, err := w.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		timer.Stop()
		err = why(err)
		cancel(nil)
		return nil, err
	}
	b := &watchedBody{body: resp.Body, moved: func() { timer.Reset(w.stall) }, why: why, left: -1, end: func() { timer.Stop(); cancel(nil) }}
	if !strings.Contains(req.URL.Path, "/blobs/") && req.URL.Host != "" && strings.Contains(req.URL.Path, "/manifests/") {
		b.left = maxManifest
	}
	resp.Body = b
	return resp, nil
}

type watchedBody struct {
	body  io.ReadCloser
	moved func()
	why   func(error) error
	end   func()
	left  int64 // negative: any
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.moved()
		if b.left >= 0 {
			if b.left -= int64(n); b.left < 0 {
				return 0, fmt.Errorf("a manifest of more than %d bytes", maxManifest)
			}
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.why(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.end()
	return b.body.Close()
}
