package docker

import (
	"context"
	"encoding/base64"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/registry"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// TestImages pulls: with credentials from each place, anew when forced, once for many; and removes what nobody uses.
func TestImages(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	var manifests atomic.Int64
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	open := h.e.Registry(inner, "", "")
	closed := h.e.Registry(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
		}
		inner.ServeHTTP(w, r)
	}), "user", "hunter2")
	stuck := h.e.Registry(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "", "")
	push := func(name string) {
		h.e.Import(open+"/"+name, map[string]string{"etc/marker": name + time.Now().String()})
		h.e.Docker("push", open+"/"+name)
		h.e.Docker("rmi", open+"/"+name)
	}
	for _, name := range []string{"shop/web:1", "shop/web:2", "shop/web:3", "many:1", "kept:1"} {
		push(name)
	}
	auth := func(server string) string {
		return `{"auths":{"` + server + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("user:hunter2")) + `"}}}`
	}
	d := h.start(nil, func(c *Config) { c.PullStall = 2 * time.Second })
	run := func(d *daemon, id ids.Container, image string, change func(ti *mesosv1.TaskInfo)) error {
		ti := &mesosv1.TaskInfo{Command: shell("true"), Container: hostNet()}
		ti.Container.Docker.Image = &image
		if change != nil {
			change(ti)
		}
		if err := d.Launch(t.Context(), d.task(id, ti)); err != nil {
			return err
		}
		d.untilState(id, mesosv1.TaskState_TASK_FINISHED)
		d.wait(id)
		return nil
	}
	if err := run(d, "none", closed+"/shop/web:1", nil); err == nil || !strings.Contains(err.Error(), "pull the image "+closed+"/shop/web:1") || !strings.Contains(strings.ToLower(err.Error()), "auth") {
		t.Errorf("without credentials: %v", err)
	}
	if err := run(d, "missing", open+"/no/such:1", nil); err == nil || !strings.Contains(err.Error(), "pull the image") {
		t.Errorf("missing image: %v", err)
	}
	if err := run(d, "nonsense", "UPPER//case", nil); err == nil {
		t.Error("an invalid name was taken")
	}
	if err := run(d, "stuck", stuck+"/a:1", nil); err == nil || !strings.Contains(err.Error(), "the registry has sent nothing for 2s") {
		t.Errorf("a registry that stalls: %v", err)
	}
	// Credentials that the task has fetched into its sandbox.
	for i, name := range []string{".docker/config.json", ".dockercfg"} {
		file := filepath.Join(h.dir, "creds"+string(rune('0'+i)), filepath.Base(name))
		text := auth(closed)
		if name == ".dockercfg" {
			text = strings.TrimSuffix(strings.TrimPrefix(text, `{"auths":`), "}")
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		image := closed + "/shop/web:" + string(rune('1'+i))
		err := run(d, ids.Container("uri"+string(rune('0'+i))), image, func(ti *mesosv1.TaskInfo) {
			ti.Command.Uris = []*mesosv1.CommandInfo_URI{{Value: ptr("file://" + file), OutputFile: ptr(name)}}
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.end()
	// The agent's own.
	d = h.start(nil, func(c *Config) {
		c.Auth = []byte(auth("https://" + closed + "/v1/"))
		c.Images = ImageGC{MaxAge: time.Hour, Headroom: 0.1, Excluded: []string{open + "/kept:1"}}
	})
	if err := run(d, "flag", closed+"/shop/web:3", nil); err != nil {
		t.Error(err)
	}
	before := manifests.Load()
	if err := run(d, "again", closed+"/shop/web:3", nil); err != nil || manifests.Load() != before {
		t.Errorf("an image that is here was asked for again: %v, %d", err, manifests.Load()-before)
	}
	at := manifests.Load()
	if err := run(d, "forced", closed+"/shop/web:3", func(ti *mesosv1.TaskInfo) { ti.Container.Docker.ForcePullImage = ptr(true) }); err != nil || manifests.Load() == at {
		t.Errorf("force_pull_image did not ask: %v", err)
	}
	// Many at once pull once.
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { errs <- d.pull(context.Background(), open+"/many:1", "") }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := run(d, "kept", open+"/kept:1", nil); err != nil {
		t.Error(err)
	}
	// What is in use stays, what is excluded stays, what others brought stays; the rest goes when its time is over.
	ti := &mesosv1.TaskInfo{Command: shell("sleep 1000"), Container: hostNet()}
	ti.Container.Docker.Image = ptr(closed + "/shop/web:1")
	d.launch(d.task("user", ti))
	empty := func() float64 { return 0 }
	if gone, err := d.collectImages(t.Context(), time.Now().Add(50*time.Minute), empty); err != nil || len(gone) != 0 {
		t.Errorf("before its time: %v %v", gone, err)
	}
	if gone, err := d.collectImages(t.Context(), time.Now().Add(56*time.Minute), empty); err != nil || len(gone) != 2 {
		t.Errorf("after 1 h × (1 − 0.1): %v %v", gone, err)
	}
	if left := h.e.Docker("images", "--format", "{{.Repository}}:{{.Tag}}"); strings.Contains(left, "web:2") || strings.Contains(left, "web:3") ||
		!strings.Contains(left, "web:1") || !strings.Contains(left, "kept:1") || !strings.Contains(left, box) {
		t.Errorf("images left: %s", left)
	}
	_ = d.Destroy(t.Context(), "user")
	d.wait("user")
	d.end()
	// A new process remembers what its forerunner pulled; on a full disk all of it goes at once.
	d = h.start(nil, func(c *Config) { c.Images = ImageGC{MaxAge: time.Hour} })
	if gone, err := d.collectImages(t.Context(), time.Now().Add(57*time.Minute), func() float64 { return 1 }); err != nil || len(gone) != 2 {
		t.Errorf("on a full disk: %v %v", gone, err)
	}
	if left := h.e.Docker("images", "--format", "{{.Repository}}:{{.Tag}}"); strings.Contains(left, "web") || !strings.Contains(left, box) {
		t.Errorf("images left: %s", left)
	}
	d.end()
}

// TestAuth finds the entry of a registry under every name that is in use for it.
func TestAuth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ image, file, want string }{
		{"busybox", `{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"p"}}}`, `{"username":"u","password":"p","serveraddress":"docker.io"}`},
		{"busybox", `{"https://index.docker.io/v1/":{"auth":"dTpw"}}`, `{"username":"u","password":"p","serveraddress":"docker.io"}`},
		{"reg.example:5000/a/b:1", `{"auths":{"reg.example:5000":{"identitytoken":"t"}}}`, `{"serveraddress":"reg.example:5000","identitytoken":"t"}`},
		{"reg.example/a", `{"auths":{"https://reg.example/v2/":{"auth":"dTpwOnE="}}}`, `{"username":"u","password":"p:q","serveraddress":"reg.example"}`},
		{"reg.example/a", `{"auths":{"other.example":{"auth":"dTpw"}}}`, ``},
		{"reg.example/a", ``, ``},
	} {
		ref, err := reference.ParseNormalizedNamed(c.image)
		if err != nil {
			t.Fatal(err)
		}
		d := &Containerizer{cfg: Config{Auth: []byte(c.file)}}
		got, err := d.authFor(t.Context(), ref, t.TempDir())
		if err != nil {
			t.Errorf("%s: %v", c.image, err)
		}
		if b, _ := base64.URLEncoding.DecodeString(got); string(b) != c.want {
			t.Errorf("%s with %s: %s, want %s", c.image, c.file, b, c.want)
		}
	}
	for _, bad := range []string{`{"auths":{"r.example":{"auth":"%"}}}`, `{"auths":{"r.example":{"auth":"dQ=="}}}`, `{"credHelpers":{"r.example":"../../bin/sh"}}`} {
		ref, _ := reference.ParseNormalizedNamed("r.example/a")
		d := &Containerizer{cfg: Config{Auth: []byte(bad)}}
		if _, err := d.authFor(t.Context(), ref, t.TempDir()); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestCredentialHelper asks a program, as docker does.
func TestCredentialHelper(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get r.example' ] || { echo credentials not found in native keychain; exit 1; }\necho '{\"Username\":\"u\",\"Secret\":\"s\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-fake"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	d := &Containerizer{cfg: Config{Auth: []byte(`{"credsStore":"fake"}`)}}
	for image, want := range map[string]string{"r.example/a": `{"username":"u","password":"s","serveraddress":"r.example"}`, "busybox": ""} {
		ref, _ := reference.ParseNormalizedNamed(image)
		got, err := d.authFor(t.Context(), ref, t.TempDir())
		if b, _ := base64.URLEncoding.DecodeString(got); err != nil || string(b) != want {
			t.Errorf("%s: %s %v", image, b, err)
		}
	}
}
