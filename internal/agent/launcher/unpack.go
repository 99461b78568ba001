package launcher

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ErrNotEmbedded: this build carries no helper (a plain `go build`): the program serves as its own helper instead.
var ErrNotEmbedded = errors.New("no helper is embedded in this build")

// Binary gives the path of the helper: the embedded one, unpacked into dir, or this program itself.
func Binary(dir string) (string, error) {
	path, err := Unpack(dir)
	if errors.Is(err, ErrNotEmbedded) {
		return os.Executable()
	}
	return path, err
}

// Unpack writes the embedded helper into dir under a name that its content gives, so that helpers of different builds
// live side by side, and returns its path.
func Unpack(dir string) (string, error) { return unpack(dir, embedded) }

func unpack(dir string, content []byte) (string, error) {
	if len(content) == 0 {
		return "", ErrNotEmbedded
	}
	sum := sha256.Sum256(content)
	path := filepath.Join(dir, "executor-"+hex.EncodeToString(sum[:8]))
	if have, err := os.ReadFile(path); err == nil && sha256.Sum256(have) == sum {
		return path, os.Chmod(path, 0o755)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the helper's directory: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".executor-*")
	if err != nil {
		return "", fmt.Errorf("unpack the helper: %w", err)
	}
	defer os.Remove(tmp.Name()) // without effect once renamed
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("unpack the helper: %w", err)
	}
	sweep(dir, path)
	return path, nil
}

// sweep removes helpers of other builds that have not been used for long. Those that run keep running: only their name goes.
func sweep(dir, keep string) {
	es, _ := os.ReadDir(dir)
	for _, e := range es {
		p := filepath.Join(dir, e.Name())
		if fi, err := e.Info(); err == nil && p != keep && time.Since(fi.ModTime()) > 30*24*time.Hour {
			_ = os.Remove(p)
		}
	}
}
