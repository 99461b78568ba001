package fetcher

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

type archive int

const (
	notArchive archive = iota
	tarPlain
	tarGzip
	tarBzip2
	tarXz
	gzipFile
	zipFile
)

// archiveOf tells by the name, as Mesos does.
func archiveOf(name string) archive {
	for _, s := range []struct {
		suffix string
		kind   archive
	}{
		{".tar", tarPlain},
		{".tgz", tarGzip},
		{".tar.gz", tarGzip},
		{".tbz2", tarBzip2},
		{".tar.bz2", tarBzip2},
		{".txz", tarXz},
		{".tar.xz", tarXz},
		{".gz", gzipFile},
		{".zip", zipFile},
	} {
		if strings.HasSuffix(name, s.suffix) {
			return s.kind
		}
	}
	return notArchive
}

// maxRatio and ratioFloor bound how much more may come out of an archive than went in: real ones stay below 200.
const (
	maxRatio   = 1000
	ratioFloor = 64 << 20
)

// unpacker counts what comes out of one archive.
type unpacker struct {
	ctx     context.Context // of one unpacking
	f       *Fetcher
	root    *os.Root
	req     *Request
	in      int64
	out     int64
	entries int
}

// unpack unpacks a file into the sandbox.
func (f *Fetcher) unpack(ctx context.Context, root *os.Root, r *Request, file *os.File, name string) error {
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	u := &unpacker{ctx: ctx, f: f, root: root, req: r, in: fi.Size()}
	var rd io.Reader = file
	switch kind := archiveOf(name); kind {
	case tarPlain:
		err = u.tar(rd)
	case tarGzip, gzipFile:
		var gz *gzip.Reader
		if gz, err = gzip.NewReader(file); err != nil {
			break
		}
		if kind == tarGzip {
			err = u.tar(gz)
		} else {
			err = u.file(strings.TrimSuffix(name, ".gz"), gz, 0o644, time.Time{})
		}
	case tarBzip2:
		err = u.tar(bzip2.NewReader(file))
	case tarXz:
		err = u.xz(file)
	case zipFile:
		err = u.zip(file, fi.Size())
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", path.Base(name), err)
	}
	return nil
}

// xz unpacks with the host's xz.
func (u *unpacker) xz(file *os.File) error {
	tool, err := exec.LookPath("xz")
	if err != nil {
		return errors.New("xz archives need the program xz on the agent's host: install it (apt-get install xz-utils)")
	}
	ctx, cancel := context.WithCancel(u.ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "-dc", "-M", "512MiB")
	cmd.Stdin = file
	var complaint bytes.Buffer
	cmd.Stderr = &limited{w: &complaint, n: 4096}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = u.tar(out)
	if err == nil {
		_, err = io.Copy(io.Discard, out)
	} else {
		cancel()
	}
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("xz: %s (%w)", strings.TrimSpace(complaint.String()), werr)
	}
	return err
}

type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	if k := min(len(p), l.n); k > 0 {
		_, _ = l.w.Write(p[:k])
		l.n -= k
	}
	return len(p), nil
}

// entry counts one entry and cleans its name. skip: it is the directory itself.
func (u *unpacker) entry(name string) (clean string, skip bool, err error) {
	if err := u.ctx.Err(); err != nil {
		return "", false, context.Cause(u.ctx)
	}
	if u.entries++; u.entries > u.f.cfg.MaxEntries {
		return "", false, fmt.Errorf("more than %d entries", u.f.cfg.MaxEntries)
	}
	c := path.Clean(name)
	if c == "." || c == "/" {
		return "", true, nil
	}
	// Absolute names lose their slash, as tar does.
	c, err = inside(strings.TrimLeft(c, "/"))
	if err != nil {
		return "", false, fmt.Errorf("entry %q %w", clip(name), err)
	}
	return c, false, nil
}

// count adds to what has come out.
func (u *unpacker) count(n int64) error {
	u.out += n
	switch {
	case u.out > u.f.cfg.MaxBytes:
		return fmt.Errorf("it unpacks to more than %d bytes", u.f.cfg.MaxBytes)
	case u.out > u.f.ratioFloor && u.out/maxRatio > u.in:
		return fmt.Errorf("it unpacks to more than %d times its size", maxRatio)
	}
	return nil
}

