package native

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/confine"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// sandboxInRoot is where a container with an image sees its sandbox (Mesos: --sandbox_directory).
const sandboxInRoot = "/mnt/mesos/sandbox"

// Images is a store of images.
type Images interface {
	// Get gives an image, held until it is released.
	Get(ctx context.Context, name string, dockerConfig []byte, refresh bool) (*image.Image, error)
	// Hold keeps layers of an image that an earlier process got.
	Hold(diffIDs []string) (release func())
	// Dir is where the images' files lie.
	Dir() string
}

// isInside: the container runs in its parent's view of everything.
func isInside(k containerizer.Kind) bool {
	return k == containerizer.Session || k == containerizer.Check
}

// checkImage says whether a container or a volume can be made of an image.
func (c *Containerizer) checkImage(img *mesosv1.Image) error {
	switch {
	case img.GetType() == mesosv1.Image_APPC:
		return errors.New("APPC images are not given by this containerizer: the format was given up in 2020; convert it to a Docker or OCI image")
	case img.GetDocker().GetName() == "":
		return errors.New("image.docker.name is not set")
	case c.images == nil:
		return errors.New("containers with an image need an image store: start the agent with --image_providers=docker, as root")
	case !c.iso.root || !c.iso.mount:
		return errors.New("images need an agent that runs as root with the isolation filesystem/linux")
	}
	_, err := dockerConfig(img)
	return err
}

// dockerConfig is the secret with which an image is fetched.
func dockerConfig(img *mesosv1.Image) ([]byte, error) {
	switch s := img.GetDocker().GetConfig(); {
	case s == nil:
		return nil, nil
	case s.GetType() == mesosv1.Secret_VALUE:
		return s.GetValue().GetData(), nil
	default:
		return nil, fmt.Errorf("image.docker.config: a secret of type %s can't be resolved here: give its value", s.GetType())
	}
}

// getImages fetches the images of a container: its root's and its volumes'.
func (c *Containerizer) getImages(ctx context.Context, ct *container) error {
	info := ct.cfg.Container
	if isInside(ct.cfg.Kind) {
		return nil
	}
	var timed func()
	get := func(img *mesosv1.Image) (*image.Image, error) {
		if timed == nil {
			timed = c.stage(ct, "image")
		}
		config, err := dockerConfig(img)
		if err != nil {
			return nil, err
		}
		got, err := c.images.Get(ctx, img.GetDocker().GetName(), config, img.Cached != nil && !img.GetCached())
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		ct.layers = append(ct.layers, got.DiffIDs...)
		ct.releases = append(ct.releases, got.Release)
		c.mu.Unlock()
		return got, nil
	}
	var err error
	if img := info.GetMesos().GetImage(); img != nil {
		if ct.root, err = get(img); err != nil {
			return err
		}
	}
	for _, v := range info.GetVolumes() {
		if v.GetImage() == nil {
			continue
		}
		got, err := get(v.GetImage())
		if err != nil {
			return errVolume(v, err.Error())
		}
		ct.imageVolumes = append(ct.imageVolumes, got)
	}
	if timed != nil {
		timed()
	}
	return nil
}

// baseLayer lies below all images: it has the mount points that every container needs, so that they need not be made in each
// container's own layer, where making one costs a quarter of a millisecond.
func (c *Containerizer) baseLayer() string {
	return filepath.Join(c.cfg.WorkDir, "provisioner", "base")
}

