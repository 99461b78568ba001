package probe

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// process is what the probe knows of a process. The table keeps one as long as pid and start time stay the same.
type process struct {
	pid, ppid int
	start     uint64 // clock ticks since boot
	comm      string
	cmdline   string // without secrets
	uid       uint32
	kernel    bool
	threads   int
	ticks     uint64
	rss       uint64
	cores     float64 // cores in use over the last interval
	netns     uint64
	groups    *controlGroups // nil until they have been read
	container containerRef   // zero when it is in none
	checked   int64          // when groups and netns were last read, ms
	read, wrote,
	readRate, writeRate float64
	ioAt    int64
	files   int
	filesAt int64
	told    toldProcess
}

// controlGroups are those of a process, one in each hierarchy. Processes that are in the same ones share what is known of them.
type controlGroups struct {
	paths     map[string]string // controller ("" is version 2) to path
	container containerRef      // as the paths tell
	inode     uint64            // of the version 2 group, which the kernel calls its id; 0 when not known
	used      bool
}

var noGroups = &controlGroups{}

// cgroups are the control groups of a process, empty ones when they may not be read.
func (p *process) cgroups() *controlGroups {
	if p.groups == nil {
		return noGroups
	}
	return p.groups
}

// processTable reads /proc. It is used by one goroutine.
type processTable struct {
	root     string
	maxProcs int
	pageSize uint64
	bootMs   int64
	byPid    map[int]*process
	order    []int                     // of byPid, when it has been asked for since the last scan
	groups   map[string]*controlGroups // by what the kernel says of a process
	v2       string                    // where version 2 of control groups is mounted, "" when it is not
	last     int64                     // ms of the last scan
	buf      []byte
	capped   int
	denied   int
	// named are containers that can't be told by their cgroup's name, by that cgroup.
	named map[string]containerRef
}

func newProcessTable(root string) (*processTable, error) {
	t := &processTable{root: root, maxProcs: 32768, pageSize: uint64(os.Getpagesize()), byPid: map[int]*process{}, groups: map[string]*controlGroups{}, buf: make([]byte, 16<<10)}
	b, err := os.ReadFile(filepath.Join(root, "stat"))
	if err != nil {
		return nil, fmt.Errorf("read the kernel's statistics: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			sec, _ := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			t.bootMs = sec * 1000
		}
	}
	return t, nil
}

func (t *processTable) startedMs(p *process) int64 {
	return t.bootMs + int64(p.start)*1000/ticksPerSecond
}

// recheck is how often a process's cgroup and network namespace are read again; young ones, which may still be on their
// way into a container, every scan.
const (
	recheckMillis = 60_000
	youngMillis   = 10_000
)

// scan reads every process's stat, and for new ones the rest.
func (t *processTable) scan(now time.Time) error {
	dir, err := os.Open(t.root)
	if err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	fd := int(dir.Fd())
	at := now.UnixMilli()
	seconds := float64(at-t.last) / 1000
	seen := make(map[int]struct{}, len(names))
	t.capped, t.denied, t.order = 0, 0, nil
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if len(seen) >= t.maxProcs {
			t.capped++
			continue
		}
		raw, err := t.read(fd, name+"/stat")
		if err != nil {
			continue // gone meanwhile
		}
		s, ok := parseStat(raw)
		if !ok {
			continue
		}
		seen[pid] = struct{}{}
		p := t.byPid[pid]
		if p == nil || p.start != s.start {
			p = &process{pid: pid, start: s.start, ticks: s.ticks}
			t.byPid[pid] = p
		}
		changed := p.comm != string(s.comm)
		if t.last > 0 && seconds > 0 && s.ticks >= p.ticks {
			p.cores = float64(s.ticks-p.ticks) / ticksPerSecond / seconds
		}
		p.ppid, p.threads, p.ticks, p.rss, p.kernel = s.ppid, s.threads, s.ticks, s.rss*t.pageSize, s.kernel
		if changed {
			p.comm = string(s.comm)
			t.command(fd, name, p)
		}
		if changed || at-p.checked > recheckMillis || at-t.startedMs(p) < youngMillis {
			t.place(fd, name, p)
			p.checked = at
		}
	}
	for pid := range t.byPid {
		if _, ok := seen[pid]; !ok {
			delete(t.byPid, pid)
		}
	}
	t.forgetGroups()
	t.last = at
	return nil
}

