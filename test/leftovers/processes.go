package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// process is one that runs.
type process struct {
	pid, parent int
	line        string
}

func (p process) String() string { return fmt.Sprintf("%d %s", p.pid, p.line) }

// descendants are the processes below this one. That of an orphan's parent is this one's, too, whatever session or namespaces it is in.
func descendants() (out []process) {
	es, _ := os.ReadDir("/proc")
	children := make(map[int][]process)
	for _, e := range es {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := lookAt(pid); ok {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	for queue := []int{os.Getpid()}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			out = append(out, p)
			queue = append(queue, p.pid)
		}
	}
	return out
}

// lookAt looks at a process that has not ended.
func lookAt(pid int) (process, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	i := bytes.LastIndexByte(b, ')')
	if err != nil || i < 0 {
		return process{}, false
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 2 || f[0] == "Z" || f[0] == "X" {
		return process{}, false
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return process{}, false
	}
	line, _ := os.ReadFile(dir + "/cmdline")
	text := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	if text == "" {
		text = string(b[bytes.IndexByte(b, '(') : i+1])
	}
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return process{pid: pid, parent: parent, line: text}, true
}
