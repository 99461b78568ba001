package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is the part of a file system that the store needs. Paths are absolute. Tests swap it for one that crashes.
type FS interface {
	MkdirAll(path string) error
	// Create makes an empty file, or empties the one that is there.
	Create(path string) (File, error)
	// Open gives a file for writing at offsets, and makes it when it is missing.
	Open(path string) (File, error)
	ReadFile(path string) ([]byte, error)
	ReadDir(path string) ([]fs.DirEntry, error)
	Rename(from, to string) error
	RemoveAll(path string) error
	Symlink(target, path string) error
	Readlink(path string) (string, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
	// SyncAll makes everything below path durable.
	SyncAll(path string) error
}

// File is a file that is being written.
type File interface {
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// OS is the real file system.
type OS struct{}

var _ FS = OS{}

// The modes of what the agent keeps for itself: nobody else reads task environments.
const (
	dirMode  = 0o755
	metaMode = 0o600
)

// MkdirAll makes a directory and its parents.
func (OS) MkdirAll(path string) error { return os.MkdirAll(path, dirMode) }

// Create makes an empty file.
func (OS) Create(path string) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_CLOEXEC, metaMode)
}

// Open gives a file for writing at offsets.
func (OS) Open(path string) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_CLOEXEC, metaMode)
}

// ReadFile reads a whole file.
func (OS) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

// ReadDir lists a directory in the order of names.
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// Rename replaces to by from.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// RemoveAll deletes a tree; one that is missing is fine.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// Symlink makes or replaces a symbolic link.
func (OS) Symlink(target, path string) error {
	temp := path + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// Readlink reads a symbolic link.
func (OS) Readlink(path string) (string, error) { return os.Readlink(path) }

// SyncDir makes the names in a directory durable.
func (OS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// SyncAll makes the whole file system that holds path durable.
func (OS) SyncAll(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", path, err)
	}
	return nil
}

// writeWhole replaces a file by way of a temporary one beside it. It is not durable yet.
func writeWhole(fsys FS, path string, data []byte) error {
	if err := fsys.MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	temp := path + ".tmp"
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return fsys.Rename(temp, path)
}

// writeAt writes data at an offset of a file, which is made when it is missing. It is not durable yet.
func writeAt(fsys FS, path string, data []byte, offset int64) error {
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := fsys.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		f, err = fsys.Open(path)
	}
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, offset); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
