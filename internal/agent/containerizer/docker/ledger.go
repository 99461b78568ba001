package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/orchestrator/orchestrator/internal/ids"
)

// ledger is the list, on disk, of what the Engine calls the containers that it has made for this agent: a file of that name for
// each, in which is ours. An Engine forgets containers, and then what runs of them can be found by that ID only. An entry stands
// from before the container's start until it is certain that nothing of it runs.
type ledger struct{ dir string }

func openLedger(dir string) (*ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the list of Docker's container IDs: %w", err)
	}
	return &ledger{dir}, nil
}

// add enters a container. Its start must wait for that.
func (l *ledger) add(engineID string, id ids.Container) error {
	if err := os.WriteFile(filepath.Join(l.dir, filepath.Base(engineID)), []byte(id), 0o600); err != nil {
		return fmt.Errorf("write down the container's ID: %w", err)
	}
	return nil
}

// strike takes a container out.
func (l *ledger) strike(engineID string) error {
	if err := os.Remove(filepath.Join(l.dir, filepath.Base(engineID))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the container's ID: %w", err)
	}
	return nil
}

// all gives the containers by what the Engine calls them.
func (l *ledger) all() (map[string]ids.Container, error) {
	es, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("read the list of Docker's container IDs: %w", err)
	}
	out := make(map[string]ids.Container, len(es))
	for _, e := range es {
		b, err := os.ReadFile(filepath.Join(l.dir, e.Name()))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue // struck meanwhile
			}
			return nil, fmt.Errorf("read the list of Docker's container IDs: %w", err)
		}
		out[e.Name()] = ids.Container(b) // empty after a kill in between: then it is nobody's, and was never started
	}
	return out, nil
}
