package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer/switchboard"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/proctree"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Limits of an end.
const (
	// gentle is for the helper, through the Engine, to kill the container and keep its output.
	gentle       = 25 * time.Second
	gentleInside = 5 * time.Second
	// releaseWait is how long an end waits for an Engine that does not answer; what is left then goes when it does.
	releaseWait = 30 * time.Second
	// remembered bounds how many ended containers can still be asked about.
	remembered    = 1024
	rememberedFor = 10 * time.Minute
)

// Destroy implements containerizer.Containerizer.
func (c *Containerizer) Destroy(_ context.Context, id ids.Container) error {
	ct, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	begun := ct.destroy
	ct.destroy = true
	if ct.phase == starting && !begun {
		ct.abort(errDestroyed)
	}
	isRunning := ct.phase == running
	c.mu.Unlock()
	if begun || !isRunning {
		return nil // it is on its way, or already there
	}
	c.wg.Go(func() { c.kill(ct) })
	return nil
}

// kill ends a running container: through its helper, which keeps what was written, then by force. finish follows.
func (c *Containerizer) kill(ct *container) {
	if err := switchboard.Ask(ct.dir, control.Kill, nil); err == nil {
		patience := gentle
		if inside(ct.cfg.Kind) {
			patience = gentleInside // what runs has been killed; the helper only waits for somebody to read what it said
		}
		select {
		case <-ct.ended:
			return
		case <-time.After(patience):
		case <-c.ctx.Done():
			return
		}
	}
	ct.helper.Kill() // finish removes the container
}

// follow begins to watch a running container. The lock is held.
func (c *Containerizer) follow(ct *container) {
	c.wg.Go(func() {
		c.place(ct)
		err := ct.helper.Wait(c.ctx)
		if c.ctx.Err() != nil {
			return // the next agent process goes on
		}
		if err != nil {
			c.log.Error("cannot wait for a container's helper", "container_id", ct.cfg.ID, "error", err)
		}
		c.finish(ct)
	})
}

// finish follows the helper's end: the container does not run any more when Wait tells.
func (c *Containerizer) finish(ct *container) {
	c.mu.Lock()
	if ct.phase >= ending {
		c.mu.Unlock()
		return
	}
	ct.phase, ct.made = ending, !inside(ct.cfg.Kind)
	asked := ct.destroy
	c.mu.Unlock()
	c.endInside(ct)
	var t containerizer.Termination
	var st spec.Status
	err := spec.Read(ct.dir, spec.StatusFile, &st)
	switch {
	case err == nil && st.Known:
		t.WaitStatus = &st.Status
	case err != nil && !asked:
		said, _ := os.ReadFile(filepath.Join(ct.dir, spec.LogFile))
		c.log.Warn("a container's helper ended without a word", "container_id", ct.cfg.ID, "helper_log", string(said[:min(len(said), 4000)]))
	}
	if err != nil && inside(ct.cfg.Kind) {
		c.endCommand(ct)
	}
	if w := st.Why; w != nil && !asked {
		c.metrics.oom.Inc()
		t.Message = w.Message
		if v, ok := mesosv1.TaskState_value[w.State]; ok {
			t.State = mesosv1.TaskState(v).Enum()
		}
		if v, ok := mesosv1.TaskStatus_Reason_value[w.Reason]; ok {
			t.Reason = mesosv1.TaskStatus_Reason(v).Enum()
		}
		if len(w.Limitation) > 0 {
			t.Limitation = new(mesosv1.TaskResourceLimitation)
			if t.Limitation.UnmarshalVT(w.Limitation) != nil {
				t.Limitation = nil
			}
		}
	}
	c.release(ct)
	c.conclude(ct, t, true)
}

