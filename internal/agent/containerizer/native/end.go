package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/switchboard"
	"github.com/orchestrator/orchestrator/internal/agent/launcher"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// releaseLimit bounds how long the end of a container waits for its cgroup to be empty.
const releaseLimit = 30 * time.Second

// Limits of an end.
const (
	gentle = 3 * time.Second // for the helper to kill its tree and keep the output, before the kernel does it
	// remembered bounds how many ended executors can still be asked about, and their runtime directories kept.
	remembered    = 1024
	rememberedFor = 10 * time.Minute
	// rememberedNested bounds the ended nested and standalone containers that nobody removes. Their sandboxes stay.
	rememberedNested = 4096
)

// Destroy implements containerizer.Containerizer.
func (c *Containerizer) Destroy(ctx context.Context, id ids.Container) error {
	if _, err := c.find(id); err != nil {
		return err
	}
	// Nested ones first, the deepest first: a parent's end would take them along with nothing said of theirs.
	c.mu.Lock()
	var nested []*container
	for cid, ct := range c.containers {
		if strings.HasPrefix(string(cid), string(id)+".") && ct.phase != gone {
			nested = append(nested, ct)
		}
	}
	own := c.containers[id]
	if own == nil {
		c.mu.Unlock()
		return nil
	}
	if own.phase == starting && !own.destroy {
		own.destroy = true
		own.abort(errDestroyed)
	}
	begun := own.destroy
	own.destroy = true
	isRunning := own.phase == running
	c.mu.Unlock()
	if begun || !isRunning && len(nested) == 0 {
		return nil // it is on its way, or already there
	}
	c.wg.Go(func() {
		for _, n := range nested {
			_ = c.Destroy(c.ctx, n.cfg.ID) // gone meanwhile
		}
		for _, n := range nested {
			select {
			case <-n.ended:
			case <-time.After(gentle):
			case <-c.ctx.Done():
				return
			}
		}
		c.kill(own)
	})
	return nil
}

// kill ends a running container: gently through its helper, which keeps what was written, then by force. finish follows.
func (c *Containerizer) kill(ct *container) {
	c.mu.Lock()
	h := ct.helper
	if ct.phase != running || h == nil {
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if err := switchboard.Ask(ct.dir, control.Kill, nil); err == nil {
		select {
		case <-ct.ended:
			return
		case <-time.After(gentle):
		case <-c.ctx.Done():
			return
		}
	}
	if ct.ownGroup {
		ct.group.Kill()
	}
	h.Kill()
}

// killAndWait kills a helper whose launch failed late.
func (c *Containerizer) killAndWait(ct *container, h *launcher.Helper) {
	if ct.ownGroup && ct.group != nil {
		ct.group.Kill()
	}
	h.Kill()
	if err := h.Wait(context.Background()); err != nil {
		c.log.Error("cannot wait for a helper that was killed", "container_id", ct.cfg.ID, "error", err)
	}
}

// finish follows the helper's end: nothing of the container is left when it returns, and Wait knows.
func (c *Containerizer) finish(ct *container) {
	c.mu.Lock()
	if ct.phase >= ending_ {
		c.mu.Unlock()
		return
	}
	ct.phase = ending_
	c.mu.Unlock()
	c.endNested(ct)
	if ct.ownGroup && ct.group.OOMKills() > 0 {
		c.limitMemory(ct) // it ended before the watcher could say so
	}
	var t containerizer.Termination
	var st spec.Status
	c.mu.Lock()
	asked := ct.destroy || ct.why != nil
	c.mu.Unlock()
	switch err := spec.Read(ct.dir, spec.StatusFile, &st); {
	case err == nil && st.Known:
		t.WaitStatus = &st.Status
	case err != nil && !asked:
		said, _ := os.ReadFile(filepath.Join(ct.dir, spec.LogFile))
		c.log.Warn("a container's helper ended without a word", "container_id", ct.cfg.ID, "helper_log", string(said[:min(len(said), 4000)]))
	}
	c.release(ct)
	c.mu.Lock()
	if ct.why != nil {
		status := t.WaitStatus
		t = *ct.why
		t.WaitStatus = status
	}
	c.mu.Unlock()
	c.conclude(ct, t, true)
}

// endNested ends what was nested in a container that has ended by itself.
func (c *Containerizer) endNested(ct *container) {
	c.mu.Lock()
	var nested []*container
	for id, n := range c.containers {
		if strings.HasPrefix(string(id), string(ct.cfg.ID)+".") && n.phase != gone {
			nested = append(nested, n)
		}
	}
	c.mu.Unlock()
	for _, n := range nested {
		_ = c.Destroy(c.ctx, n.cfg.ID) // gone meanwhile
	}
	for _, n := range nested {
		select {
		case <-n.ended:
		case <-time.After(2 * gentle):
			c.log.Warn("a nested container does not end", "container_id", n.cfg.ID)
		case <-c.ctx.Done():
			return
		}
	}
}

// release kills what may be left of a container, removes its cgroup and takes it out of its networks.
func (c *Containerizer) release(ct *container) {
	defer c.dropImages(ct)
	defer c.leave(ct)
	c.mu.Lock()
	group, own := ct.group, ct.ownGroup
	c.mu.Unlock()
	if !own || group == nil {
		c.killMarked(ct)
		return
	}
	pause := time.Millisecond
	for deadline := time.Now().Add(c.releaseLimit); ; pause = min(2*pause, 100*time.Millisecond) {
		// Nearly always nothing is left in it, and to look for it costs more than to remove it.
		err := group.Remove()
		if err == nil {
			return
		}
		if len(group.Procs()) > 0 {
			group.Kill()
		}
		if time.Now().After(deadline) {
			// Processes in uninterruptible sleep: the group goes at the next recovery.
			c.log.Error("a container's cgroup can't be removed", "container_id", ct.cfg.ID, "cgroup", group.Name(), "error", err)
			c.mu.Lock()
			ct.stuck = true
			c.mu.Unlock()
			return
		}
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return
		}
	}
}

