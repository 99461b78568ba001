package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/docker"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/config"
)

// Images are the settings about container images.
type Images struct {
	ImageProviders  []string      `flag:"image_providers" default:"docker" help:"Image formats of the mesos containerizer: docker (Docker's and OCI's). Images need an agent that runs as root."`
	DockerRegistry  string        `flag:"docker_registry" default:"https://registry-1.docker.io" help:"Registry of images whose name has no host; http:// for one without TLS. An absolute path: a directory with archives of docker save and OCI layouts, as <name>:<tag>.tar, <name>.tar, or the layout's directory <name>."`
	DockerConfig    config.JSON   `flag:"docker_config" help:"Content of a config.json with credentials for registries: JSON, or file:///path. With Docker a task's own .docker/config.json or .dockercfg, fetched into its sandbox, goes first."`
	DockerStoreDir  string        `flag:"docker_store_dir" help:"Directory of fetched and unpacked images. Unset: <work_dir>/store/docker."`
	ImageGC         config.JSON   `flag:"image_gc_config" help:"When unused images are deleted: {\"image_disk_headroom\":0.1,\"image_disk_watch_interval\":{\"nanoseconds\":3600000000000},\"excluded_images\":[…]}. Beyond 1 - headroom the longest unused go first. Unset: as in this example."`
	ImageMaxUnused  time.Duration `flag:"image_gc_max_unused" env:"-" default:"4weeks" help:"Delete images that have not been used for so long, however empty the disk is; 0: never."`
	ProvisionerBack string        `flag:"image_provisioner_backend" ignored:"images are always mounted with overlayfs" help:"How root file systems are made of layers."`
	SandboxDir      string        `flag:"sandbox_directory" default:"/mnt/mesos/sandbox" ignored:"it is always /mnt/mesos/sandbox" help:"Where containers with an image see their sandbox."`
	OCIRuntime      string        `flag:"oci_runtime" env:"-" help:"Program that makes containers with an image: crun, runc, or a path. Unset: the agent's own helper, which starts them faster."`
}

// imagePolicy is --image_gc_config.
func (c *Config) imagePolicy() (image.Policy, error) {
	p := image.Policy{Headroom: 0.1, Interval: time.Hour, MaxUnused: c.ImageMaxUnused}
	if strings.TrimSpace(string(c.ImageGC)) == "" {
		return p, nil
	}
	var gc struct {
		Headroom *float64 `json:"image_disk_headroom"`
		Interval *struct {
			Nanoseconds int64 `json:"nanoseconds"`
		} `json:"image_disk_watch_interval"`
		Excluded []json.RawMessage `json:"excluded_images"`
	}
	d := json.NewDecoder(strings.NewReader(string(c.ImageGC)))
	d.DisallowUnknownFields()
	if err := d.Decode(&gc); err != nil {
		return p, err
	}
	if gc.Headroom != nil {
		p.Headroom = *gc.Headroom
	}
	if gc.Interval != nil {
		p.Interval = time.Duration(gc.Interval.Nanoseconds)
	}
	for _, raw := range gc.Excluded {
		// A name, or Mesos' Image message.
		var name string
		if json.Unmarshal(raw, &name) != nil {
			var i struct {
				Docker struct {
					Name string `json:"name"`
				} `json:"docker"`
			}
			if err := json.Unmarshal(raw, &i); err != nil || i.Docker.Name == "" {
				return p, fmt.Errorf("excluded_images: %s is neither a name nor an image with docker.name", raw)
			}
			name = i.Docker.Name
		}
		p.Excluded = append(p.Excluded, name)
	}
	if !(p.Headroom >= 0 && p.Headroom <= 1) {
		return p, fmt.Errorf("image_disk_headroom %v is not between 0.0 and 1.0", p.Headroom)
	}
	if p.Interval <= 0 {
		return p, errors.New("image_disk_watch_interval must be positive")
	}
	return p, nil
}

// dockerImages is the same policy for the images that the docker containerizer has pulled.
func (c *Config) dockerImages() (docker.ImageGC, error) {
	p, err := c.imagePolicy()
	gc := docker.ImageGC{MaxAge: p.MaxUnused, Headroom: p.Headroom, Interval: p.Interval, Excluded: p.Excluded}
	if gc.MaxAge == 0 {
		gc.MaxAge = 10 * 365 * 24 * time.Hour // only a full disk makes them go
	}
	return gc, err
}

// authConfig is the content of --docker_config. A plain path is taken too.
func (c *Config) authConfig() ([]byte, error) {
	text := strings.TrimSpace(string(c.DockerConfig))
	if text == "" || strings.HasPrefix(text, "{") {
		return []byte(text), nil
	}
	b, err := os.ReadFile(strings.TrimPrefix(text, "file://"))
	if err != nil {
		return nil, fmt.Errorf("it is neither a JSON object nor a file that can be read: %w", err)
	}
	return b, nil
}

func (c *Config) validateImages(p *config.Problems) {
	for _, name := range c.ImageProviders {
		if !strings.EqualFold(name, "docker") {
			p.Addf("image_providers", "%q is not given here; known is docker, which takes OCI images too", name)
		}
	}
	_, err := c.imagePolicy()
	p.Check("image_gc_config", err)
	if c.ImageMaxUnused < 0 {
		p.Addf("image_gc_max_unused", "must not be negative")
	}
}

// ociRuntime finds --oci_runtime; empty: none is used.
func (c *Config) ociRuntime() (string, error) {
	if c.OCIRuntime == "" {
		return "", nil
	}
	path, err := exec.LookPath(c.OCIRuntime)
	if err != nil {
		return "", fmt.Errorf("oci_runtime: %w; install it, or leave the flag out", err)
	}
	return filepath.Abs(path)
}

// openImages opens the image store; nil: there is none.
func (a *Agent) openImages() (*image.Store, error) {
	c := &a.cfg
	if os.Geteuid() != 0 || !slices.ContainsFunc(c.ImageProviders, func(s string) bool { return strings.EqualFold(s, "docker") }) {
		return nil, nil
	}
	policy, err := c.imagePolicy()
	if err != nil {
		return nil, fmt.Errorf("image_gc_config: %w", err)
	}
	auth, err := c.authConfig()
	if err != nil {
		return nil, fmt.Errorf("docker_config: %w", err)
	}
	dir := c.DockerStoreDir
	if dir == "" {
		dir = filepath.Join(c.WorkDir, "store", "docker")
	}
	return image.Open(
		image.Config{Dir: dir, Registry: c.DockerRegistry, DockerConfig: auth, Stall: c.FetcherStall, Collect: policy},
		image.Deps{Log: a.log, Registry: a.deps.Metrics.Registerer()},
	)
}

// excludedNames are the names of the images of a PRUNE_IMAGES call.
func excludedNames(list []*mesosv1.Image) ([]string, error) {
	var out []string
	for _, i := range list {
		if i.GetType() != mesosv1.Image_DOCKER {
			continue // there are none of others
		}
		if i.GetDocker().GetName() == "" {
			return nil, errors.New("an excluded image has no docker.name")
		}
		out = append(out, i.GetDocker().GetName())
	}
	return out, nil
}
