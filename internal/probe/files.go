package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

const (
	maxEntries  = 5000
	maxFileSize = 256 << 20
	maxLinks    = 40
)

type fileEntry struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Size   int64  `json:"size"`
	Mode   string `json:"mode"`
	Mtime  int64  `json:"mtime_ms"`
	UID    uint32 `json:"uid"`
	Target string `json:"target"`
}

// inside resolves a path within a container's root, following links as the container itself would: an absolute link begins
// again at the container's root. Every step is made beneath the root, so a link that changes meanwhile can lead nowhere else.
func inside(root *os.Root, name string) (string, error) {
	if len(name) > 4096 || strings.IndexByte(name, 0) >= 0 {
		return "", refuse("bad_request", "not a path")
	}
	todo := strings.Split(path.Clean("/" + name)[1:], "/")
	at, links := ".", 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		st, err := root.Lstat(next)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, unwrapPath(err))
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", refuse("bad_request", "%s: too many links", name)
		}
		target, err := root.Readlink(next)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, unwrapPath(err))
		}
		if strings.HasPrefix(target, "/") {
			at = "."
		}
		todo = append(strings.Split(target, "/"), todo...)
		if len(todo) > 4096 {
			return "", refuse("bad_request", "%s: too long a path", name)
		}
	}
	return at, nil
}

func unwrapPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func (p *Probe) listFiles(_ context.Context, req *probev1.Request, e *probev1.Entity, _ *pipe.Pipe) (any, error) {
	root, err := p.rootOf(e)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	asked := arg(req, "path")
	at, err := inside(root, asked)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(at)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asked, unwrapPath(err))
	}
	defer dir.Close()
	list, err := dir.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		if errors.Is(err, syscall.ENOTDIR) {
			return nil, refuse("bad_request", "%s is not a directory", asked)
		}
		return nil, fmt.Errorf("%s: %w", asked, unwrapPath(err))
	}
	truncated := len(list) > maxEntries
	out := []fileEntry{}
	for _, d := range list[:min(len(list), maxEntries)] {
		st, err := d.Info()
		if err != nil {
			continue
		}
		f := fileEntry{Name: topology.Clean(d.Name(), 1024), Type: "other", Size: st.Size(), Mode: fmt.Sprintf("%04o", st.Mode().Perm()), Mtime: st.ModTime().UnixMilli()}
		switch {
		case st.Mode().IsRegular():
			f.Type = "file"
		case st.IsDir():
			f.Type = "dir"
		case st.Mode()&fs.ModeSymlink != 0:
			f.Type = "link"
			if target, err := root.Readlink(path.Join(at, d.Name())); err == nil {
				f.Target = topology.Clean(target, 4096)
			}
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			f.UID = sys.Uid
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b fileEntry) int { return cmp.Compare(a.Name, b.Name) })
	return map[string]any{"path": path.Clean("/" + asked), "entries": out, "truncated": truncated}, nil
}

// readFile sends a regular file's bytes. Devices, pipes and sockets are refused before they are opened, and opening does not
// block on them should they take a file's place.
func (p *Probe) readFile(ctx context.Context, req *probev1.Request, e *probev1.Entity, s *pipe.Pipe) (any, error) {
	if err := needPipe(s); err != nil {
		return nil, err
	}
	root, err := p.rootOf(e)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	asked := arg(req, "path")
	at, err := inside(root, asked)
	if err != nil {
		return nil, err
	}
	if st, err := root.Lstat(at); err != nil || !st.Mode().IsRegular() {
		return nil, refuse("bad_request", "%s is not a regular file", asked)
	}
	f, err := root.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asked, unwrapPath(err))
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, refuse("bad_request", "%s is not a regular file", asked)
	}
	offset, _ := strconv.ParseInt(arg(req, "offset"), 10, 64)
	length, err := strconv.ParseInt(arg(req, "length"), 10, 64)
	if err != nil || length <= 0 || length > maxFileSize {
		length = maxFileSize
	}
	if offset == 0 && length == maxFileSize && st.Size() > maxFileSize {
		return nil, refuse("too_large", "%s has %d bytes: ask for parts of at most %d", asked, st.Size(), maxFileSize)
	}
	if _, err := f.Seek(max(0, offset), io.SeekStart); err != nil {
		return nil, fmt.Errorf("%s: %w", asked, unwrapPath(err))
	}
	ctx, stop := untilClosed(ctx, s)
	defer stop()
	err = copyRaw(io.LimitReader(f, length), func(stream uint32, data []byte) error { return s.Send(ctx, stream, data) })
	return map[string]any{"size": st.Size()}, ended(err)
}
