package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/client"
)

// pulls are the pulls under way: whoever wants the same image with the same credentials waits for the one.
type pulls struct {
	mu      sync.Mutex
	running map[string]*pull
}

type pull struct {
	done   chan struct{}
	err    error
	cancel context.CancelFunc
	users  int // launches that wait; the last one to give up ends the pull
}

// ensureImage makes sure that the image is in the Engine, and gives its id.
func (c *Containerizer) ensureImage(ctx context.Context, ct *container, p *plan) (string, error) {
	if id, ok := strings.CutPrefix(p.image, "sha256:"); ok && len(id) == 64 {
		p.force = false // an id is what it is
	}
	if !p.force {
		id, err := c.lookAt(ctx, p)
		if err == nil {
			c.images.used(id, time.Now())
			return id, nil
		}
		if !cerrdefs.IsNotFound(err) {
			return "", c.engineError("look for the image "+p.image, err)
		}
	}
	ref, err := reference.ParseNormalizedNamed(p.image)
	if err != nil {
		return "", fmt.Errorf("the image %q: %w", p.image, err)
	}
	auth, err := c.authFor(ctx, ref, ct.cfg.Directory)
	if err != nil {
		return "", fmt.Errorf("credentials for the image %s: %w", p.image, err)
	}
	before, _ := c.imageID(ctx, p.image)
	if err := c.pull(ctx, p.image, auth); err != nil {
		c.metrics.pulls.WithLabelValues("failed").Inc()
		return "", c.engineError("pull the image "+p.image, err)
	}
	c.metrics.pulls.WithLabelValues("pulled").Inc()
	id, err := c.lookAt(ctx, p)
	if err != nil {
		return "", c.engineError("look at the pulled image "+p.image, err)
	}
	if id != before { // else it was here before us: not ours to remove
		if err := c.images.pulled(id, p.image, time.Now()); err != nil {
			c.log.Warn("cannot write down a pulled image; it will not be removed when it is not needed any more", "image", p.image, "error", err)
		}
	}
	c.images.used(id, time.Now())
	return id, nil
}

// lookAt gives the ID of the plan's image, and keeps which volumes the image wants.
func (c *Containerizer) lookAt(ctx context.Context, p *plan) (string, error) {
	r, err := c.api.ImageInspect(ctx, p.image)
	if err == nil && r.Config != nil {
		p.wants = r.Config.Volumes
	}
	return r.ID, err
}

func (c *Containerizer) imageID(ctx context.Context, image string) (string, error) {
	r, err := c.api.ImageInspect(ctx, image)
	return r.ID, err
}

// pull pulls an image once for all who want it now.
func (c *Containerizer) pull(ctx context.Context, image, auth string) error {
	key := image + "\x00" + auth
	c.pulls.mu.Lock()
	p := c.pulls.running[key]
	if p == nil {
		pctx, cancel := context.WithCancel(c.ctx)
		p = &pull{done: make(chan struct{}), cancel: cancel}
		c.pulls.running[key] = p
		go func() { // ends with the containerizer at the latest
			defer cancel()
			p.err = c.pullOnce(pctx, image, auth)
			c.pulls.mu.Lock()
			if c.pulls.running[key] == p {
				delete(c.pulls.running, key)
			}
			c.pulls.mu.Unlock()
			close(p.done)
		}()
	}
	p.users++
	c.pulls.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		c.pulls.mu.Lock()
		if p.users--; p.users == 0 {
			p.cancel()
			if c.pulls.running[key] == p {
				delete(c.pulls.running, key)
			}
		}
		c.pulls.mu.Unlock()
		return context.Cause(ctx)
	}
}

// pullOnce asks the Engine for the image and follows its progress: an Engine that says nothing for too long waits for a
// registry that does not answer.
func (c *Containerizer) pullOnce(ctx context.Context, image, auth string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.cfg.PullStall, func() {
		cancel(fmt.Errorf("the registry has sent nothing for %v", c.cfg.PullStall))
	})
	defer stall.Stop()
	why := func(err error) error {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		return err
	}
	stream, err := c.api.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return why(err)
	}
	defer stream.Close()
	for m, err := range stream.JSONMessages(ctx) {
		if err != nil {
			return why(err)
		}
		if m.Error != nil {
			return errors.New(m.Error.Message)
		}
		stall.Reset(c.cfg.PullStall)
	}
	return why(nil)
}