// file writes one file.
func (u *unpacker) file(name string, r io.Reader, mode fs.FileMode, mtime time.Time) error {
	if err := mkdirAll(u.root, path.Dir(name), u.req); err != nil {
		return err
	}
	// What is there is replaced, never written through: it may be a link.
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, rerr := r.Read(buf)
		if n > 0 {
			err = u.count(int64(n))
			if err == nil {
				_, err = w.Write(buf[:n])
			}
		}
		if err == nil && u.ctx.Err() != nil {
			err = context.Cause(u.ctx)
		}
		if err != nil || rerr == io.EOF {
			break
		}
		if rerr != nil {
			err = rerr
			break
		}
	}
	if err == nil && u.req.UID >= 0 {
		err = w.Chown(u.req.UID, u.req.GID)
	}
	if err == nil {
		// Neither setuid nor setgid nor sticky come out of an archive.
		err = w.Chmod(mode.Perm())
	}
	err = errors.Join(err, w.Close())
	if err == nil && !mtime.IsZero() {
		_ = u.root.Chtimes(name, mtime, mtime)
	}
	return err
}

func (u *unpacker) dir(name string, mode fs.FileMode) error {
	if err := mkdirAll(u.root, name, u.req); err != nil {
		return err
	}
	fi, err := u.root.Lstat(name)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("directory %q: something else is there", clip(name))
	}
	return u.root.Chmod(name, mode.Perm()|0o700) // later entries must get in
}

func (u *unpacker) symlink(name, target string) error {
	if err := mkdirAll(u.root, path.Dir(name), u.req); err != nil {
		return err
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := u.root.Symlink(target, name); err != nil {
		return err
	}
	if u.req.UID >= 0 {
		return u.root.Lchown(name, u.req.UID, u.req.GID)
	}
	return nil
}

func (u *unpacker) tar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, skip, err := u.entry(h.Name)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		mode := fs.FileMode(h.Mode)
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			err = u.file(name, tr, mode, h.ModTime)
		case tar.TypeDir:
			err = u.dir(name, mode)
		case tar.TypeSymlink:
			err = u.symlink(name, h.Linkname)
		case tar.TypeLink:
			var old string
			if old, skip, err = u.entry(h.Linkname); err == nil && skip {
				err = fmt.Errorf("entry %q links to a directory", clip(h.Name))
			}
			if err == nil {
				err = u.link(old, name)
			}
		case tar.TypeXGlobalHeader:
		default:
			err = fmt.Errorf("entry %q is a device, pipe or of an unknown type", clip(h.Name))
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) link(old, name string) error {
	if err := mkdirAll(u.root, path.Dir(name), u.req); err != nil {
		return err
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return u.root.Link(old, name)
}

func (u *unpacker) zip(file *os.File, size int64) error {
	zr, err := zip.NewReader(file, size)
	if err != nil {
		return err
	}
	for _, e := range zr.File {
		name, skip, err := u.entry(e.Name)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		mode := e.Mode()
		switch {
		case mode.IsDir() || strings.HasSuffix(e.Name, "/"):
			err = u.dir(name, mode)
		case mode&fs.ModeSymlink != 0:
			err = u.zipLink(e, name)
		case mode.IsRegular():
			var rd io.ReadCloser
			if rd, err = e.Open(); err == nil {
				perm := mode.Perm()
				if perm == 0 {
					perm = 0o644 // made on a system without permissions
				}
				err = u.file(name, rd, perm, e.Modified)
				err = errors.Join(err, rd.Close())
			}
		default:
			err = fmt.Errorf("entry %q is a device, pipe or of an unknown type", clip(e.Name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipLink(e *zip.File, name string) error {
	rd, err := e.Open()
	if err != nil {
		return err
	}
	defer rd.Close()
	target, err := io.ReadAll(io.LimitReader(rd, 4097))
	if err != nil {
		return err
	}
	if len(target) == 0 || len(target) > 4096 {
		return fmt.Errorf("entry %q: a link's target has 1 to 4096 bytes", clip(e.Name))
	}
	return u.symlink(name, string(target))
}
