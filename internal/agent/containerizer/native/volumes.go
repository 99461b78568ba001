package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
)

// volume is one thing to be seen at a path of the container. Source is below SourceRoot, out of which no link may lead;
// with an empty root Source is absolute.
type volume struct {
	path  string     // in the container: relative to the sandbox, or absolute
	mount spec.Mount // with IDMap where its files are the agent's, and belong to the container's users in a user namespace too
	// make: the source is a directory of ours to make when it is not there, for the container's user.
	make bool
	// secret is what the file holds, for a mount of that type.
	secret []byte
}

// errVolume refuses a volume.
func errVolume(v *mesosv1.Volume, why string) error {
	return fmt.Errorf("volume at %q: %s", v.GetContainerPath(), why)
}

// checkVolume says whether a volume can be given at all.
func (c *Containerizer) checkVolume(v *mesosv1.Volume) error {
	if v.GetContainerPath() == "" {
		return errVolume(v, "container_path is empty")
	}
	if _, err := inside(v.GetContainerPath()); !path.IsAbs(v.GetContainerPath()) && err != nil {
		return errVolume(v, err.Error())
	}
	if v.Image != nil {
		if err := c.checkImage(v.GetImage()); err != nil {
			return errVolume(v, err.Error())
		}
		return nil
	}
	switch src := v.GetSource(); {
	case src == nil && v.HostPath == nil:
		return errVolume(v, "neither source nor host_path is set")
	case src == nil:
	case src.GetType() == mesosv1.Volume_Source_SANDBOX_PATH:
		if src.GetSandboxPath() == nil {
			return errVolume(v, "source.sandbox_path is not set")
		}
		if _, err := inside(src.GetSandboxPath().GetPath()); err != nil {
			return errVolume(v, "source.sandbox_path: "+err.Error())
		}
	case src.GetType() == mesosv1.Volume_Source_HOST_PATH:
		if !path.IsAbs(src.GetHostPath().GetPath()) {
			return errVolume(v, "source.host_path must be absolute")
		}
		if src.GetHostPath().GetMountPropagation().GetMode() == mesosv1.MountPropagation_BIDIRECTIONAL {
			return errVolume(v, "bidirectional mount propagation is not given by this containerizer")
		}
	case src.GetType() == mesosv1.Volume_Source_SECRET:
		switch sec := src.GetSecret(); {
		case sec.GetType() == mesosv1.Secret_REFERENCE:
			return errVolume(v, fmt.Sprintf("secret %q is a reference, and this agent has no resolver of secrets; give it as a value", sec.GetReference().GetName()))
		case sec.GetType() != mesosv1.Secret_VALUE || sec.GetValue() == nil:
			return errVolume(v, "source.secret has no value")
		case !c.iso.mount:
			return errVolume(v, "a secret needs a mount namespace, which the agent gives as root only")
		}
	default:
		return errVolume(v, "volumes of type "+src.GetType().String()+" are not given by this containerizer")
	}
	if !c.iso.mount {
		if path.IsAbs(v.GetContainerPath()) {
			return errVolume(v, "an absolute container_path needs a mount namespace, which the agent gives as root only")
		}
		if v.GetMode() == mesosv1.Volume_RO {
			return errVolume(v, "a read-only volume needs a mount namespace, which the agent gives as root only")
		}
	}
	return nil
}

// inside cleans a relative path that must not leave where it starts.
func inside(p string) (string, error) {
	if path.IsAbs(p) {
		return "", errors.New("must be relative")
	}
	c := path.Clean(p)
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", errors.New("must not contain '..'")
	}
	if strings.ContainsRune(c, 0) {
		return "", errors.New("must not contain NUL")
	}
	return c, nil
}