func (c *Containerizer) makeBaseLayer() error {
	for _, d := range []string{"proc", "sys", "dev", "etc", sandboxInRoot} {
		if err := os.MkdirAll(filepath.Join(c.baseLayer(), d), 0o755); err != nil {
			return fmt.Errorf("make the layer below all images: %w", err)
		}
	}
	for _, f := range etcNames {
		file, err := os.OpenFile(filepath.Join(c.baseLayer(), "etc", f), os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("make the layer below all images: %w", err)
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Containerizer) provisionerDir() string {
	return filepath.Join(c.cfg.WorkDir, "provisioner", "containers")
}

// scratch is where a container's own layers lie: below the work directory, since they are as large as what it writes.
func (c *Containerizer) scratch(ct *container, part string) string {
	return filepath.Join(c.provisionerDir(), string(ct.cfg.ID), part)
}

// makeScratch makes such a directory.
func (c *Containerizer) makeScratch(ct *container, part string) (string, error) {
	dir := c.scratch(ct, part)
	// What an earlier container of the same id left must not shine through.
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return "", fmt.Errorf("make the container's own layer: %w", err)
	}
	return dir, c.shareQuota(ct, dir)
}

// dropImages gives up a container's images and deletes what it wrote into them.
func (c *Containerizer) dropImages(ct *container) {
	c.mu.Lock()
	releases, had := ct.releases, len(ct.layers) > 0
	ct.releases = nil
	c.mu.Unlock()
	if had {
		if err := os.RemoveAll(c.scratch(ct, "")); err != nil {
			c.log.Error("what a container wrote into its image can't be deleted", "container_id", ct.cfg.ID, "error", err)
		}
	}
	for _, r := range releases {
		r()
	}
}

// sweepScratch deletes what containers left that are not held.
func (c *Containerizer) sweepScratch() error {
	es, err := os.ReadDir(c.provisionerDir())
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("list the containers' own layers: %w", err)
	}
	var errs []error
	for _, e := range es {
		c.mu.Lock()
		ct := c.containers[ids.Container(e.Name())]
		held := ct != nil && ct.phase != gone
		c.mu.Unlock()
		if !held {
			errs = append(errs, os.RemoveAll(filepath.Join(c.provisionerDir(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// imageVolumeMounts are the mounts of a container's volumes that are images.
func (c *Containerizer) imageVolumeMounts(ct *container) ([]volume, error) {
	var out []volume
	n := 0
	for _, v := range ct.cfg.Container.GetVolumes() {
		if v.GetImage() == nil {
			continue
		}
		m := spec.Mount{Type: "image", Layers: ct.imageVolumes[n].Layers, RO: v.GetMode() == mesosv1.Volume_RO}
		if !m.RO {
			var err error
			if m.Scratch, err = c.makeScratch(ct, fmt.Sprintf("volume-%d", n)); err != nil {
				return nil, err
			}
		}
		n++
		out = append(out, volume{path: path.Clean(v.GetContainerPath()), mount: m})
	}
	return out, nil
}

// paperRoot writes what the helper is told of a container's image: what it consists of and how it wants to be run.
func (c *Containerizer) paperRoot(ct *container, who *credentials, settings *confine.Settings, s *spec.Spec) error {
	cfg := &ct.cfg
	set := ct.root.Settings
	dir, err := c.makeScratch(ct, "root")
	if err != nil {
		return err
	}
	r := &spec.Root{
		Layers: append(slices.Clone(ct.root.Layers), c.baseLayer()), Scratch: dir, ReadOnly: readOnlyRoot(cfg.Container), Sandbox: sandboxInRoot, WorkingDir: sandboxInRoot,
		Masked: settings.MaskedPaths, ReadOnlyPaths: settings.ReadOnlyPaths, Runtime: c.cfg.OCIRuntime,
		Entrypoint: set.Entrypoint, Cmd: set.Cmd, Devices: c.nodes(ct.devices),
	}
	if set.WorkingDir != "" {
		r.WorkingDir = path.Clean("/" + set.WorkingDir)
	}
	s.Root, s.NewMount = r, true
	s.Process.Dir = r.WorkingDir
	explicit := make(map[string]bool)
	for _, v := range cfg.Command.GetEnvironment().GetVariables() {
		explicit[v.GetName()] = true
	}
	s.Process.Env = imageEnvironment(s.Process.Env, set.Env, explicit)
	// An image may give up root's rights, and nothing else: whose tasks run as whom is the framework's and the agent's.
	if cfg.Command.GetUser() == "" && (!who.change || who.uid == 0) && set.User != "" {
		s.Process.Account = set.User
	}
	files, err := c.etcFiles(ct, settings)
	if err != nil {
		return err
	}
	r.Mounts = append(r.Mounts, spec.Mount{Type: "bind", Source: cfg.Directory, Target: sandboxInRoot, IDMap: true})
	r.Mounts = append(r.Mounts, files...)
	if r.Runtime != "" {
		if r.OCI, err = c.ociConfig(settings, &s.Process, r); err != nil {
			return err
		}
	}
	for _, kv := range cfg.Environment {
		if p, ok := strings.CutPrefix(kv, "MESOS_DOMAIN_SOCKET="); ok && filepath.IsAbs(p) {
			r.Mounts = append(r.Mounts, spec.Mount{Type: "bind", Source: p, Target: p})
		}
	}
	return nil
}

// readOnlyRoot: Mesos has no field for it; docker's own parameter is understood.
func readOnlyRoot(info *mesosv1.ContainerInfo) bool {
	for _, p := range info.GetDocker().GetParameters() {
		if p.GetKey() == "read-only" && p.GetValue() != "false" {
			return true
		}
	}
	return false
}

// imageEnvironment puts an image's variables over the agent's. What the command says itself, and Mesos' own, stay.
func imageEnvironment(env, img []string, explicit map[string]bool) []string {
	out := slices.Clone(env)
	for _, kv := range img {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || explicit[name] || strings.HasPrefix(name, "MESOS_") || strings.HasPrefix(name, "LIBPROCESS_") || name == spec.Marker {
			continue
		}
		i := slices.IndexFunc(out, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		if i < 0 {
			out = append(out, kv)
		} else {
			out[i] = kv
		}
	}
	return out
}

var etcNames = []string{"hosts", "hostname", "resolv.conf"}

// etcFiles are the files by which programs in an image find names: those of the container's network, else the host's, which
// nobody in a container may write.
func (c *Containerizer) etcFiles(ct *container, settings *confine.Settings) ([]spec.Mount, error) {
	if settings.Network == confine.New {
		if _, err := c.networkFiles(ct, settings); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	from := c.networkOf(ct.cfg.ID)
	c.mu.Unlock()
	var out []spec.Mount
	for _, name := range etcNames {
		source := ""
		switch {
		case from != nil:
			source = filepath.Join(from.dir, name)
		case settings.Hostname != "" && name != "resolv.conf":
			text := settings.Hostname + "\n"
			if name == "hosts" {
				hosts, err := os.ReadFile("/etc/hosts")
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return nil, err
				}
				text = strings.TrimRight(string(hosts), "\n") + "\n127.0.1.1 " + text
			}
			source = filepath.Join(ct.dir, name)
			if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
				return nil, fmt.Errorf("write the container's %s: %w", name, err)
			}
		}
		if _, err := os.Stat(source); source == "" || err != nil {
			source = filepath.Join("/etc", name)
		}
		real, err := filepath.EvalSymlinks(source)
		if err != nil {
			continue // the host has none
		}
		out = append(out, spec.Mount{Type: "bind", Source: real, Target: "/etc/" + name, RO: true})
	}
	return out, nil
}

// placeInRoot gives the mount of a volume in a container with an image.
func (c *Containerizer) placeInRoot(v volume, sandbox string, who *credentials) (*spec.Mount, error) {
	if path.IsAbs(v.path) {
		if _, _, err := v.source(who); err != nil {
			return nil, fmt.Errorf("volume at %q: %w", v.path, err)
		}
		m := v.mount
		m.Target = v.path
		return &m, nil
	}
	m, err := c.place(v, sandbox, who, true)
	if err != nil {
		return nil, err
	}
	m.TargetRoot, m.Target = "", path.Join(sandboxInRoot, v.path)
	return m, nil
}

// enterRoot makes a session or check run in the root of the container that it is inside of, as that one's processes do.
func (c *Containerizer) enterRoot(ct, up *container, s *spec.Spec) error {
	var its spec.Spec
	if err := spec.Read(up.dir, spec.LaunchFile, &its); err != nil {
		return fmt.Errorf("read the parent's launch paper: %w", err)
	}
	at := ""
	if its.Root != nil {
		at = spec.RootNamespace(up.helper.PID)
	} else {
		for _, j := range its.Join { // inside of a container that is itself inside
			if j.Kind == "mnt" && isInside(up.cfg.Kind) {
				at = j.Path
			}
		}
		if !strings.HasSuffix(at, spec.RootNamespace(0)[len("/proc/0"):]) {
			return nil
		}
	}
	s.Join = slices.DeleteFunc(s.Join, func(n spec.Namespace) bool { return n.Kind == "mnt" })
	s.Join = append(s.Join, spec.Namespace{Kind: "mnt", Path: at})
	s.Process.Dir, s.Process.Account = its.Process.Dir, its.Process.Account
	if ct.cfg.Command.GetUser() != "" {
		s.Process.Account = ""
	}
	env := make([]string, 0, len(its.Process.Env))
	for _, kv := range its.Process.Env {
		if !strings.HasPrefix(kv, spec.Marker+"=") {
			env = append(env, kv)
		}
	}
	for _, v := range ct.cfg.Command.GetEnvironment().GetVariables() {
		env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, v.GetName()+"=") })
		env = append(env, v.GetName()+"="+v.GetValue())
	}
	s.Process.Env = append(env, spec.Marker+"="+c.mark(ct.cfg.ID))
	return nil
}

// cgroupViews show a container its own control groups, by which programs learn what they may use; nobody in it may write them.
func cgroupViews(dirs map[string]string) []spec.Mount {
	const at = "/sys/fs/cgroup"
	if dir, ok := dirs[""]; ok {
		return []spec.Mount{{Type: "bind", Source: dir, Target: at, RO: true}}
	}
	out := []spec.Mount{{Type: "tmpfs", Target: at, Data: "mode=755,size=64k"}}
	for _, c := range slices.Sorted(maps.Keys(dirs)) {
		out = append(out, spec.Mount{Type: "bind", Source: dirs[c], Target: path.Join(at, c), RO: true})
	}
	return out
}
