// Package containerdtest runs a real containerd for tests, with root, state and socket of its own, and removes what it leaves.
package containerdtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// Pause is the image that the runtime keeps a pod's namespaces with.
const Pause = "test.invalid/pause:1"

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 3 * time.Minute

// Runtime is one containerd.
type Runtime struct {
	Socket string
	// Cgroup is a control group for its containers, which is removed with them.
	Cgroup string

	t   testing.TB
	dir string
	cmd *exec.Cmd
	log *os.File
}

// Start runs containerd until the test ends. Where that is impossible the test is skipped, or fails when CI is set.
func Start(t testing.TB) *Runtime {
	t.Helper()
	realpart.Root(t)
	for _, program := range []string{"containerd", "ctr", "containerd-shim-runc-v2", "runc"} {
		realpart.Program(t, program, "containerd")
	}
	dir, err := os.MkdirTemp("", "ct") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	r := &Runtime{Socket: filepath.Join(dir, "s"), Cgroup: "/containerdtest-" + filepath.Base(dir), t: t, dir: dir}
	t.Cleanup(r.close)
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
[grpc]
address = %q
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), r.Socket, Pause)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if r.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	r.Run()
	return r
}

// Run starts containerd, and waits until it answers.
func (r *Runtime) Run() {
	r.t.Helper()
	r.cmd = exec.Command("containerd", "--config", filepath.Join(r.dir, "config.toml"))
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", r.Socket); err == nil {
			c.Close()
			if exec.Command("ctr", "-a", r.Socket, "version").Run() == nil {
				return
			}
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(r.log.Name())
			r.t.Fatalf("containerd did not come up: %s", b[max(0, len(b)-2000):])
		}
	}
}

// Stop ends containerd; its containers run on.
func (r *Runtime) Stop() {
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

// Ctr runs containerd's own tool.
func (r *Runtime) Ctr(args ...string) string {
	r.t.Helper()
	out, err := exec.Command("ctr", append([]string{"-a", r.Socket}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Name makes a name that no other containerd of this machine has: the OCI runtime keeps what it runs in one place for all.
func (r *Runtime) Name(s string) string { return s + "-" + filepath.Base(r.dir) }

// Import makes an image of a busybox that runs a command, in one namespace.
func (r *Runtime) Import(namespace, image string, command ...string) {
	r.t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(dockertest.Layer(r.t, nil))), nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.ConfigFile(img, &v1.ConfigFile{
			OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Cmd: command, Env: []string{"PATH=/bin"}},
			RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(r.t, layer)},
		})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	tag, err := name.NewTag(image)
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.dir, "image.tar")
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		r.t.Fatal(err)
	}
	r.Ctr("-n", namespace, "images", "import", path)
}

func diffIDs(t testing.TB, l v1.Layer) []v1.Hash {
	t.Helper()
	h, err := l.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	return []v1.Hash{h}
}

// Root makes a root file system of a busybox.
func (r *Runtime) Root() string {
	r.t.Helper()
	dir := filepath.Join(r.dir, "fs")
	in := tar.NewReader(bytes.NewReader(dockertest.Layer(r.t, nil)))
	for {
		h, err := in.Next()
		if err != nil {
			return dir
		}
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			var b []byte
			if b, err = io.ReadAll(in); err == nil {
				err = os.WriteFile(path, b, os.FileMode(h.Mode))
			}
		}
		if err != nil && !os.IsExist(err) {
			r.t.Fatal(err)
		}
	}
}

// close ends every container and its supervisor, then containerd.
func (r *Runtime) close() {
	if r.cmd == nil {
		r.Run()
	}
	for _, ns := range strings.Fields(r.Ctr("namespaces", "ls", "-q")) {
		for _, id := range strings.Fields(r.Ctr("-n", ns, "tasks", "ls", "-q")) {
			_ = exec.Command("ctr", "-a", r.Socket, "-n", ns, "tasks", "rm", "-f", id).Run()
		}
		for _, id := range strings.Fields(r.Ctr("-n", ns, "containers", "ls", "-q")) {
			_ = os.RemoveAll(filepath.Join("/run/containerd/runc", ns, id))
			_ = exec.Command("ctr", "-a", r.Socket, "-n", ns, "containers", "rm", id).Run()
		}
	}
	_ = os.Remove("/run/containerd/runc/" + r.Name("jobs"))
	r.Stop()
	r.log.Close()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], r.dir+"/") {
			_ = unix.Unmount(f[1], unix.MNT_DETACH)
		}
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + r.Cgroup)
	for _, top := range append(hierarchies, "/sys/fs/cgroup"+r.Cgroup) {
		removeGroups(top)
	}
	err := os.RemoveAll(r.dir)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); err = os.RemoveAll(r.dir) {
		time.Sleep(10 * time.Millisecond) // a supervisor that ends writes its last words
	}
	if err != nil {
		r.t.Errorf("what containerd left: %v", err)
	}
}

// removeGroups removes a control group and those below it.
func removeGroups(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) { // the kernel takes a moment to empty it
		if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
			return
		}
	}
}
