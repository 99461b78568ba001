package executor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
)

// nested is the backend of the default executor: every task is a container below the executor's own, which the agent
// starts, watches and signals on request. Requests outlive a restart of the agent.
type nested struct {
	d    *driver
	spec *spec.Spec
	// sandbox is where the helper itself finds the executor's sandbox.
	sandbox string

	mu         sync.Mutex
	containers map[string]string // task id -> container id
}

func newNested(d *driver, s *spec.Spec, sandbox string) *nested {
	return &nested{d: d, spec: s, sandbox: sandbox, containers: make(map[string]string)}
}

func uuidText() string {
	h := hex.EncodeToString(newUUID())
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

func (n *nested) start(t message.Task) {
	leaf := uuidText()
	cid := n.spec.ContainerID + "." + leaf
	n.mu.Lock()
	n.containers[t.ID] = cid
	n.mu.Unlock()
	ctx, d := n.d.ctx, n.d
	if err := n.link(t.ID, leaf); err != nil {
		// Only those who browse the sandbox by task miss it.
		fmt.Fprintf(os.Stderr, "link the sandbox of task %s: %v\n", t.ID, err)
	}
	go func() {
		res, ok := d.link.ask(ctx, func(no uint64) message.Up {
			return message.Up{Launch: &message.NestedLaunch{Request: no, ContainerID: cid, TaskID: t.ID, Task: t.Raw}}
		})
		switch {
		case !ok:
			return
		case res.Error != "":
			d.tell(ctx, evStartFailed{t.ID, res.Error})
			return
		}
		d.tell(ctx, evStarted{taskID: t.ID})
		res, ok = d.link.ask(ctx, func(no uint64) message.Up {
			return message.Up{Wait: &message.NestedWait{Request: no, ContainerID: cid}}
		})
		if !ok {
			return
		}
		e := end{state: res.State, reason: res.Reason, message: res.Message, limitation: res.Limitation}
		if res.Error != "" {
			e.state, e.message = "TASK_FAILED", "The task's container is lost: "+res.Error
		}
		if res.Status != nil {
			ws := syscall.WaitStatus(*res.Status)
			e.status = &ws
		}
		d.tell(ctx, evEnded{t.ID, e})
	}()
}

// link makes <sandbox>/tasks/<task id> lead to the task's own sandbox, where web interfaces and command lines look.
func (n *nested) link(taskID, leaf string) error {
	root, err := os.OpenRoot(n.sandbox)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir("tasks", 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return root.Symlink(path.Join("..", "containers", leaf), path.Join("tasks", taskID))
}

func (n *nested) container(taskID string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.containers[taskID]
}

func (n *nested) signal(taskID string, sig syscall.Signal) {
	cid := n.container(taskID)
	ctx, d := n.d.ctx, n.d
	go func() {
		// A container that has just ended says so by itself: the answer does not matter.
		d.link.ask(ctx, func(no uint64) message.Up {
			return message.Up{Kill: &message.NestedKill{Request: no, ContainerID: cid, Signal: int(sig)}}
		})
	}()
}

func (n *nested) place() place { return place{run: n.run} }

// run runs a check's command in a container inside its task's.
func (n *nested) run(ctx context.Context, taskID string, c *message.Command) (int32, error) {
	cid := n.container(taskID) + "." + uuidText()
	l := n.d.link
	res, ok := l.ask(ctx, func(no uint64) message.Up {
		return message.Up{Launch: &message.NestedLaunch{Request: no, ContainerID: cid, TaskID: taskID, Command: c}}
	})
	// Whatever happens, it must not stay behind; ctx may have ended already.
	cleanup := func() {
		late, cancel := context.WithTimeout(n.d.ctx, time.Minute)
		defer cancel()
		l.ask(late, func(no uint64) message.Up {
			return message.Up{Kill: &message.NestedKill{Request: no, ContainerID: cid, Signal: int(syscall.SIGKILL)}}
		})
		l.ask(late, func(no uint64) message.Up {
			return message.Up{Wait: &message.NestedWait{Request: no, ContainerID: cid}}
		})
		l.ask(late, func(no uint64) message.Up {
			return message.Up{Remove: &message.NestedRemove{Request: no, ContainerID: cid}}
		})
	}
	if !ok {
		go cleanup()
		return 0, ctx.Err()
	}
	if res.Error != "" {
		return 0, errors.New(res.Error)
	}
	defer func() { go cleanup() }()
	res, ok = l.ask(ctx, func(no uint64) message.Up {
		return message.Up{Wait: &message.NestedWait{Request: no, ContainerID: cid}}
	})
	switch {
	case !ok:
		return 0, fmt.Errorf("the check's command did not end in time: %w", ctx.Err())
	case res.Error != "":
		return 0, errors.New(res.Error)
	case res.Status == nil:
		return 0, errors.New("the check's exit status is unknown")
	}
	if ws := syscall.WaitStatus(*res.Status); ws.Exited() {
		return int32(ws.ExitStatus()), nil
	} else {
		return 128 + int32(ws.Signal()), nil
	}
}