// endCommand ends a command inside a container whose helper was killed.
func (c *Containerizer) endCommand(ct *container) {
	var cmd spec.DockerCommand
	if spec.Read(ct.dir, spec.ExecFile, &cmd) != nil {
		return // it was never started, or has ended
	}
	fd, err := unix.PidfdOpen(cmd.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	// With the descriptor open: is it the one that was meant?
	if start, err := proctree.StartTime(cmd.PID); err != nil || start != cmd.StartTime {
		return
	}
	if err := proctree.End(fd, cmd.PID); err != nil && !errors.Is(err, unix.ESRCH) {
		c.log.Error("cannot end a command inside a container whose helper is gone", "container_id", ct.cfg.ID, "pid", cmd.PID, "error", err)
	}
}

// endInside ends the commands that ran inside a container.
func (c *Containerizer) endInside(ct *container) {
	c.mu.Lock()
	var in []*container
	for id, n := range c.containers {
		if strings.HasPrefix(string(id), string(ct.cfg.ID)+".") && n.phase != gone {
			in = append(in, n)
		}
	}
	c.mu.Unlock()
	for _, n := range in {
		_ = c.Destroy(c.ctx, n.cfg.ID) // gone meanwhile
	}
	for _, n := range in {
		select {
		case <-n.ended:
		case <-time.After(gentle):
		case <-c.ctx.Done():
			return
		}
	}
}

// release makes sure that nothing of the container runs. Ended ones stay in the Engine for RemoveDelay.
func (c *Containerizer) release(ct *container) {
	c.mu.Lock()
	made, failedStart, group := ct.made, ct.phase == starting, ct.group
	c.mu.Unlock()
	if made {
		deadline, s, remove := time.Now().Add(releaseWait), c.subject(ct), failedStart || c.cfg.RemoveDelay <= 0
		for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
			err := c.putAway(s, remove)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				c.log.Error("a container can't be removed from Docker now; trying again later", "container_id", ct.cfg.ID, "error", err)
				c.wg.Go(func() { c.retry(s, remove) })
				break
			}
			select {
			case <-c.ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
	if group == nil {
		return
	}
	for range 200 {
		if len(group.Procs()) > 0 {
			group.Kill()
		}
		if group.Remove() == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.log.Warn("the control group of a helper can't be removed", "container_id", ct.cfg.ID, "cgroup", group.Name())
}

// conclude says that a container is gone. told: those who wait learn it; else the launch has said so.
func (c *Containerizer) conclude(ct *container, t containerizer.Termination, told bool) {
	c.metrics.held.Dec()
	c.mu.Lock()
	ct.term, ct.phase, ct.endedAt = t, gone, time.Now()
	if ct.helper != nil {
		ct.helper.Close()
	}
	old := []ids.Container{}
	if !told {
		delete(c.containers, ct.cfg.ID)
		old = append(old, ct.cfg.ID)
	} else {
		c.ended = append(c.ended, ct.cfg.ID)
		for len(c.ended) > 0 {
			first := c.containers[c.ended[0]]
			if len(c.ended) <= remembered && first != nil && time.Since(first.endedAt) < rememberedFor {
				break
			}
			if first != nil {
				delete(c.containers, c.ended[0])
				old = append(old, c.ended[0])
			}
			c.ended = c.ended[1:]
		}
	}
	c.mu.Unlock()
	// Secrets go at once, the rest of what is known with the memory of it.
	if err := os.RemoveAll(filepath.Join(ct.dir, "secrets")); err != nil {
		c.log.Error("cannot remove the secrets of an ended container", "container_id", ct.cfg.ID, "error", err)
	}
	for _, id := range old {
		if err := os.RemoveAll(c.dir(id)); err != nil {
			c.log.Warn("cannot remove a container's runtime directory", "container_id", id, "error", err)
		}
	}
	close(ct.ended)
}

// Remove implements containerizer.Containerizer.
func (c *Containerizer) Remove(_ context.Context, id ids.Container) error {
	c.mu.Lock()
	ct := c.containers[id]
	switch {
	case ct == nil:
		c.mu.Unlock()
		return fmt.Errorf("%w: %s", containerizer.ErrNotFound, id)
	case !inside(ct.cfg.Kind):
		c.mu.Unlock()
		return errors.New("container " + string(id) + " is an executor's: it goes with its executor")
	case ct.phase != gone:
		c.mu.Unlock()
		return fmt.Errorf("container %s is still running", id)
	}
	delete(c.containers, id)
	c.mu.Unlock()
	return os.RemoveAll(c.dir(id))
}
