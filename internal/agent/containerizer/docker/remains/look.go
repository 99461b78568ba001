package remains

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
)

// Found is what there is of one container.
type Found struct {
	// Processes are those in the container's control groups that have not ended.
	Processes []int
	// Shims are the processes that watch over it for containerd. One goes by itself when the Engine has heard of the end.
	Shims []int
	// Groups are the directories of its control groups; those inside them are not listed.
	Groups []string
}

// Nothing reports that there is nothing.
func (f Found) Nothing() bool { return len(f.Processes)+len(f.Shims)+len(f.Groups) == 0 }

// Look looks through the whole host and gives what it finds by the container's ID, ours and others'.
func Look() (map[string]Found, error) {
	found := map[string]Found{}
	es, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		for _, id := range containersOf(pid) {
			if ended(pid) {
				break
			}
			f := found[id]
			f.Processes = append(f.Processes, pid)
			found[id] = f
		}
		if id := watchedBy(pid); id != "" {
			f := found[id]
			f.Shims = append(f.Shims, pid)
			found[id] = f
		}
	}
	tops, err := cgroup.Hierarchies()
	if err != nil {
		return nil, err
	}
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil // it goes while it is looked at, or is not for us to see
			case !d.IsDir():
				return nil
			}
			id := idIn(d.Name())
			if id == "" {
				return nil
			}
			f := found[id]
			f.Groups = append(f.Groups, path)
			found[id] = f
			return fs.SkipDir
		})
	}
	return found, nil
}

// idIn takes the container's ID out of the name of a control group: "ID" (cgroupfs) or "docker-ID.scope" (systemd). Others name theirs
// in other ways, and may have more than the container's processes in them.
func idIn(name string) string {
	if unit, ok := strings.CutPrefix(name, "docker-"); ok {
		name, ok = strings.CutSuffix(unit, ".scope")
		if !ok {
			return ""
		}
	}
	if len(name) != 64 || strings.Trim(name, "0123456789abcdef") != "" {
		return ""
	}
	return name
}

// containersOf lists the containers that a process is in: more than one when a container runs an Engine.
func containersOf(pid int) (ids []string) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		// hierarchy:controllers:path
		f := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		for part := range strings.SplitSeq(f[len(f)-1], "/") {
			if id := idIn(part); id != "" && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// watchedBy gives the container that a shim of containerd's is for.
func watchedBy(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !bytes.Contains(b, []byte("containerd-shim")) {
		return ""
	}
	args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return ""
	}
	i := slices.Index(args, "-id")
	if i < 0 || i+1 >= len(args) {
		return ""
	}
	return idIn(args[i+1])
}

// ended reports whether a process has ended and only waits for its parent to hear of it.
func ended(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := bytes.LastIndexByte(b, ')')
	return err != nil || i < 0 || len(b) > i+2 && (b[i+2] == 'Z' || b[i+2] == 'X')
}
