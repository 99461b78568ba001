package native

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/agent/image"
	"github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/userns"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// imageRemains counts what containers with images hold of the host.
func imageRemains(h *host, id string) (out []string) {
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), h.dir) {
		out = append(out, "mounts")
	}
	if es, _ := os.ReadDir(filepath.Join(h.dir, "work", "provisioner", "containers")); len(es) > 0 {
		out = append(out, fmt.Sprintf("%d own layers", len(es)))
	}
	es, _ := os.ReadDir("/proc")
	for _, e := range es {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "mountinfo"))
		if err == nil && strings.Contains(string(b), h.dir) {
			out = append(out, "mounts of process "+e.Name())
		}
	}
	return append(out, heldOfHost(h, func(environ string) bool { return strings.Contains(environ, spec.Marker+"="+id) })...)
}

// TestManyImageContainers starts, kills and removes containers with images while things go wrong: images, programs and
// layers that are not there, launches that are given up, helpers and runtimes that are killed half-way, prunes in between.
// Nothing is left of any, and at the end no image is held.
func TestManyImageContainers(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		count := 30
		if s := os.Getenv(soakEnv); s != "" {
			count, _ = strconv.Atoi(s)
		}
		seed := uint64(time.Now().UnixNano())
		if s := os.Getenv(soakEnv + "_SEED"); s != "" {
			seed, _ = strconv.ParseUint(s, 10, 64)
		}
		t.Logf("seed %d", seed)
		r := imagetest.Serve(t)
		var names []string
		for i := range 3 {
			names = append(names, boxImage(t, r, fmt.Sprintf("i%d", i), v1.Config{Cmd: []string{"/bin/sleep", "1000"}}, []imagetest.File{{Name: fmt.Sprint("own", i)}}))
		}
		mark := fmt.Sprintf("im%d-", seed)
		d := h.start(nil, func(c *Config) {
			c.OCIRuntime = oci
			if oci == "" { // the helper gives user namespaces too
				inUsers(c)
				c.Users.Last = c.Users.First + 30*userns.Count - 1
			}
		})
		store := d.images.(*image.Store)
		if before := imageRemains(h, mark); len(before) > 0 {
			t.Fatalf("before anything was started: %v", before)
		}
		var mu sync.Mutex
		started, failed := 0, 0
		var wg sync.WaitGroup
		next := make(chan int)
		for w := range 4 {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			wg.Go(func() {
				for i := range next {
					err := d.oneOfManyImages(rng, ids.Container(mark+fmt.Sprint(i)), names, r.Host, oci)
					mu.Lock()
					if err == nil {
						started++
					} else {
						failed++
					}
					mu.Unlock()
					if i%10 == 9 {
						if _, err := store.Prune(t.Context(), nil); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		for i := range count {
			next <- i
		}
		close(next)
		wg.Wait()
		t.Logf("%d started, %d failed to", started, failed)
		if started == 0 || failed == 0 {
			t.Error("faults and successes should both have happened")
		}
		left := imageRemains(h, mark)
		eventually(t, "nothing is left", func() bool { left = imageRemains(h, mark); return len(left) == 0 })
		if _, err := store.Prune(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if es, _ := os.ReadDir(filepath.Join(h.dir, "store", "layers")); len(es) > 0 {
			t.Errorf("seed %d: layers are held: %v", seed, es)
		}
		d.mu.Lock()
		if oci == "" && slices.Contains(d.users.used, true) {
			t.Errorf("seed %d: ids are held: %v", seed, d.users.used)
		}
		d.mu.Unlock()
		d.end()
	})
}

// oneOfManyImages starts one container, does something to it and sees its end. The error is that of the launch.
func (d *daemon) oneOfManyImages(rng *rand.Rand, id ids.Container, names []string, registry, oci string) error {
	cfg := d.plain(id, "(setsid sleep 1000 &); echo x > /written; sleep 1000")
	cfg.Container = inImage(names[rng.IntN(len(names))])
	if rng.IntN(3) == 0 {
		cfg.Container.Volumes = []*mesosv1.Volume{{ContainerPath: ptr("/v"), Image: dockerImage(names[rng.IntN(len(names))]), Mode: mesosv1.Volume_RW.Enum()}}
	}
	if rng.IntN(3) == 0 {
		cfg.Command = nil // the image's own
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fault := rng.IntN(8)
	switch fault {
	case 0:
		cfg.Command = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/no/such/program")}
	case 1:
		cfg.Container = inImage(registry + "/no/such:image")
	case 2:
		time.AfterFunc(time.Duration(rng.IntN(60))*time.Millisecond, cancel)
	case 3: // whatever makes it is killed half-way
		time.AfterFunc(time.Duration(rng.IntN(60))*time.Millisecond, func() { killUnder(d, id, oci) })
	}
	if err := d.Launch(ctx, cfg); err != nil {
		return err
	}
	switch fault {
	case 4: // the helper is killed
		killUnder(d, id, "")
	case 5: // something is nested in it
		nested := d.plain(id+".n", "sleep 1000")
		nested.Container = inImage(names[0])
		_ = d.Launch(context.Background(), nested)
		_ = d.Destroy(context.Background(), id)
	default:
		_ = d.Destroy(context.Background(), id)
	}
	d.wait(id)
	if err := d.Remove(context.Background(), id); err != nil {
		d.h.t.Errorf("remove %s: %v", id, err)
	}
	return nil
}

// killUnder kills the helper of a container, or the OCI runtime that it has started.
func killUnder(d *daemon, id ids.Container, oci string) {
	es, _ := os.ReadDir("/proc")
	for _, e := range es {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !strings.Contains(string(b), d.dir(id)) {
			continue
		}
		isRuntime := strings.Contains(string(b), "\x00--bundle\x00") || strings.Contains(string(b), "\x00start\x00")
		if (oci != "") != isRuntime {
			continue
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// TestKillAtAnyMomentWithImages kills the agent process, and helpers, at seeded moments of starting and ending containers
// with images. Afterwards every container is running and known, or gone; nothing is left of what is gone, and no image that
// a running one has is deleted.
func TestKillAtAnyMomentWithImages(t *testing.T) {
	t.Parallel()
	runtimes(t, func(t *testing.T, h *host, oci string) {
		seed := uint64(20261126)
		rng := rand.New(rand.NewPCG(seed, 1))
		r := imagetest.Serve(t)
		n := boxImage(t, r, "box", v1.Config{})
		cfg := Config{
			WorkDir: filepath.Join(h.dir, "work"), RuntimeDir: filepath.Join(h.dir, "run"), LinkSocket: filepath.Join(h.dir, "run", "exec.sock"),
			Helper: helperPath, Cgroups: cgroup.Config{Root: h.root}, OCIRuntime: oci,
		}
		for round := range 5 {
			killVictim(t, victimPlan{Config: cfg, Dir: h.dir, Round: round, Image: n}, time.Duration(rng.IntN(400))*time.Millisecond)
		}
		ks := knownOf(h.dir, "", n)
		d := h.start(ks, func(c *Config) { c.OCIRuntime = oci })
		if _, err := d.images.(*image.Store).Prune(t.Context(), nil); err != nil {
			t.Error(err)
		}
		for i, k := range ks {
			ct, err := d.find(k.ID)
			if err != nil {
				continue // checkVictims says so
			}
			d.mu.Lock()
			runs, pid := ct.phase == running, 0
			if ct.helper != nil {
				pid = ct.helper.PID
			}
			d.mu.Unlock()
			if !runs {
				continue
			}
			if i%3 == 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				d.wait(k.ID)
				continue
			}
			if es, _ := os.ReadDir(filepath.Join(h.dir, "store", "layers")); len(es) == 0 {
				t.Errorf("seed %d: the layers of %s, which runs, are gone", seed, k.ID)
			}
		}
		checkVictims(t, h, d, ks, seed)
		if left := imageRemains(h, "k0-"); len(left) > 0 {
			// Containers of an earlier process are not this one's children: the kernel takes a moment.
			eventually(t, fmt.Sprint("nothing is left: ", left), func() bool { return len(imageRemains(h, "k0-")) == 0 })
		}
	})
}
