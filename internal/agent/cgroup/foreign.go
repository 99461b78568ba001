package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Foreign finds the group of a process that somebody else (Docker) has put there, to measure it. It is not ours to change.
func Foreign(h *Host, pid int) (*Group, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, err
	}
	g := &Group{m: &Manager{host: *h}}
	if h.V2 != "" {
		for line := range strings.Lines(string(b)) {
			if rel, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "0::"); ok {
				g.name = rel
				g.dir = filepath.Join(h.V2, rel)
				return g, nil
			}
		}
		return nil, fmt.Errorf("process %d is in no group of the unified hierarchy", pid)
	}
	homes := homes(h, string(b))
	g.dirs = make(map[string]string, len(h.V1))
	for controller, base := range h.V1 {
		if dir := homes[base]; dir != "" {
			g.dirs[controller] = dir
			g.name = strings.TrimPrefix(dir, base)
		}
	}
	if len(g.dirs) == 0 {
		return nil, fmt.Errorf("process %d is in no control group that is visible here", pid)
	}
	return g, nil
}

// Hierarchies lists where control groups are mounted: every hierarchy of v1, also those without a controller, and the unified one.
func Hierarchies() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		before, after, _ := strings.Cut(sc.Text(), " - ")
		pre, post := strings.Fields(before), strings.Fields(after)
		if len(pre) > 4 && len(post) > 0 && (post[0] == "cgroup" || post[0] == "cgroup2") {
			out = append(out, unescape(pre[4]))
		}
	}
	return out, sc.Err()
}