// forgetGroups drops the control groups that no process is in.
func (t *processTable) forgetGroups() {
	for _, p := range t.byPid {
		if p.groups != nil {
			p.groups.used = true
		}
	}
	for said, g := range t.groups {
		if !g.used {
			delete(t.groups, said)
		}
		g.used = false
	}
}

// readSmall reads a file of the kernel's. Unlike os.ReadFile it does not have the file watched for more to come, which takes as long as to read it.
func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for b := make([]byte, 0, 1024); ; b = slices.Grow(b, cap(b)) {
		n, err := readInto(fd, b[len(b):cap(b)])
		if b = b[:len(b)+n]; err != nil {
			return b, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if len(b) < cap(b) {
			return b, nil
		}
	}
}

// readInto reads until the buffer is full or the file ends.
func readInto(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

// read fills the table's buffer from a file below /proc; what is longer is cut.
func (t *processTable) read(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := readInto(fd, t.buf)
	if err != nil {
		return nil, err
	}
	return t.buf[:n], nil
}

func (t *processTable) command(dir int, name string, p *process) {
	if p.kernel {
		return
	}
	raw, err := t.read(dir, name+"/cmdline")
	if err == nil {
		raw = raw[:min(len(raw), 1024)]
		p.cmdline = topology.MaskCommand(strings.TrimSpace(string(bytes.ReplaceAll(bytes.TrimRight(raw, "\x00"), []byte{0}, []byte{' '}))))
	}
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, 0) == nil {
		p.uid = st.Uid
	}
}

// place reads where the process runs: its cgroups and its network namespace.
func (t *processTable) place(dir int, name string, p *process) {
	if p.kernel {
		return
	}
	if raw, err := t.read(dir, name+"/cgroup"); err == nil {
		t.placeInGroups(p, raw)
		if p.container = p.groups.container; p.container.id == "" && len(t.named) > 0 {
			p.container = inNamed(p.groups.paths, t.named)
		}
	}
	n, err := unix.Readlinkat(dir, name+"/ns/net", t.buf)
	if err != nil {
		if errors.Is(err, unix.EACCES) {
			t.denied++
		}
		return
	}
	p.netns = namespaceInode(string(t.buf[:n]))
}

// placeInGroups notes the control groups that the kernel says a process is in.
func (t *processTable) placeInGroups(p *process, said []byte) {
	g := t.groups[string(said)]
	if g == nil {
		g = &controlGroups{paths: parseCgroups(string(said))}
		g.container = containerOf(g.paths)
		t.groups[string(said)] = g
	}
	if p.groups == g {
		return
	}
	p.groups = g
	// Who comes anew may be in another group of the same name: the one before it has been removed.
	if path := g.paths[""]; t.v2 != "" && path != "" {
		var st unix.Stat_t
		g.inode = 0
		if unix.Stat(filepath.Join(t.v2, path), &st) == nil {
			g.inode = st.Ino
		}
	}
}

// namespaceInode reads "net:[4026531840]".
func namespaceInode(s string) uint64 {
	_, s, _ = strings.Cut(s, "[")
	n, _ := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n
}

