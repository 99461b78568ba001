package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/checkpoint"
)

// sandboxMode is that of a sandbox (Mesos since 1.x; facts 7.6); the directories above it are the agent's.
const sandboxMode = 0o750

// makeSandbox makes the directory of a container and gives it to the user. An empty user is the agent's own.
func makeSandbox(directory, owner string) error {
	// A collector that deletes empty directories may come between two of these steps.
	var err error
	for range 5 {
		if err = os.MkdirAll(filepath.Dir(directory), 0o755); err != nil {
			return fmt.Errorf("create the sandbox: %w", err)
		}
		err = os.Mkdir(directory, sandboxMode)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create the sandbox: %w", err)
	}
	if owner == "" {
		return nil
	}
	uid, gid, err := lookUser(owner)
	if err != nil {
		return err
	}
	if err := os.Chown(directory, uid, gid); err != nil {
		return fmt.Errorf("give the sandbox to user %s: %w", owner, err)
	}
	return os.Chmod(directory, sandboxMode)
}

func lookUser(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return 0, 0, fmt.Errorf("no user '%s' on this agent: create it, or let the framework use another one", name)
		}
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// linkLatest points runs/latest to a run, for people and tools.
func linkLatest(directory string) error {
	link := filepath.Join(filepath.Dir(directory), "latest")
	temp := link + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(directory), temp); err != nil {
		return err
	}
	return os.Rename(temp, link)
}

// linkTask makes tasks/<id> in an executor's sandbox, where clients look for the sandbox of a task of a group (facts 11,
// trap 29). The task's container is below containers/.
func linkTask(executorSandbox, task, container string) error {
	root, err := os.OpenRoot(executorSandbox) // the executor may have put anything there
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir("tasks", 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	name := "tasks/" + task
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.Symlink("../containers/"+container, name)
}

// volumes makes and deletes the directories of persistent volumes.
type volumes struct{ layout checkpoint.Layout }

// path is where a persistent volume lies (facts 7.3). whole: the volume is a disk's root, which itself stays.
func (v *volumes) path(r *mesosv1.Resource) (path string, whole bool, err error) {
	root := v.layout.WorkDir
	switch src := r.GetDisk().GetSource(); src.GetType() {
	case mesosv1.Resource_DiskInfo_Source_MOUNT:
		return src.GetMount().GetRoot(), true, nil
	case mesosv1.Resource_DiskInfo_Source_PATH:
		root = src.GetPath().GetRoot()
		if !filepath.IsAbs(root) {
			root = filepath.Join(v.layout.WorkDir, root)
		}
	}
	role := r.GetRole()
	if n := len(r.GetReservations()); n > 0 {
		role = r.GetReservations()[n-1].GetRole()
	}
	id := r.GetDisk().GetPersistence().GetId()
	role = strings.ReplaceAll(role, "/", " ")
	for _, part := range []string{role, id} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return "", false, fmt.Errorf("persistent volume %q of role %q has no path", id, role)
		}
	}
	return filepath.Join(root, "volumes", "roles", role, id), false, nil
}

func (v *volumes) make(list []*mesosv1.Resource, log *slog.Logger) {
	for _, r := range list {
		path, whole, err := v.path(r)
		if err == nil && !whole {
			err = os.MkdirAll(path, 0o755)
		}
		if err != nil {
			log.Error("cannot create a persistent volume; tasks that use it will not start", "volume", r.GetDisk().GetPersistence().GetId(), "err", err)
		}
	}
}

func (v *volumes) remove(list []*mesosv1.Resource, log *slog.Logger) {
	for _, r := range list {
		path, whole, err := v.path(r)
		switch {
		case err != nil:
		case whole:
			err = emptyDirectory(path)
		default:
			err = os.RemoveAll(path)
		}
		if err != nil {
			log.Error("cannot delete the data of a destroyed volume: delete it by hand", "path", path, "err", err)
			continue
		}
		log.Info("persistent volume deleted", "path", path)
	}
}

func emptyDirectory(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
