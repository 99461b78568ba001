package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is the store's configuration. The names in brackets are Mesos' flags.
type Config struct {
	// Dir holds the layers and records [docker_store_dir]. It is the store's own.
	Dir string
	// Registry is where names without a host are looked up [docker_registry]: a URL, or the absolute path of a directory
	// with archives and layouts; empty: Docker Hub.
	Registry string
	// DockerConfig is the content of a docker config.json with credentials [docker_config]; nil for none.
	DockerConfig []byte
	// Stall ends a transfer that has not moved for so long; 0: 1 min.
	Stall time.Duration
	// Parallel bounds the layers fetched and unpacked at one time; 0: 4.
	Parallel int
	// MaxLayerBytes bounds what one layer unpacks to; 0: 64 GB.
	MaxLayerBytes int64
	// Collect says when images go that nobody uses.
	Collect Policy
}

// Policy says when images that nobody uses are deleted.
type Policy struct {
	// Headroom is the share of the disk to keep free [image_gc_config.image_disk_headroom].
	Headroom float64
	// Interval is how often the disk is looked at [image_gc_config.image_disk_watch_interval].
	Interval time.Duration
	// MaxUnused deletes images that have not been used for so long, however empty the disk is; 0: never.
	MaxUnused time.Duration
	// Excluded are names of images that are never deleted [image_gc_config.excluded_images].
	Excluded []string
}

// Deps are what tests swap. All may be zero.
type Deps struct {
	Log       *slog.Logger
	Registry  prometheus.Registerer
	Transport http.RoundTripper
	// Usage tells the used share of the disk that holds a directory.
	Usage func(dir string) (float64, error)
	Now   func() time.Time
}

// Store is a store of images on one directory. Only one may be open on it.
type Store struct {
	cfg     Config
	log     *slog.Logger
	deps    Deps
	metrics *metrics
	source  source
	slots   chan struct{}

	images flights[*record]
	pulls  flights[*layer]

	mu     sync.Mutex
	byName map[string]*record // by normalized reference
	layers map[string]*layer  // by diff id
	held   map[string]int     // holders by diff id
	next   uint64             // number of the next layer's directory
}

// record is an image on disk: the file images/<hash of its name>.json.
type record struct {
	Name     string    `json:"name"`   // normalized
	Digest   string    `json:"digest"` // of the manifest for this platform
	Index    string    `json:"index"`  // what the name led to; the same, or the digest of an index
	DiffIDs  []string  `json:"diff_ids"`
	Settings Settings  `json:"settings"`
	Pulled   time.Time `json:"pulled"`
	used     time.Time // on disk: the time of the file
}

// layer is an unpacked layer: the directory layers/<number> with a file layer.json and a tree fs.
type layer struct {
	DiffID string `json:"diff_id"`
	Bytes  int64  `json:"bytes"` // of its files
	Files  int    `json:"files"`
	dir    string
}

// Settings are what an image says about how it wants to be run.
type Settings struct {
	Env        []string `json:"env,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"`
}

// Image is an image that is held: its layers stay until it is released.
type Image struct {
	Name     string
	Digest   string
	Settings Settings
	// DiffIDs name the layers, the lowest first.
	DiffIDs []string
	// Layers are the directories of the layers, the uppermost first, as overlayfs wants them.
	Layers []string

	release func()
}

// Release gives up the hold. It may be called more than once.
func (i *Image) Release() { i.release() }

const (
	imagesDir  = "images"
	layersDir  = "layers"
	stagingDir = "staging"
	layerFile  = "layer.json"
	treeDir    = "fs"
)

// Open opens a store and removes what a crash left half done.
func Open(cfg Config, deps Deps) (*Store, error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Usage == nil {
		deps.Usage = diskUsage
	}
	if cfg.Stall == 0 {
		cfg.Stall = time.Minute
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 4
	}
	if cfg.MaxLayerBytes == 0 {
		cfg.MaxLayerBytes = 64 << 30
	}
	s := &Store{
		cfg: cfg, log: deps.Log, deps: deps, metrics: newMetrics(deps.Registry), slots: make(chan struct{}, cfg.Parallel),
		byName: make(map[string]*record), layers: make(map[string]*layer), held: make(map[string]int),
	}
	var err error
	if s.source, err = newSource(cfg, deps.Transport); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(s.path(stagingDir)); err != nil {
		return nil, fmt.Errorf("clean the image store: %w", err)
	}
	for _, d := range []string{"", imagesDir, layersDir, stagingDir} {
		// 0700: the set-user-id programs of images are for containers only.
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("make the image store: %w", err)
		}
	}
	if err := s.loadLayers(); err != nil {
		return nil, err
	}
	if err := s.loadRecords(); err != nil {
		return nil, err
	}
	s.measure()
	return s, nil
}

// Dir is where the store lies.
func (s *Store) Dir() string { return s.cfg.Dir }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, parts...)...)
}

func (s *Store) loadLayers() error {
	es, err := os.ReadDir(s.path(layersDir))
	if err != nil {
		return fmt.Errorf("read the image store: %w", err)
	}
	for _, e := range es {
		var n uint64
		if _, err := fmt.Sscanf(e.Name(), "%d", &n); err != nil {
			continue // not ours
		}
		s.next = max(s.next, n+1)
		l := &layer{dir: s.path(layersDir, e.Name())}
		if err := readJSON(filepath.Join(l.dir, layerFile), l); err != nil || s.layers[l.DiffID] != nil {
			s.log.Warn("deleting a damaged image layer", "directory", l.dir, "err", err)
			if err := os.RemoveAll(l.dir); err != nil {
				return fmt.Errorf("delete a damaged layer: %w", err)
			}
			continue
		}
		s.layers[l.DiffID] = l
	}
	return nil
}

