package docker

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/mount"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// errVolume refuses a volume.
func errVolume(v *mesosv1.Volume, why string) error {
	return fmt.Errorf("volume at %q: %s", v.GetContainerPath(), why)
}

// within cleans a relative path that must not leave where it starts.
func within(p string) (string, error) {
	c := path.Clean(p)
	if path.IsAbs(c) || c == ".." || strings.HasPrefix(c, "../") || strings.ContainsRune(c, 0) {
		return "", errors.New("must be a relative path without '..'")
	}
	return c, nil
}

// target is where a container sees a volume: relative paths are in the sandbox.
func target(v *mesosv1.Volume) (string, error) {
	p := v.GetContainerPath()
	switch {
	case p == "":
		return "", errVolume(v, "container_path is empty")
	case strings.ContainsRune(p, 0):
		return "", errVolume(v, "container_path has a NUL")
	case path.IsAbs(p):
		return path.Clean(p), nil
	}
	rel, err := within(p)
	if err != nil {
		return "", errVolume(v, "container_path "+err.Error())
	}
	return path.Join(sandboxInContainer, rel), nil
}

// volumes adds the sandbox, the volumes of the container, and the persistent ones among its resources.
func (c *Containerizer) volumes(p *plan, cfg *containerizer.Config) error {
	p.bindOurs(cfg.Directory, sandboxInContainer, false)
	for _, v := range cfg.Container.GetVolumes() {
		at, err := target(v)
		if err != nil {
			return err
		}
		if err := c.volume(p, cfg, v, at); err != nil {
			return err
		}
	}
	for _, r := range cfg.Resources {
		v := r.GetDisk().GetVolume()
		if r.GetDisk().GetPersistence() == nil || v == nil {
			continue
		}
		at, err := target(v)
		if err != nil {
			return err
		}
		source := c.persistentPath(r)
		p.dirs = append(p.dirs, source)
		p.bindOurs(source, at, v.GetMode() == mesosv1.Volume_RO)
	}
	return nil
}

func (c *Containerizer) volume(p *plan, cfg *containerizer.Config, v *mesosv1.Volume, at string) error {
	ro := v.GetMode() == mesosv1.Volume_RO
	driver := cfg.Container.GetDocker().GetVolumeDriver()
	inSandbox := func(rel string) error {
		rel, err := within(rel)
		if err != nil {
			return errVolume(v, "its source "+err.Error())
		}
		if !path.IsAbs(v.GetContainerPath()) {
			return errVolume(v, "both paths are relative: it is in the sandbox already")
		}
		p.makes = append(p.makes, rel)
		p.bindOurs(filepath.Join(cfg.Directory, rel), at, ro)
		return nil
	}
	if v.Image != nil {
		return errVolume(v, "volumes from images are not given by the docker containerizer")
	}
	src := v.GetSource()
	switch {
	case src == nil && v.HostPath == nil:
		// As `docker run -v PATH`: a volume of the container's own, which goes with it.
		p.anonymous(at, ro)
	case src == nil && path.IsAbs(v.GetHostPath()):
		p.bind(path.Clean(v.GetHostPath()), at, ro, "")
	case src == nil && driver != "":
		p.named(v.GetHostPath(), driver, nil, at, ro)
	case src == nil:
		return inSandbox(v.GetHostPath())
	case src.GetType() == mesosv1.Volume_Source_HOST_PATH:
		host := src.GetHostPath().GetPath()
		if !path.IsAbs(host) {
			return errVolume(v, "source.host_path must be absolute")
		}
		var propagation mount.Propagation
		switch src.GetHostPath().GetMountPropagation().GetMode() {
		case mesosv1.MountPropagation_HOST_TO_CONTAINER:
			propagation = mount.PropagationRSlave
		case mesosv1.MountPropagation_BIDIRECTIONAL:
			propagation = mount.PropagationRShared
		}
		p.bind(path.Clean(host), at, ro, propagation)
	case src.GetType() == mesosv1.Volume_Source_SANDBOX_PATH:
		if src.GetSandboxPath().GetType() == mesosv1.Volume_Source_SandboxPath_PARENT {
			return errVolume(v, "PARENT sandbox: the container has no parent")
		}
		return inSandbox(src.GetSandboxPath().GetPath())
	case src.GetType() == mesosv1.Volume_Source_DOCKER_VOLUME:
		d := src.GetDockerVolume()
		if d.GetName() == "" {
			return errVolume(v, "source.docker_volume.name is empty")
		}
		opts := map[string]string{}
		for _, x := range d.GetDriverOptions().GetParameter() {
			opts[x.GetKey()] = x.GetValue()
		}
		p.named(d.GetName(), d.GetDriver(), opts, at, ro)
	case src.GetType() == mesosv1.Volume_Source_SECRET:
		data, err := secretValue(src.GetSecret())
		if err != nil {
			return errVolume(v, err.Error())
		}
		name := filepath.Join("secrets", fmt.Sprint(len(p.secrets)))
		p.secrets = append(p.secrets, secretFile{name, data})
		p.bindOurs(filepath.Join(c.dir(cfg.ID), name), at, true)
	default:
		return errVolume(v, "volumes of type "+src.GetType().String()+" are not given by the docker containerizer")
	}
	return nil
}

// anonymous adds a volume of the container's own, which goes with it. sign gives it a name.
func (p *plan) anonymous(at string, ro bool) {
	p.host().Mounts = append(p.host().Mounts, mount.Mount{Type: mount.TypeVolume, Target: at, ReadOnly: ro})
}

// named adds a volume that Docker or a driver of its keeps.
func (p *plan) named(name, driver string, opts map[string]string, at string, ro bool) {
	m := mount.Mount{Type: mount.TypeVolume, Source: name, Target: at, ReadOnly: ro}
	if driver != "" || len(opts) > 0 {
		m.VolumeOptions = &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: driver, Options: opts}}
	}
	p.host().Mounts = append(p.host().Mounts, m)
}

// persistentPath is where a persistent volume's data is: below its disk's root, else below the work directory. A role's
// slashes are written as spaces, as in Mesos.
func (c *Containerizer) persistentPath(r *mesosv1.Resource) string {
	root, src := c.cfg.WorkDir, r.GetDisk().GetSource()
	of := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(c.cfg.WorkDir, p)
	}
	switch {
	case src.GetType() == mesosv1.Resource_DiskInfo_Source_MOUNT && src.GetMount().GetRoot() != "":
		return of(src.GetMount().GetRoot())
	case src.GetType() == mesosv1.Resource_DiskInfo_Source_PATH && src.GetPath().GetRoot() != "":
		root = of(src.GetPath().GetRoot())
	}
	role := r.GetRole()
	if n := len(r.GetReservations()); n > 0 {
		role = r.GetReservations()[n-1].GetRole()
	}
	return filepath.Join(root, "volumes", "roles", strings.ReplaceAll(role, "/", " "), r.GetDisk().GetPersistence().GetId())
}
