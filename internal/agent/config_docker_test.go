package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer/docker"
	"github.com/orchestrator/orchestrator/internal/config"
)

func TestImageGCConfig(t *testing.T) {
	t.Parallel()
	read := func(text string) (docker.ImageGC, error) {
		var c Config
		c.ImageMaxUnused, c.ImageGC = time.Hour, config.JSON(text)
		return c.dockerImages()
	}
	if gc, err := read(""); err != nil || gc.MaxAge != time.Hour || gc.Headroom != 0.1 || gc.Interval != time.Hour {
		t.Errorf("%+v %v", gc, err)
	}
	gc, err := read(`{"image_disk_headroom":0.5,"image_disk_watch_interval":{"nanoseconds":60000000000},"excluded_images":["a:1",{"type":"DOCKER","docker":{"name":"b:2"}}]}`)
	if err != nil || gc.Headroom != 0.5 || gc.Interval != time.Minute || !slices.Equal(gc.Excluded, []string{"a:1", "b:2"}) {
		t.Errorf("%+v %v", gc, err)
	}
	for _, bad := range []string{`{"image_disk_headroom":2}`, `{"headroom":1}`, `{"image_disk_watch_interval":{"nanoseconds":0}}`, `{"excluded_images":[1]}`, `[`} {
		if _, err := read(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestDockerConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(`{"auths":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{`{"auths":{}}`, file, "file://" + file} {
		if b, err := (&Config{Images: Images{DockerConfig: config.JSON(given)}}).authConfig(); err != nil || string(b) != `{"auths":{}}` {
			t.Errorf("%s: %s %v", given, b, err)
		}
	}
	if _, err := (&Config{Images: Images{DockerConfig: "/no/such"}}).authConfig(); err == nil {
		t.Error("a file that is not there was taken")
	}
}
