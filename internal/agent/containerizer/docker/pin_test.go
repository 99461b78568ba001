package docker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// TestVolumesStayBeneath: where a policy names the directories that volumes may come from, no link leads the Engine elsewhere.
func TestVolumesStayBeneath(t *testing.T) {
	t.Parallel()
	h := newHost(t, dockertest.Options{})
	d := h.start(nil)
	defer d.end()
	root, secretDir := filepath.Join(h.dir, "allowed"), filepath.Join(h.dir, "not-allowed")
	d.judge = func(p string) (string, string, error) {
		rel, err := filepath.Rel(root, p)
		return root, rel, err
	}
	for _, dir := range []string{filepath.Join(root, "data"), secretDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(filepath.Base(dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"inside": "data", "outside": secretDir, "up": "../not-allowed"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	volumes := func(at string) func(info *mesosv1.ContainerInfo) {
		return func(info *mesosv1.ContainerInfo) {
			info.Volumes = []*mesosv1.Volume{volume("/v", ro, filepath.Join(root, at), nil)}
		}
	}
	parameter := func(key, value string) func(info *mesosv1.ContainerInfo) {
		return func(info *mesosv1.ContainerInfo) { info.Docker.Parameters = []*mesosv1.Parameter{param(key, value)} }
	}
	for name, c := range map[string]struct {
		make func(info *mesosv1.ContainerInfo)
		says string // what is read; empty: it is refused
	}{
		"directory":     {volumes("data"), "data"},
		"link-inside":   {volumes("inside"), "data"},
		"link-outside":  {volumes("outside"), ""},
		"link-up":       {volumes("up"), ""},
		"below-a-link":  {volumes("up/deeper"), ""},
		"file":          {volumes("data/f"), "data"},
		"v":             {parameter("volume", root+"/data:/v:ro"), "data"},
		"v-outside":     {parameter("volume", root+"/outside:/v"), ""},
		"mount":         {parameter("mount", "type=bind,source="+root+"/inside,target=/v"), "data"},
		"mount-outside": {parameter("mount", "type=bind,source="+root+"/up,target=/v"), ""},
		"made":          {volumes("new/deep"), "made"},
	} {
		cfg := d.executor(ids.Container("pin-"+name), "cat /v/f /v 2>/dev/null > /mnt/mesos/sandbox/says; touch /v/x 2>/dev/null; true")
		c.make(cfg.Container)
		err := d.Launch(t.Context(), cfg)
		if c.says == "" {
			if err == nil || !strings.Contains(err.Error(), "volume from "+root) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d.wait(cfg.ID)
		if c.says == "made" {
			if !dirExists(filepath.Join(root, "new/deep")) {
				t.Errorf("%s: the directory was not made", name)
			}
		} else if got := read(t, cfg.Directory, "says"); got != c.says {
			t.Errorf("%s: the container reads %q, want %q", name, got, c.says)
		}
	}
	if left, _ := os.ReadDir(secretDir); len(left) != 1 {
		t.Errorf("something was made where no volume may be: %v", left)
	}
}
