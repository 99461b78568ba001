package probe

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// storageDir is where podman and CRI-O keep containers' layers, and beside them who they are for (containers/storage).
const storageDir = "/var/lib/containers/storage"

// storedNames reads names and images of podman's and CRI-O's containers from the store they share: podman has no daemon to
// ask. It is used by one goroutine.
type storedNames struct {
	dir  string
	next time.Time
	seen map[string]time.Time // file to its time of change
	byID map[string]*containerInfo
}

const (
	storedEvery = 5 * time.Second
	maxStored   = 16 << 20
)

func newStoredNames(dir string) *storedNames {
	return &storedNames{dir: dir, seen: map[string]time.Time{}}
}

// of tells of one container that runs; nil when the store does not know it or may not be read.
func (s *storedNames) of(ref containerRef, now time.Time) *containerInfo {
	if now.After(s.next) {
		s.next = now.Add(storedEvery)
		s.read()
	}
	info := s.byID[ref.id]
	if info == nil {
		return nil
	}
	told := *info
	told.ref = ref
	return &told
}

// read takes the lists of all storage drivers again, when one has changed.
func (s *storedNames) read() {
	files, _ := filepath.Glob(filepath.Join(s.dir, "*-containers", "containers.json"))
	times := map[string]time.Time{}
	changed := len(files) != len(s.seen)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			times[f] = st.ModTime()
			changed = changed || !st.ModTime().Equal(s.seen[f])
		}
	}
	if !changed {
		return
	}
	s.seen = times
	s.byID = map[string]*containerInfo{}
	for f := range times {
		for _, c := range readStored(f) {
			if len(s.byID) < maxContainers {
				s.byID[c.ref.id] = c
			}
		}
	}
}

func readStored(path string) (out []*containerInfo) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var list []struct {
		ID       string
		Names    []string
		Created  time.Time
		Metadata string
	}
	if json.NewDecoder(io.LimitReader(f, maxStored)).Decode(&list) != nil {
		return nil // read while it was written: its time will have changed
	}
	for _, c := range list {
		var m struct {
			Image string `json:"image-name"`
			Name  string `json:"name"`
		}
		_ = json.Unmarshal([]byte(c.Metadata), &m)
		info := &containerInfo{ref: containerRef{id: c.ID}, name: m.Name, image: m.Image, state: topology.StateRunning}
		if info.name == "" && len(c.Names) > 0 {
			info.name = c.Names[0]
		}
		if !c.Created.IsZero() {
			info.createdMs = c.Created.UnixMilli()
		}
		out = append(out, info)
	}
	return out
}