func (s *Store) loadRecords() error {
	es, err := os.ReadDir(s.path(imagesDir))
	if err != nil {
		return fmt.Errorf("read the image store: %w", err)
	}
	for _, e := range es {
		r := &record{}
		path := s.path(imagesDir, e.Name())
		err := readJSON(path, r)
		if err == nil && !s.complete(r) {
			err = errors.New("some of its layers are missing")
		}
		if fi, ierr := e.Info(); ierr == nil {
			r.used = fi.ModTime()
		}
		if err != nil {
			s.log.Warn("forgetting a damaged image", "image", r.Name, "err", err)
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("forget a damaged image: %w", err)
			}
			continue
		}
		s.byName[r.Name] = r
	}
	return nil
}

// complete: all layers are there. Called with the lock, or before anybody else knows the store.
func (s *Store) complete(r *record) bool {
	for _, d := range r.DiffIDs {
		if s.layers[d] == nil {
			return false
		}
	}
	return true
}

// hold makes an Image of a record whose layers are there. The lock is held.
func (s *Store) hold(r *record) *Image {
	s.touch(r)
	img := &Image{Name: r.Name, Digest: r.Digest, Settings: r.Settings, DiffIDs: r.DiffIDs}
	for i := len(r.DiffIDs) - 1; i >= 0; i-- {
		img.Layers = append(img.Layers, filepath.Join(s.layers[r.DiffIDs[i]].dir, treeDir))
	}
	img.release = s.holdLayers(r.DiffIDs)
	return img
}

// touch notes that an image is used now.
func (s *Store) touch(r *record) {
	r.used = s.deps.Now()
	// Lost, it would only be collected sooner.
	_ = os.Chtimes(s.path(imagesDir, recordFile(r.Name)), time.Time{}, r.used)
}

// holdLayers keeps layers, there or to come, until the function that it gives is called. The lock is held.
func (s *Store) holdLayers(diffIDs []string) (release func()) {
	for _, d := range diffIDs {
		s.held[d]++
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, d := range diffIDs {
				if s.held[d]--; s.held[d] == 0 {
					delete(s.held, d)
				}
			}
			for _, r := range s.byName {
				if len(r.DiffIDs) == len(diffIDs) && r.DiffIDs[len(r.DiffIDs)-1] == diffIDs[len(diffIDs)-1] {
					s.touch(r) // its age counts from the end of its last use
				}
			}
		})
	}
}

// Hold keeps the layers of a container that an earlier process started. It is called before the first collection.
func (s *Store) Hold(diffIDs []string) (release func()) {
	if len(diffIDs) == 0 {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holdLayers(diffIDs)
}

// Get gives an image, held. What is there already is not fetched again unless refresh says that the name may lead to
// another image by now. config is the content of a docker config.json with credentials for this image alone, or nil.
// Ending ctx gives up, unless others wait for the same.
func (s *Store) Get(ctx context.Context, image string, config []byte, refresh bool) (*Image, error) {
	ref, err := s.source.parse(image)
	if err != nil {
		return nil, err
	}
	keys, err := parseDockerConfig(config)
	if err != nil {
		return nil, fmt.Errorf("image %s: its docker config: %w", image, err)
	}
	if !refresh {
		if img := s.cached(ref.Name()); img != nil {
			return img, nil
		}
	}
	key := ref.Name()
	if keys != nil {
		key += "\n" + string(config) // others' credentials must not serve this one's
	}
	for try := 0; ; try++ {
		r, joined, err := s.images.do(ctx, key, func(ctx context.Context) (*record, error) { return s.pull(ctx, ref, keys) })
		if err != nil {
			if joined && try < 2 && ctx.Err() == nil && errors.Is(err, context.Canceled) {
				continue // whoever had begun gave up
			}
			return nil, err
		}
		s.mu.Lock()
		if s.complete(r) {
			img := s.hold(r)
			s.mu.Unlock()
			return img, nil
		}
		s.mu.Unlock()
		if try == 2 {
			return nil, fmt.Errorf("image %s: its layers were deleted while it was being fetched", image)
		}
	}
}

func (s *Store) cached(key string) *Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byName[key]
	if r == nil || !s.complete(r) {
		return nil
	}
	s.metrics.hits.Inc()
	return s.hold(r)
}

// save writes a record down and makes its name known.
func (s *Store) save(r *record) error {
	if err := writeJSON(s.path(imagesDir), recordFile(r.Name), r); err != nil {
		return fmt.Errorf("write down image %s: %w", r.Name, err)
	}
	s.mu.Lock()
	s.byName[r.Name] = r
	s.mu.Unlock()
	s.measure()
	return nil
}

// Images lists what is there, by name.
func (s *Store) Images() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(s.byName))
	for n := range s.byName {
		out = append(out, n)
	}
	return out
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// writeJSON replaces a file so that a crash leaves the old or the new one.
func writeJSON(dir, file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // without effect once renamed
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), filepath.Join(dir, file)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove deletes a file that may have gone already.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reference is a name that has been understood.
type reference struct {
	name.Reference
	given string // as it was given
}
