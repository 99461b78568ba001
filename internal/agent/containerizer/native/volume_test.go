package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// mountAt finds the last mount at a path as a process sees it: "<root of the mount> <options> <type>".
func mountAt(t *testing.T, pid int, path string) string {
	t.Helper()
	found := ""
	for _, line := range strings.Split(read(t, "/proc", strconv.Itoa(pid), "mountinfo"), "\n") {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if ok && f[4] == path {
			found = f[3] + " " + f[5] + " " + strings.Fields(after)[0]
		}
	}
	return found
}

// TestVolumeFields has a case per field of Volume, read back from the process's own mount table.
func TestVolumeFields(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	h := newHost(t)
	allowed, hidden := filepath.Join(h.dir, "allowed"), filepath.Join(h.dir, "hidden")
	for _, d := range []string{filepath.Join(allowed, "sub"), hidden} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{filepath.Join(allowed, "file"): "f\n", filepath.Join(hidden, "secret"): "hidden\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(hidden, filepath.Join(allowed, "link")); err != nil {
		t.Fatal(err)
	}
	d := h.start(nil)
	defer d.end()
	d.hostVolume = func(p string) (string, string, error) {
		if rest, ok := strings.CutPrefix(p, allowed+"/"); ok {
			return allowed, rest, nil
		}
		return "", "", fmt.Errorf("refused: %s", p)
	}
	up := d.plain("vp", "exec sleep 1000")
	up.Container = &mesosv1.ContainerInfo{Volumes: []*mesosv1.Volume{{ContainerPath: ptr("shared"), HostPath: ptr(filepath.Join(allowed, "sub")), Mode: mesosv1.Volume_RW.Enum()}}}
	up.Container.Type = mesosv1.ContainerInfo_MESOS.Enum()
	d.launch(up)
	hostPath := func(p string) *mesosv1.Volume_Source {
		return &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_HOST_PATH.Enum(), HostPath: &mesosv1.Volume_Source_HostPath{Path: &p}}
	}
	sandbox := func(kind mesosv1.Volume_Source_SandboxPath_Type, p string) *mesosv1.Volume_Source {
		return &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SANDBOX_PATH.Enum(), SandboxPath: &mesosv1.Volume_Source_SandboxPath{Type: &kind, Path: &p}}
	}
	secret := func(s *mesosv1.Secret) *mesosv1.Volume_Source {
		return &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: s}
	}
	value := secret(&mesosv1.Secret{Type: mesosv1.Secret_VALUE.Enum(), Value: &mesosv1.Secret_Value{Data: []byte("canary-7f3a")}})
	for i, c := range []struct {
		name   string
		volume *mesosv1.Volume
		nested bool
		user   string
		mount  string // what mountAt must contain
		run    string // a command and what it says
		says   string
		err    string
	}{
		{name: "host_path", volume: &mesosv1.Volume{HostPath: ptr(filepath.Join(allowed, "sub"))}, mount: "/allowed/sub rw", run: "touch v/x && echo yes", says: "yes"},
		{name: "mode RO", volume: &mesosv1.Volume{HostPath: ptr(filepath.Join(allowed, "sub")), Mode: mesosv1.Volume_RO.Enum()}, mount: "/allowed/sub ro", run: "touch v/x 2>/dev/null || echo no", says: "no"},
		{name: "a file", volume: &mesosv1.Volume{HostPath: ptr(filepath.Join(allowed, "file"))}, mount: "/allowed/file rw", run: "cat v", says: "f"},
		{name: "host_path in the sandbox", volume: &mesosv1.Volume{HostPath: ptr("inner")}, mount: "/inner rw", run: "touch v/a && ls inner", says: "a"},
		{name: "container_path absolute", volume: &mesosv1.Volume{ContainerPath: ptr("/var/tmp"), HostPath: ptr(".private/tmp")}, mount: "/.private/tmp rw", run: "touch /var/tmp/a && ls .private/tmp", says: "a"},
		{name: "source HOST_PATH", volume: &mesosv1.Volume{Source: hostPath(filepath.Join(allowed, "sub"))}, mount: "/allowed/sub rw"},
		{name: "source SANDBOX_PATH SELF", volume: &mesosv1.Volume{Source: sandbox(mesosv1.Volume_Source_SandboxPath_SELF, "a/b")}, mount: "/a/b rw"},
		{name: "source SANDBOX_PATH PARENT", nested: true, volume: &mesosv1.Volume{Source: sandbox(mesosv1.Volume_Source_SandboxPath_PARENT, "data")}, mount: "/vp/data rw"},
		{name: "PARENT's own volume", nested: true, volume: &mesosv1.Volume{Source: sandbox(mesosv1.Volume_Source_SandboxPath_PARENT, "shared")}, mount: "/allowed/sub rw"},
		{name: "secret", volume: &mesosv1.Volume{ContainerPath: ptr("deep/v"), Source: value}, mount: "ro,", run: "cat deep/v; stat -c ' %a %U %F' deep/v; stat -f -c %T deep/v", says: "canary-7f3a 400 root regular file\ntmpfs"},
		{name: "secret of another user", user: "nobody", volume: &mesosv1.Volume{Source: value}, run: "cat v; id -un", says: "canary-7f3anobody"},
		{name: "secret by reference", volume: &mesosv1.Volume{Source: secret(&mesosv1.Secret{Type: mesosv1.Secret_REFERENCE.Enum(), Reference: &mesosv1.Secret_Reference{Name: ptr("vault")}})}, err: "no resolver"},
		{name: "secret without a value", volume: &mesosv1.Volume{Source: secret(nil)}, err: "no value"},
		{name: "refused by the policy", volume: &mesosv1.Volume{HostPath: ptr("/etc")}, err: "refused: /etc"},
		{name: "refused by the policy, source", volume: &mesosv1.Volume{Source: hostPath("/etc")}, err: "refused: /etc"},
		{name: "a link out of what is allowed", volume: &mesosv1.Volume{HostPath: ptr(filepath.Join(allowed, "link/secret"))}, err: "volume source link/secret"},
		{name: "PARENT without a parent", volume: &mesosv1.Volume{Source: sandbox(mesosv1.Volume_Source_SandboxPath_PARENT, "x")}, err: "no parent"},
		{name: "not there", volume: &mesosv1.Volume{HostPath: ptr(filepath.Join(allowed, "none"))}, err: "no such file"},
		{name: "image", volume: &mesosv1.Volume{Image: &mesosv1.Image{}}, err: "image"},
		{name: "CSI", volume: &mesosv1.Volume{Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_CSI_VOLUME.Enum()}}, err: "CSI_VOLUME are not given"},
		{name: "docker volume", volume: &mesosv1.Volume{Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_DOCKER_VOLUME.Enum()}}, err: "DOCKER_VOLUME are not given"},
		{name: "bidirectional", volume: &mesosv1.Volume{Source: &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_HOST_PATH.Enum(), HostPath: &mesosv1.Volume_Source_HostPath{
			Path: ptr(allowed + "/sub"), MountPropagation: &mesosv1.MountPropagation{Mode: mesosv1.MountPropagation_BIDIRECTIONAL.Enum()},
		}}}, err: "bidirectional"},
	} {
		id := ids.Container(fmt.Sprintf("v%d", i))
		if c.nested {
			id = "vp." + id
		}
		if c.volume.ContainerPath == nil {
			c.volume.ContainerPath = ptr("v")
		}
		if c.volume.Mode == nil {
			c.volume.Mode = mesosv1.Volume_RW.Enum()
		}
		run := c.run
		if run == "" {
			run = "true"
		}
		cfg := d.plain(id, run+"; exec sleep 1000")
		cfg.User = c.user
		cfg.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), Volumes: []*mesosv1.Volume{c.volume}}
		err := d.Launch(t.Context(), cfg)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		pid := d.process(id)
		at := c.volume.GetContainerPath()
		if !filepath.IsAbs(at) {
			at = filepath.Join(cfg.Directory, at)
		}
		if got := mountAt(t, pid, at); got == "" || !strings.Contains(got, c.mount) {
			t.Errorf("%s: mounted is %q, want %q", c.name, got, c.mount)
		}
		if c.says != "" {
			eventually(t, c.name+" says something", func() bool { return strings.TrimSpace(read(t, cfg.Directory, "stdout")) != "" })
			if got := strings.TrimSpace(read(t, cfg.Directory, "stdout")); got != c.says {
				t.Errorf("%s: it says %q, want %q; stderr %q", c.name, got, c.says, read(t, cfg.Directory, "stderr"))
			}
		}
	}
	// A secret's value is in no file of the sandbox and in no paper of the helper.
	for _, dir := range []string{d.sandbox("v9"), d.dir("v9")} {
		_ = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || e.Name() == "stdout" || e.Name() == configFile {
				return nil
			}
			if b, _ := os.ReadFile(p); strings.Contains(string(b), "canary") {
				t.Errorf("%s holds a secret", p)
			}
			return nil
		})
	}
	if b := read(t, "/proc/self/mountinfo"); strings.Contains(b, h.dir) {
		t.Error("a container's mount is seen on the host")
	}
}