// killMarked kills the processes that bear a container's mark: those that a helper which was itself killed has left
// behind, where neither a cgroup nor a PID namespace of the container's own holds them together.
func (c *Containerizer) killMarked(ct *container) {
	var s spec.Spec
	if spec.Read(ct.dir, spec.LaunchFile, &s) == nil && s.NewPID {
		return // they went with the namespace's first process
	}
	var st spec.Status
	if spec.Read(ct.dir, spec.StatusFile, &st) == nil && len(s.Join) == 0 {
		return // the helper lived to the end and left none
	}
	if killAll(c.ctx, c.mark(ct.cfg.ID)) {
		return
	}
	c.log.Error("processes of an ended container can't be killed", "container_id", ct.cfg.ID)
}

// killAll kills the processes that bear a mark; false: not all of them go.
func killAll(ctx context.Context, mark string) bool {
	for range 20 {
		pids := marked(mark)
		if len(pids) == 0 {
			return true
		}
		for _, p := range pids {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return true
		}
	}
	return false
}

// killBearers kills the processes with "NAME=mark" in their environment.
func killBearers(marker string) {
	killAll(context.Background(), strings.TrimPrefix(marker, spec.Marker+"="))
}

// marked finds the processes whose environment bears a mark.
func marked(mark string) []int {
	es, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	want := spec.Marker + "=" + mark
	self := os.Getpid()
	var out []int
	for _, e := range es {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || len(b) == 0 {
			continue
		}
		for _, kv := range strings.Split(string(b), "\x00") {
			if kv == want {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}

// conclude says that a container is gone: on disk first, then to everybody who waits.
func (c *Containerizer) conclude(ct *container, t containerizer.Termination, wrote bool) {
	if wrote {
		if e, err := endingOf(t); err != nil {
			c.log.Error("cannot encode a termination", "container_id", ct.cfg.ID, "error", err)
		} else if err := spec.Write(ct.dir, terminationFile, e); err != nil {
			c.log.Error("cannot write down a termination", "container_id", ct.cfg.ID, "error", err)
		}
	}
	c.metrics.held.Dec()
	c.mu.Lock()
	ct.term, ct.phase, ct.endedAt = t, gone, time.Now()
	c.freeUsers(ct)
	c.freeGPUs(ct)
	if ct.helper != nil {
		ct.helper.Close()
	}
	var old []ids.Container
	if !wrote {
		// A launch that failed was told as an error: nothing is left to ask for.
		delete(c.containers, ct.cfg.ID)
		old = append(old, ct.cfg.ID)
	} else {
		old = c.forget(ct)
	}
	close(ct.ended)
	c.mu.Unlock()
	for _, id := range old {
		c.removeDir(id)
	}
}

// forget remembers a container that has just ended and gives up the oldest ones that nobody will ask about any more.
// The lock is held.
func (c *Containerizer) forget(ct *container) []ids.Container {
	var old []ids.Container
	drop := func(id ids.Container) {
		for cid, n := range c.containers {
			if (cid == id || strings.HasPrefix(string(cid), string(id)+".")) && n.phase == gone {
				delete(c.containers, cid)
				old = append(old, cid)
			}
		}
	}
	if keptAfterEnd(ct.cfg.Kind) {
		c.endedNested = append(c.endedNested, ct.cfg.ID)
		for ; len(c.endedNested) > rememberedNested; c.endedNested = c.endedNested[1:] {
			drop(c.endedNested[0])
		}
		return old
	}
	c.ended = append(c.ended, ct.cfg.ID)
	for len(c.ended) > 0 {
		first := c.containers[c.ended[0]]
		if len(c.ended) <= remembered && first != nil && time.Since(first.endedAt) < rememberedFor {
			break
		}
		drop(c.ended[0])
		c.ended = c.ended[1:]
	}
	return old
}

func (c *Containerizer) removeDir(id ids.Container) {
	if err := os.RemoveAll(c.dir(id)); err != nil {
		c.log.Warn("cannot remove a container's runtime directory", "container_id", id, "error", err)
	}
}

// Remove implements containerizer.Containerizer.
func (c *Containerizer) Remove(_ context.Context, id ids.Container) error {
	c.mu.Lock()
	ct := c.containers[id]
	switch {
	case ct == nil:
		c.mu.Unlock()
		return fmt.Errorf("%w: %s", containerizer.ErrNotFound, id)
	case !keptAfterEnd(ct.cfg.Kind):
		c.mu.Unlock()
		return fmt.Errorf("container %s is an executor's: it goes with its executor", id)
	case ct.phase != gone:
		c.mu.Unlock()
		return fmt.Errorf("container %s is still running", id)
	}
	for cid, n := range c.containers {
		if strings.HasPrefix(string(cid), string(id)+".") && n.phase != gone {
			c.mu.Unlock()
			return fmt.Errorf("container %s is still running in %s", cid, id)
		}
	}
	var ends []*container
	for cid, n := range c.containers {
		if cid == id || strings.HasPrefix(string(cid), string(id)+".") {
			delete(c.containers, cid)
			ends = append(ends, n)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, n := range ends {
		c.removeDir(n.cfg.ID)
		// Sessions and checks work in their parent's sandbox, which is not theirs to delete.
		if n.cfg.Kind == containerizer.Nested || n.cfg.Kind == containerizer.Standalone {
			errs = append(errs, os.RemoveAll(n.cfg.Directory))
		}
	}
	return errors.Join(errs...)
}

// limitDisk ends a container that uses more disk than it has.
func (c *Containerizer) limitDisk(ct *container, used, quota uint64) {
	t := &containerizer.Termination{
		State:      mesosv1.TaskState_TASK_FAILED.Enum(),
		Reason:     mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK.Enum(),
		Message:    fmt.Sprintf("Disk usage (%s) exceeds quota (%s)", bytesText(used), bytesText(quota)),
		Limitation: limitation("disk", float64(used)/(1<<20)),
	}
	c.mu.Lock()
	if ct.why == nil && !ct.destroy && ct.phase == running {
		ct.why = t
		c.metrics.disk.Inc()
	}
	c.mu.Unlock()
	c.kill(ct)
}
