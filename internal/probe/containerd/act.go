package containerd

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	containerdv1 "github.com/orchestrator/orchestrator/api/containerd/v1"
	criv1 "github.com/orchestrator/orchestrator/api/cri/v1"
)

const tasks = "/containerd.services.tasks.v1.Tasks/"

// LogPath says where on the host the runtime writes the log of a container of Kubernetes. "": nowhere.
func (c *Client) LogPath(ctx context.Context, id string) (string, error) {
	var out criv1.ContainerStatusResponse
	if err := c.conn.call(ctx, "/runtime.v1.RuntimeService/ContainerStatus", "", &criv1.ContainerStatusRequest{ContainerId: id}, &out); err != nil {
		return "", fmt.Errorf("ask for the log's place: %w", err)
	}
	return out.GetStatus().GetLogPath(), nil
}

// StopKube has the runtime stop a container of Kubernetes: its own signal first, and after the grace period the end. The runtime
// keeps its log and its state; Kubernetes may start another in its place.
func (c *Client) StopKube(ctx context.Context, id string, grace time.Duration) error {
	in := &criv1.StopContainerRequest{ContainerId: id, Timeout: int64(grace.Seconds())}
	if err := c.conn.call(ctx, "/runtime.v1.RuntimeService/StopContainer", "", in, &criv1.Empty{}); err != nil {
		return fmt.Errorf("stop the container: %w", err)
	}
	return nil
}

// Stop ends a container's task: SIGTERM to its first process, and SIGKILL to all when that has not ended after the grace period.
// The container itself stays; who made it may delete it, or give it another task. killed says which of the two it was.
func (c *Client) Stop(ctx context.Context, namespace, id string, grace time.Duration) (killed bool, err error) {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	var waited error // when over
	go func() {
		defer close(over)
		waited = c.conn.call(wctx, tasks+"Wait", namespace, &containerdv1.TaskRequest{ContainerId: id}, &containerdv1.Empty{})
	}()
	kill := func(signal syscall.Signal, all bool) error {
		in := &containerdv1.KillRequest{ContainerId: id, Signal: uint32(signal), All: all}
		if err := c.conn.call(ctx, tasks+"Kill", namespace, in, &containerdv1.Empty{}); err != nil {
			return fmt.Errorf("send %v: %w", signal, err)
		}
		return nil
	}
	if err := kill(syscall.SIGTERM, false); err != nil {
		cancel()
		<-over
		return false, err
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-over:
		return false, ended(waited)
	case <-patience.C:
	}
	if err := kill(syscall.SIGKILL, true); err != nil && !Gone(err) {
		cancel()
		<-over
		return true, err
	}
	<-over
	return true, ended(waited)
}

// ended takes a task that was deleted while it was waited for as one that has ended.
func ended(err error) error {
	if err == nil || Gone(err) {
		return nil
	}
	return fmt.Errorf("wait for its end: %w", err)
}

// Pause stops a container's processes where they are; Resume lets them go on.
func (c *Client) Pause(ctx context.Context, namespace, id string) error {
	return c.conn.call(ctx, tasks+"Pause", namespace, &containerdv1.TaskRequest{ContainerId: id}, &containerdv1.Empty{})
}

// Resume is the other way round.
func (c *Client) Resume(ctx context.Context, namespace, id string) error {
	return c.conn.call(ctx, tasks+"Resume", namespace, &containerdv1.TaskRequest{ContainerId: id}, &containerdv1.Empty{})
}

// codeNotFound is gRPC's: what was asked for is not there.
const codeNotFound = 5

// Gone reports whether the runtime has no such container, or no task of it, any more.
func Gone(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == codeNotFound
}
