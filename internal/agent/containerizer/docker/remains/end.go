package remains

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for a shim to go by itself: it does when the Engine has heard of the container's end, and tidies up.
const patience = 2 * time.Second

// Kill kills the processes of a container, and nothing else: for an Engine that does not answer but will. It gives those that it
// has killed, and does not wait for their end.
func (h *Host) Kill(id string) ([]int, error) {
	all, err := h.Look()
	if err != nil {
		return nil, err
	}
	return kill(id, all[id]), nil
}

// End ends all that there is of a container which is not to run any more: its processes, then its shim when that does not go by
// itself, then its control groups. known says that the Engine knows that it ran, and hears of its end. It gives what it has ended. An
// error says what is still there.
func (h *Host) End(ctx context.Context, id string, known bool) (Found, error) {
	var did Found
	quiet := time.Time{} // since when no process is left
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		all, err := h.Look()
		if err != nil {
			return did, err
		}
		f := all[id]
		switch {
		case len(f.Processes) > 0:
			quiet = time.Time{}
			add(&did.Processes, kill(id, f))
		case quiet.IsZero():
			quiet = time.Now()
		}
		switch {
		case f.Nothing():
			return did, nil
		case len(f.Processes) > 0:
		case len(f.Shims) > 0:
			if forgotten := !known && len(did.Processes) > 0; forgotten || time.Since(quiet) > patience {
				for _, pid := range f.Shims {
					if signal(pid, func() bool { return watchedBy(pid) == id }) {
						add(&did.Shims, []int{pid})
					}
				}
			}
		case remove(f.Groups, &did), time.Since(quiet) > 2*patience:
			// A group that can't be removed holds nothing that could be seen from here.
			return did, nil
		}
		select {
		case <-ctx.Done():
			return did, fmt.Errorf("the container's processes %v and shims %v do not end: %w", f.Processes, f.Shims, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func add[T comparable](to *[]T, what []T) {
	for _, x := range what {
		if !slices.Contains(*to, x) {
			*to = append(*to, x)
		}
	}
}

// kill kills what is in a container's control groups, however fast it forks, and also what is frozen there.
func kill(id string, f Found) (did []int) {
	var thaw []string
	for _, dir := range f.Groups {
		if state := filepath.Join(dir, "freezer.state"); os.WriteFile(state, []byte("FROZEN"), 0) == nil {
			thaw = append(thaw, state)
		}
	}
	for _, pid := range f.Processes {
		if signal(pid, func() bool { return slices.Contains(containersOf(pid), id) }) {
			did = append(did, pid)
		}
	}
	for _, dir := range f.Groups {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2, from Linux 5.14 on
	}
	for _, state := range thaw {
		_ = os.WriteFile(state, []byte("THAWED"), 0)
	}
	return did
}

// signal kills a process if, with its descriptor open, it still is the one that was meant.
func signal(pid int, still func() bool) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return still() && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// remove removes empty control groups, and says whether all have gone.
func remove(groups []string, did *Found) bool {
	all := true
	for _, top := range groups {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.SortFunc(dirs, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") }) // the innermost first
		for _, dir := range dirs {
			switch err := os.Remove(dir); {
			case err == nil:
				add(&did.Groups, []string{dir})
			case !errors.Is(err, fs.ErrNotExist):
				all = false
			}
		}
	}
	return all
}
