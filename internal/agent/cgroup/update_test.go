package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSetDevices replaces the program of a real group of version 2: what is allowed afterwards is what the new rules say, more or less.
func TestSetDevices(t *testing.T) {
	t.Parallel()
	base := unifiedMount(t)
	dev := t.TempDir()
	for name, minor := range map[string]uint32{"zero": 5, "full": 7} {
		if err := unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatal(err)
		}
	}
	g := &Group{m: &Manager{host: Host{V2: base}, cfg: Config{Controllers: []string{"devices"}}}, dir: filepath.Join(base, fmt.Sprintf("orchestrator-test-set-%d", os.Getpid()))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(g.dir); err != nil {
			t.Error(err)
		}
	})
	if err := g.limitDevices2([]string{"c 1:3 rw"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ rule, want string }{{"c 1:5 r", "zero"}, {"c 1:* r", "full zero"}, {"c 1:7 r", "full"}, {"c 1:9 r", ""}} {
		if err := g.SetDevices([]string{"c 1:3 rw", c.rule}); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", fmt.Sprintf(`echo $$ > %s/cgroup.procs; cd %s; for d in full zero; do (: < $d) 2>/dev/null && echo $d; done; true`, g.dir, dev)).Output()
		if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != c.want {
			t.Errorf("with %q: %q can be opened, want %q (%v)", c.rule, got, c.want, err)
		}
	}
}
