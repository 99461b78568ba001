package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
)

const groupPrefix = "control group "

// lookAtHost lists what the host has of what tests make and nothing says whose it is.
func lookAtHost() (map[string]bool, error) {
	have := make(map[string]bool)
	tops, err := cgroup.Hierarchies()
	if err != nil {
		return nil, err
	}
	for _, top := range tops {
		es, _ := os.ReadDir(top)
		for _, e := range es {
			if e.IsDir() {
				have[groupPrefix+filepath.Join(top, e.Name())] = true
			}
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		have["network interface "+l.Name] = true
	}
	for _, dir := range []string{"/run/netns", "/dev/shm"} {
		es, _ := os.ReadDir(dir)
		for _, e := range es {
			have[filepath.Join(dir, e.Name())] = true
		}
	}
	backed, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, b := range backed {
		if file, err := os.ReadFile(b); err == nil {
			have["loop device of "+strings.TrimSpace(string(file))] = true
		}
	}
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		out, _ := exec.Command(program).Output() // not installed, or not root: then there is none of ours
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			// A chain that every table has, empty, is none.
			if f := strings.Fields(line); strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, ":") && len(f) > 1 && f[1] == "-" {
				if strings.HasPrefix(line, ":") {
					line = f[0]
				}
				have[program+" "+line] = true
			}
		}
	}
	return have, nil
}

// inhabited reports whether a control group has processes, or one below it.
func inhabited(dir string) bool {
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(b) > 0 {
		return true
	}
	es, _ := os.ReadDir(dir)
	for _, e := range es {
		if e.IsDir() && inhabited(filepath.Join(dir, e.Name())) {
			return true
		}
	}
	return false
}

// settleHost gives what is new and does not go.
func settleHost(before map[string]bool, patience time.Duration) (left []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) { // others' things go, which nothing tells but asking
		now, err := lookAtHost()
		if err != nil {
			return []string{err.Error()}
		}
		left = left[:0]
		for what := range now {
			// Processes are accounted for: a group with some is somebody else's.
			if group, ok := strings.CutPrefix(what, groupPrefix); !before[what] && !(ok && inhabited(group)) {
				left = append(left, what)
			}
		}
		if slices.Sort(left); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// mountsBelow lists the mounts in a directory, the innermost first.
func mountsBelow(dir string) (out []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	slices.Reverse(out)
	return out
}
