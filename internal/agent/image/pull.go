package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// pull fetches what of an image is not there, and makes its name known.
func (s *Store) pull(ctx context.Context, ref reference, keys credentials) (r *record, err error) {
	defer s.metrics.stage("pull")()
	defer func() {
		if err != nil {
			s.metrics.pulls.WithLabelValues("failed").Inc()
			return
		}
		s.metrics.pulls.WithLabelValues("done").Inc()
	}()
	resolved := s.metrics.stage("resolve")
	m, err := s.source.resolve(ctx, ref, keys)
	if err != nil {
		return nil, err
	}
	resolved()
	ids := make([]string, len(m.blobs))
	for i, b := range m.blobs {
		ids[i] = b.diffID
	}
	s.mu.Lock()
	release := s.holdLayers(ids) // from the first one on, until the record is there
	s.mu.Unlock()
	defer release()
	g, gctx := errgroup.WithContext(ctx)
	for _, b := range m.blobs {
		g.Go(func() error { return s.layer(gctx, b) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.given, err)
	}
	c := m.config.Config
	r = &record{
		Name: ref.Name(), Digest: m.digest, Index: m.index, DiffIDs: ids, Pulled: s.deps.Now(), used: s.deps.Now(),
		Settings: Settings{Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, User: c.User},
	}
	if err := s.save(r); err != nil {
		return nil, err
	}
	s.log.Info("image fetched", "image", ref.given, "digest", m.digest, "layers", len(ids))
	return r, nil
}

// layer makes a layer be there. Those who want the same one wait for whoever began.
func (s *Store) layer(ctx context.Context, b blob) error {
	for try := 0; ; try++ {
		s.mu.Lock()
		have := s.layers[b.diffID] != nil
		s.mu.Unlock()
		if have {
			return nil
		}
		_, joined, err := s.pulls.do(ctx, b.diffID, func(ctx context.Context) (*layer, error) {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			return s.fetch(ctx, b)
		})
		if err == nil {
			return nil
		}
		// Another's failure need not be ours: it may have had other credentials, or given up.
		if !joined || try == 2 || ctx.Err() != nil {
			return err
		}
	}
}

// fetch fetches, verifies and unpacks one layer.
func (s *Store) fetch(ctx context.Context, b blob) (l *layer, err error) {
	defer s.metrics.stage("layer")()
	s.mu.Lock()
	if l := s.layers[b.diffID]; l != nil { // it came while this waited for its turn
		s.mu.Unlock()
		return l, nil
	}
	s.mu.Unlock()
	tmp, err := os.MkdirTemp(s.path(stagingDir), "layer-")
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", b.diffID, err)
	}
	defer func() {
		if err != nil {
			if rerr := os.RemoveAll(tmp); rerr != nil {
				s.log.Warn("cannot delete a half unpacked layer; the next start of the agent does it", "directory", tmp, "err", rerr)
			}
		}
	}()
	rc, err := b.open()
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", b.diffID, err)
	}
	defer rc.Close()
	counted := &counter{r: &stoppable{ctx, rc}, total: s.metrics.fetched.Add}
	plain, err := decompress(counted)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", b.diffID, err)
	}
	ahead := readAhead(plain, counted, s.cfg.MaxLayerBytes)
	defer ahead.Close()
	l = &layer{DiffID: b.diffID}
	if err = os.Mkdir(filepath.Join(tmp, treeDir), 0o755); err != nil {
		return nil, err
	}
	u := &unpacker{limits: limits{entries: maxEntries, bytes: s.cfg.MaxLayerBytes}}
	err = u.unpack(ahead, filepath.Join(tmp, treeDir))
	if err == nil {
		err = ahead.rest() // zero blocks behind the archive's end count into its digest
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return nil, fmt.Errorf("layer %s: the disk of the image store (%s) is full: %w; prune images (PRUNE_IMAGES) or give --docker_store_dir more room", b.diffID, s.cfg.Dir, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("layer %s is truncated: %w", b.diffID, err)
	case err != nil:
		return nil, fmt.Errorf("layer %s: %w", b.diffID, err)
	}
	if got := "sha256:" + ahead.sum(); got != b.diffID {
		return nil, fmt.Errorf("layer %s: wrong digest: its content is %s", b.diffID, got)
	}
	if u.skipped > 0 {
		s.log.Info("device nodes of an image layer are left out", "layer", b.diffID, "count", u.skipped)
	}
	l.Bytes, l.Files = u.bytes, u.entries
	s.metrics.unpacked.Add(float64(u.bytes))
	if err = writeJSON(tmp, layerFile, l); err != nil {
		return nil, fmt.Errorf("layer %s: %w", b.diffID, err)
	}
	// One sync for all its files: what is renamed into place is on the disk.
	if err = syncFS(tmp); err != nil {
		return nil, fmt.Errorf("layer %s: write it to the disk: %w", b.diffID, err)
	}
	return l, s.place(l, tmp)
}

// place makes an unpacked layer one of the store's.
func (s *Store) place(l *layer, tmp string) error {
	s.mu.Lock()
	n := s.next
	s.next++
	s.mu.Unlock()
	l.dir = s.path(layersDir, strconv.FormatUint(n, 10))
	if err := os.Rename(tmp, l.dir); err != nil {
		return fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	if err := syncDir(s.path(layersDir)); err != nil {
		return fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	s.mu.Lock()
	s.layers[l.DiffID] = l
	s.mu.Unlock()
	return nil
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

// stoppable ends a stream that comes from a file as it ends one that comes from a registry.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}