// volumesOf lists what a container sees beside the host's files: its volumes, and the persistent ones among its resources.
// up is the container that it is nested in, or nil.
func (c *Containerizer) volumesOf(cfg *containerizer.Config, up *container) ([]volume, error) {
	var out []volume
	for _, r := range cfg.Resources {
		if r.GetDisk().GetPersistence() == nil || r.GetDisk().GetVolume() == nil {
			continue
		}
		v := r.GetDisk().GetVolume()
		p := v.GetContainerPath()
		if !path.IsAbs(p) {
			var err error
			if p, err = inside(p); err != nil {
				return nil, errVolume(v, err.Error())
			}
		}
		m := spec.Mount{Type: "bind", Source: c.persistentPath(r), RO: v.GetMode() == mesosv1.Volume_RO, IDMap: true}
		out = append(out, volume{path: p, mount: m, make: true})
	}
	for _, v := range cfg.Container.GetVolumes() {
		if err := c.checkVolume(v); err != nil {
			return nil, err
		}
		if v.Image != nil {
			continue // imageVolumeMounts
		}
		var err error
		vol := volume{path: path.Clean(v.GetContainerPath()), mount: spec.Mount{Type: "bind", RO: v.GetMode() == mesosv1.Volume_RO}}
		switch src := v.GetSource(); {
		case src == nil && path.IsAbs(v.GetHostPath()):
			if vol.mount.SourceRoot, vol.mount.Source, err = c.hostVolume(v.GetHostPath()); err != nil {
				return nil, errVolume(v, err.Error())
			}
		case src == nil: // relative: below the sandbox
			rel, err := inside(v.GetHostPath())
			if err != nil {
				return nil, errVolume(v, "host_path: "+err.Error())
			}
			vol.mount.SourceRoot, vol.mount.Source, vol.mount.IDMap, vol.make = cfg.Directory, rel, true, true
		case src.GetType() == mesosv1.Volume_Source_HOST_PATH:
			if vol.mount.SourceRoot, vol.mount.Source, err = c.hostVolume(src.GetHostPath().GetPath()); err != nil {
				return nil, errVolume(v, err.Error())
			}
		case src.GetType() == mesosv1.Volume_Source_SECRET:
			vol.mount = spec.Mount{Type: "secret"}
			vol.secret = src.GetSecret().GetValue().GetData()
		default:
			rel, _ := inside(src.GetSandboxPath().GetPath()) // checked above
			vol.make = true
			if src.GetSandboxPath().GetType() == mesosv1.Volume_Source_SandboxPath_PARENT {
				if up == nil {
					return nil, errVolume(v, "PARENT sandbox: the container has no parent")
				}
				vol.mount = up.resolve(rel, vol.mount)
			} else {
				vol.mount.SourceRoot, vol.mount.Source, vol.mount.IDMap = cfg.Directory, rel, true
			}
		}
		out = append(out, vol)
	}
	return out, nil
}

// resolve finds what is really at a path of this container's sandbox: a volume of its own, which only its processes see
// there, or a plain directory.
func (ct *container) resolve(rel string, m spec.Mount) spec.Mount {
	best := ""
	for p := range ct.volumes {
		if (rel == p || strings.HasPrefix(rel, p+"/")) && len(p) > len(best) {
			best = p
		}
	}
	if best == "" {
		m.SourceRoot, m.Source, m.IDMap = ct.cfg.Directory, rel, true
		return m
	}
	v := ct.volumes[best]
	rest := strings.TrimPrefix(strings.TrimPrefix(rel, best), "/")
	m.RO, m.IDMap = m.RO || v.RO, v.IDMap
	switch {
	case rest == "":
		m.SourceRoot, m.Source = v.SourceRoot, v.Source
	case v.SourceRoot == "":
		m.SourceRoot, m.Source = v.Source, rest
	default:
		m.SourceRoot, m.Source = v.SourceRoot, path.Join(v.Source, rest)
	}
	return m
}