// measureIO reads the bytes that processes have read and written; only as often as metrics are sent, because it is a file
// more for each process.
func (t *processTable) measureIO(now time.Time) {
	dir, err := os.Open(t.root)
	if err != nil {
		return
	}
	defer dir.Close()
	at := now.UnixMilli()
	for pid, p := range t.byPid {
		if p.kernel {
			continue
		}
		raw, err := t.read(int(dir.Fd()), strconv.Itoa(pid)+"/io")
		if err != nil {
			continue
		}
		var read, wrote float64
		for line := range strings.Lines(string(raw)) {
			key, value, _ := strings.Cut(line, ":")
			n, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			switch key {
			case "read_bytes":
				read = n
			case "write_bytes":
				wrote = n
			}
		}
		if p.ioAt > 0 && at > p.ioAt {
			seconds := float64(at-p.ioAt) / 1000
			p.readRate, p.writeRate = max(0, read-p.read)/seconds, max(0, wrote-p.wrote)/seconds
		}
		p.read, p.wrote, p.ioAt = read, wrote, at
	}
}

// openFiles is how many files a process has open, 0 when that is not known. It is looked up once in a round of metrics, which begins at a time.
func (t *processTable) openFiles(p *process, at int64) int {
	if p.filesAt != at {
		p.files, p.filesAt = t.countFiles(p.pid), at
	}
	return p.files
}

// countFiles counts a process's open files: since Linux 6.2 the size of its fd directory says it, before that it is 0 and they are
// counted one by one. 0 when not known.
func (t *processTable) countFiles(pid int) int {
	var st unix.Stat_t
	path := t.root + "/" + strconv.Itoa(pid) + "/fd"
	if unix.Stat(path, &st) != nil {
		return 0
	}
	if st.Size > 0 {
		return int(st.Size)
	}
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	n := 0
	for {
		names, err := f.Readdirnames(1024)
		n += len(names)
		if err != nil {
			return n
		}
	}
}

// rootNetns is the host's network namespace: its first process's, or, where that may not be read, this probe's own.
func (t *processTable) rootNetns(own uint64) uint64 {
	if one := t.byPid[1]; one != nil && one.netns != 0 {
		return one.netns
	}
	return own
}

// pids gives all known pids in order. They belong to the table.
func (t *processTable) pids() []int {
	if t.order == nil {
		t.order = slices.Sorted(maps.Keys(t.byPid))
	}
	return t.order
}

// byNamespace gives the processes of each network namespace in the order of their pids, those whose namespace is not known under 0. Threads of
// the kernel are in none.
func (t *processTable) byNamespace() map[uint64][]*process {
	out := map[uint64][]*process{}
	for _, pid := range t.pids() {
		if p := t.byPid[pid]; !p.kernel {
			out[p.netns] = append(out[p.netns], p)
		}
	}
	return out
}

type statLine struct {
	comm    []byte
	ppid    int
	threads int
	ticks   uint64
	rss     uint64
	start   uint64
	kernel  bool
}

// pfKthread is the flag of kernel threads in /proc/PID/stat (PF_KTHREAD).
const pfKthread = 0x00200000

// parseStat reads /proc/PID/stat. The command stands in brackets and may hold anything, brackets too.
func parseStat(b []byte) (s statLine, ok bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return s, false
	}
	s.comm = b[open+1 : end]
	rest := b[end+1:]
	for i := 3; len(rest) > 0 && i <= 24; i++ { // field numbers of proc(5)
		rest = bytes.TrimLeft(rest, " ")
		var f []byte
		if j := bytes.IndexByte(rest, ' '); j >= 0 {
			f, rest = rest[:j], rest[j:]
		} else {
			f, rest = bytes.TrimSpace(rest), nil
		}
		switch i {
		case 4:
			s.ppid = int(digits(f))
		case 9:
			s.kernel = digits(f)&pfKthread != 0
		case 14, 15:
			s.ticks += digits(f)
		case 20:
			s.threads = int(digits(f))
		case 22:
			s.start = digits(f)
		case 24:
			s.rss = digits(f)
			return s, true
		}
	}
	return s, false
}

func digits(b []byte) (n uint64) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return n
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}
