package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// ImageGC says when images that this agent has pulled and no container uses are removed. The zero value never does.
type ImageGC struct {
	// MaxAge is how long an image is kept after its last use on an empty disk; the fuller the disk, the shorter.
	MaxAge time.Duration
	// Headroom is the share of the disk that is kept free.
	Headroom float64
	// Interval is the time between two rounds.
	Interval time.Duration
	// Excluded are images that are never removed, as containers name them.
	Excluded []string
}

// images remembers which images this agent has pulled, and when they were used. It survives a reboot.
type images struct {
	file string

	mu    sync.Mutex
	known map[string]*imageUse // by id
	dirty bool
}

type imageUse struct {
	Refs []string  `json:"refs"`
	Used time.Time `json:"used"`
}

func openImages(file string) (*images, error) {
	x := &images{file: file, known: map[string]*imageUse{}}
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return x, os.MkdirAll(filepath.Dir(file), 0o755)
	case err != nil:
		return nil, fmt.Errorf("read the list of pulled images: %w", err)
	}
	if err := json.Unmarshal(b, &x.known); err != nil {
		// What it held is only that some images may be removed: they are not.
		x.known = map[string]*imageUse{}
	}
	return x, nil
}

// pulled notes an image as ours. It is on disk when this returns.
func (x *images) pulled(id, ref string, now time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.known[id]
	if u == nil {
		u = &imageUse{}
		x.known[id] = u
	}
	if !slices.Contains(u.Refs, ref) {
		u.Refs = append(u.Refs, ref)
	}
	u.Used = now
	return x.save()
}

// used notes that a container uses an image. It is written with the next round.
func (x *images) used(id string, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if u := x.known[id]; u != nil {
		u.Used, x.dirty = now, true
	}
}

func (x *images) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.known[id]; ok {
		delete(x.known, id)
		x.dirty = true
	}
}

// save writes the list. The lock is held.
func (x *images) save() error {
	b, err := json.Marshal(x.known)
	if err != nil {
		return err
	}
	tmp := x.file + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	x.dirty = false
	return os.Rename(tmp, x.file)
}

// collect runs rounds of image removal until ctx ends.
func (c *Containerizer) collect(ctx context.Context) {
	if c.cfg.Images.Interval <= 0 {
		return
	}
	t := time.NewTicker(c.cfg.Images.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if _, err := c.collectImages(ctx, time.Now(), nil); err != nil && ctx.Err() == nil {
				c.log.Warn("cannot look for unused images", "error", err)
			}
		}
	}
}

// collectImages removes the images of ours that no container uses and whose time is over. The fuller the disk, the shorter
// that time: as with sandboxes, MaxAge × (1 − headroom − used share). used, if not nil, stands for the file system's answer.
func (c *Containerizer) collectImages(ctx context.Context, now time.Time, used func() float64) (removed []string, err error) {
	busy := map[string]bool{}
	list, err := c.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list the containers: %w", err)
	}
	for _, x := range list.Items {
		busy[x.ImageID] = true
	}
	if used == nil {
		info, err := c.api.Info(ctx, client.InfoOptions{})
		if err != nil {
			return nil, fmt.Errorf("ask for the Engine's directory: %w", err)
		}
		used = func() float64 { return usedShare(info.Info.DockerRootDir) }
	}
	type candidate struct {
		id string
		imageUse
	}
	var all []candidate
	c.images.mu.Lock()
	for id, u := range c.images.known {
		if busy[id] {
			u.Used, c.images.dirty = now, true
			continue
		}
		if !slices.ContainsFunc(u.Refs, func(r string) bool { return slices.Contains(c.cfg.Images.Excluded, r) }) {
			all = append(all, candidate{id, *u})
		}
	}
	c.images.mu.Unlock()
	slices.SortFunc(all, func(a, b candidate) int { return a.Used.Compare(b.Used) })
	for _, x := range all {
		keep := time.Duration(float64(c.cfg.Images.MaxAge) * max(0, 1-c.cfg.Images.Headroom-used()))
		if now.Sub(x.Used) < keep || ctx.Err() != nil {
			break
		}
		if c.removeImage(ctx, x.id, x.Refs) {
			removed = append(removed, x.id)
			c.metrics.removed.Inc()
		}
	}
	c.images.mu.Lock()
	defer c.images.mu.Unlock()
	if c.images.dirty {
		err = c.images.save()
	}
	return removed, err
}

// removeImage takes our names from an image; the Engine removes it with the last one, unless a container uses it.
func (c *Containerizer) removeImage(ctx context.Context, id string, refs []string) bool {
	for _, ref := range refs {
		if at, err := c.imageID(ctx, ref); err != nil || at != id {
			continue // the name is another image's by now
		}
		if _, err := c.api.ImageRemove(ctx, ref, client.ImageRemoveOptions{PruneChildren: true}); err != nil && !cerrdefs.IsNotFound(err) {
			c.log.Warn("cannot remove an unused image", "image", ref, "error", err)
			return false
		}
	}
	if _, err := c.imageID(ctx, id); err == nil {
		// Without a name of ours any more: one that was pulled anew, or that others named too. Not by force.
		if _, err := c.api.ImageRemove(ctx, id, client.ImageRemoveOptions{PruneChildren: true}); err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
			return false
		}
	}
	c.images.forget(id)
	c.log.Info("removed an unused image", "image", refs)
	return true
}

// usedShare is how full the file system of a directory is; 0 when it can't be told.
func usedShare(dir string) float64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return 0
	}
	return 1 - float64(st.Bavail)/float64(st.Blocks-st.Bfree+st.Bavail)
}
