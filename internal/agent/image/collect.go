package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Pruned is what a collection deleted.
type Pruned struct {
	Images []string
	Layers int
	Bytes  int64
}

// Prune deletes every image that nobody holds, but for the excluded ones (PRUNE_IMAGES).
func (s *Store) Prune(ctx context.Context, excluded []string) (Pruned, error) {
	return s.collect(ctx, excluded, func(*record) bool { return true })
}

// Run collects until ctx ends: images that have not been used for long, and the longest unused ones while the disk is too
// full. It is started after the containers of an earlier process have been found again.
func (s *Store) Run(ctx context.Context) {
	p := s.cfg.Collect
	if p.Interval <= 0 {
		return
	}
	t := time.NewTicker(p.Interval)
	defer t.Stop()
	for {
		if _, err := s.Collect(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cannot collect images", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Collect is one round of Run.
func (s *Store) Collect(ctx context.Context) (Pruned, error) {
	p := s.cfg.Collect
	used, err := s.deps.Usage(s.cfg.Dir)
	if err != nil {
		return Pruned{}, fmt.Errorf("measure the disk of the image store: %w", err)
	}
	return s.collect(ctx, nil, func(r *record) bool {
		if p.MaxUnused > 0 && s.deps.Now().Sub(r.used) > p.MaxUnused {
			return true
		}
		if used <= 1-p.Headroom {
			return false
		}
		u, err := s.deps.Usage(s.cfg.Dir) // what has been deleted since may be enough
		used = u
		return err == nil && used > 1-p.Headroom
	})
}

// collect deletes images that may go, the longest unused first, and then the layers that no image and no container has.
func (s *Store) collect(ctx context.Context, excluded []string, may func(*record) bool) (Pruned, error) {
	keep := make(map[string]bool)
	for _, e := range append(slices.Clone(excluded), s.cfg.Collect.Excluded...) {
		ref, err := s.source.parse(e)
		if err != nil {
			return Pruned{}, err
		}
		keep[ref.Name()] = true
	}
	s.mu.Lock()
	var rs []*record
	for _, r := range s.byName {
		if !keep[r.Name] && !s.inUse(r) {
			rs = append(rs, r)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(rs, func(a, b *record) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.Name, b.Name))
	})
	var p Pruned
	var errs []error
	for _, r := range rs {
		if ctx.Err() != nil {
			return p, ctx.Err()
		}
		if !may(r) {
			continue
		}
		s.mu.Lock()
		if s.inUse(r) || s.byName[r.Name] != r {
			s.mu.Unlock()
			continue // somebody came
		}
		// The name goes first: a name always leads to a whole image.
		if err := remove(s.path(imagesDir, recordFile(r.Name))); err != nil {
			s.mu.Unlock()
			errs = append(errs, fmt.Errorf("forget image %s: %w", r.Name, err))
			continue
		}
		delete(s.byName, r.Name)
		s.mu.Unlock()
		p.Images = append(p.Images, r.Name)
		s.log.Info("image deleted", "image", r.Name, "unused_since", r.used)
		errs = append(errs, s.sweep(&p))
	}
	errs = append(errs, s.sweep(&p)) // what pulls that failed have left
	s.measure()
	return p, errors.Join(errs...)
}

// inUse: a container, or a pull, has the image's layers; its uppermost one tells, since no other image need go for it.
// The lock is held.
func (s *Store) inUse(r *record) bool {
	return len(r.DiffIDs) > 0 && s.held[r.DiffIDs[len(r.DiffIDs)-1]] > 0
}

// sweep deletes the layers that no image has and nobody holds.
func (s *Store) sweep(p *Pruned) error {
	s.mu.Lock()
	wanted := make(map[string]bool)
	for _, r := range s.byName {
		for _, d := range r.DiffIDs {
			wanted[d] = true
		}
	}
	var errs []error
	var dead []string
	for id, l := range s.layers {
		if wanted[id] || s.held[id] > 0 {
			continue
		}
		// Out of its place in one step: a crash in the middle leaves rubbish for the next start, not half a layer.
		to := s.path(stagingDir, "dead-"+filepath.Base(l.dir))
		if err := os.Rename(l.dir, to); err != nil {
			errs = append(errs, fmt.Errorf("delete layer %s: %w", id, err))
			continue
		}
		delete(s.layers, id)
		dead = append(dead, to)
		p.Layers++
		p.Bytes += l.Bytes
		s.metrics.deleted.Inc()
	}
	s.mu.Unlock()
	for _, d := range dead {
		errs = append(errs, os.RemoveAll(d))
	}
	return errors.Join(errs...)
}

func recordFile(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:]) + ".json"
}

func diskUsage(dir string) (float64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	if st.Blocks == 0 {
		return 0, nil
	}
	return 1 - float64(st.Bavail)/float64(st.Blocks), nil
}
