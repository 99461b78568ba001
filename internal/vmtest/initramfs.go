package vmtest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// archive writes an initramfs: a cpio archive of the format "newc" (Documentation/driver-api/early-userspace in Linux).
type archive struct {
	w    *bufio.Writer
	have map[string]bool
	ino  int
	size int64
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), have: make(map[string]bool)}
}

// Modes of what is in an archive.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// entry writes one file of that size; its content follows from r.
func (a *archive) entry(name string, mode uint32, size int64, r io.Reader) {
	if a.err != nil {
		return
	}
	a.ino++
	a.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
	a.printf("%s\x00", name)
	a.pad()
	n, err := io.Copy(a.w, r)
	if a.size += n; err == nil && n != size {
		err = fmt.Errorf("it has %d bytes instead of %d", n, size)
	}
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("pack %s: %w", name, err)
	}
	a.pad()
}

func (a *archive) printf(format string, args ...any) {
	n, err := fmt.Fprintf(a.w, format, args...)
	if a.size += int64(n); err != nil && a.err == nil {
		a.err = err
	}
}

func (a *archive) pad() {
	for a.size%4 != 0 {
		a.printf("\x00")
	}
}

// first reports whether nothing of that name has been packed, and notes that now it is.
func (a *archive) first(name string) bool {
	if name == "" || a.have[name] {
		return false
	}
	a.have[name] = true
	return true
}

// dir packs a directory, and those above it as they are on the host: /lib may be a link. It gives where it really is.
func (a *archive) dir(name string) string {
	name = strings.Trim(path.Clean(name), "/")
	if name == "" || name == "." {
		return ""
	}
	at := path.Join(a.dir(path.Dir(name)), path.Base(name))
	if to, err := os.Readlink("/" + at); err == nil {
		target := to
		if !path.IsAbs(to) {
			target = path.Join("/", path.Dir(at), to)
		}
		real := a.dir(target)
		a.link(at, to)
		return real
	}
	if a.first(at) {
		a.entry(at, modeDir|0o755, 0, strings.NewReader(""))
	}
	return at
}

func (a *archive) link(name, to string) {
	if a.first(name) {
		a.entry(name, modeLink|0o777, int64(len(to)), strings.NewReader(to))
	}
}

// content packs a file with that content.
func (a *archive) content(name string, mode uint32, content string) {
	dir := a.dir(path.Dir(name))
	if at := path.Join(dir, path.Base(name)); a.first(at) {
		a.entry(at, modeFile|mode, int64(len(content)), strings.NewReader(content))
	}
}

// file packs a file of the host under a name.
func (a *archive) file(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	dir := a.dir(path.Dir(name))
	if at := path.Join(dir, path.Base(name)); a.first(at) {
		a.entry(at, modeFile|uint32(fi.Mode().Perm()), fi.Size(), f)
	}
}

// copy packs a file of the host under its own name, with what a link leads to.
func (a *archive) copy(name string) {
	at := path.Join(a.dir(path.Dir(name)), path.Base(name))
	to, err := os.Readlink("/" + at)
	if err != nil {
		a.file("/"+at, "/"+at)
		return
	}
	a.link(at, to)
	if !path.IsAbs(to) {
		to = path.Join("/", path.Dir(at), to)
	}
	a.copy(to)
}

// program packs a program and the libraries that it is linked with.
func (a *archive) program(name string) {
	file, err := exec.LookPath(name)
	if err == nil {
		file, err = filepath.Abs(file)
	}
	if err != nil {
		a.err = err
		return
	}
	a.copy(file)
	a.libraries(file)
}

// libraries packs what the dynamic linker would load for a file. A static program, or a script, has none.
func (a *archive) libraries(file string) {
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"
		for _, f := range strings.Fields(line) {
			if path.IsAbs(f) {
				a.copy(f)
				break
			}
		}
	}
}

// tree packs a directory of the host under a name, with the libraries of what it holds.
func (a *archive) tree(name, from string, libraries bool) {
	err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := path.Join(name, filepath.ToSlash(rel))
		switch {
		case e.IsDir():
			a.dir(at)
		case e.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			a.link(path.Join(a.dir(path.Dir(at)), path.Base(at)), to)
		case e.Type().IsRegular():
			a.file(at, p)
			if libraries {
				a.libraries(p)
			}
		}
		return a.err
	})
	if err != nil && a.err == nil {
		a.err = err
	}
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, strings.NewReader(""))
	if err := a.w.Flush(); a.err == nil {
		a.err = err
	}
	return a.err
}