// persistentPath is where a persistent volume's data is: below its disk's root, else below the work directory. A role's
// slashes are written as spaces, as in Mesos.
func (c *Containerizer) persistentPath(r *mesosv1.Resource) string {
	src := r.GetDisk().GetSource()
	if src.GetType() == mesosv1.Resource_DiskInfo_Source_MOUNT && src.GetMount().GetRoot() != "" {
		return c.below(src.GetMount().GetRoot())
	}
	role := r.GetRole()
	if n := len(r.GetReservations()); n > 0 {
		role = r.GetReservations()[n-1].GetRole()
	}
	root := c.cfg.WorkDir
	if src.GetType() == mesosv1.Resource_DiskInfo_Source_PATH && src.GetPath().GetRoot() != "" {
		root = c.below(src.GetPath().GetRoot())
	}
	return filepath.Join(root, "volumes", "roles", strings.ReplaceAll(role, "/", " "), r.GetDisk().GetPersistence().GetId())
}

// below takes a disk's root as it is when absolute, else below the work directory.
func (c *Containerizer) below(root string) string {
	if filepath.IsAbs(root) {
		return root
	}
	return filepath.Join(c.cfg.WorkDir, root)
}

// place makes a volume visible: as a mount of the container's own, or without a mount namespace as a symbolic link in the
// sandbox. It gives the mount, or nil for a link.
func (c *Containerizer) place(v volume, sandbox string, who *credentials, mountNS bool) (*spec.Mount, error) {
	full, isDir, err := v.source(who)
	if err != nil {
		return nil, fmt.Errorf("volume at %q: %w", v.path, err)
	}
	m := v.mount
	if path.IsAbs(v.path) {
		if _, err := os.Stat(v.path); err != nil {
			return nil, fmt.Errorf("volume at %q: an absolute container_path must exist on the host of a container without an image: %w", v.path, err)
		}
		m.Target = v.path
		return &m, nil
	}
	root, err := os.OpenRoot(sandbox)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if dir := path.Dir(v.path); dir != "." {
		if err := mkdirAll(root, dir, who); err != nil {
			return nil, fmt.Errorf("volume at %q: %w", v.path, err)
		}
	}
	if !mountNS {
		err := root.Symlink(full, v.path)
		if errors.Is(err, fs.ErrExist) {
			if to, lerr := root.Readlink(v.path); lerr == nil && to == full {
				err = nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("volume at %q: %w", v.path, err)
		}
		return nil, nil
	}
	if isDir {
		err = mkdirAll(root, v.path, who)
	} else {
		var f *os.File
		if f, err = root.OpenFile(v.path, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("volume at %q: %w", v.path, err)
	}
	m.TargetRoot, m.Target = sandbox, v.path
	return &m, nil
}

// source gives the path on the host of what a volume shows, once it is there. A secret has none, nor has an image.
func (v *volume) source(who *credentials) (full string, isDir bool, err error) {
	switch v.mount.Type {
	case "secret":
		return "", false, nil
	case "image":
		return "", true, nil
	}
	if v.make {
		if err := makeSource(v.mount, who); err != nil {
			return "", false, err
		}
	}
	full = v.mount.Source
	if v.mount.SourceRoot != "" {
		full = filepath.Join(v.mount.SourceRoot, v.mount.Source)
	}
	fi, err := os.Stat(full)
	if err != nil {
		return "", false, fmt.Errorf("its source: %w", err)
	}
	return full, fi.IsDir(), nil
}

// makeSource makes a directory that is ours to make.
func makeSource(m spec.Mount, who *credentials) error {
	if m.SourceRoot == "" {
		_, err := os.Stat(m.Source)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return err
		}
		return who.chown(m.Source)
	}
	root, err := os.OpenRoot(m.SourceRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	return mkdirAll(root, m.Source, who)
}

// mkdirAll makes directories beneath root, the new ones for the container's user.
func mkdirAll(root *os.Root, dir string, who *credentials) error {
	at := ""
	for _, part := range strings.Split(path.Clean(dir), "/") {
		at = path.Join(at, part)
		err := root.Mkdir(at, 0o755)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return err
		}
		if who.change {
			if err := root.Lchown(at, int(who.uid), int(who.gid)); err != nil {
				return err
			}
		}
	}
	return nil
}
