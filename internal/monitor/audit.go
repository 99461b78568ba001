package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// auditEntry is one line of the audit log.
type auditEntry struct {
	Seq     uint64 `json:"seq"`
	At      int64  `json:"at"`
	User    string `json:"user"`
	Role    string `json:"role"`
	From    string `json:"from"`
	Action  string `json:"action"`
	Object  string `json:"object"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail"`
	Bytes   int64  `json:"bytes"`
}

// auditLog appends to a file and keeps the newest entries for reading. Without its entry nobody is logged in; whatever else can't be written is in the monitor's log
// and among the newest entries: with a disk that is full somebody has to be able to act.
type auditLog struct {
	log *slog.Logger

	mu   sync.Mutex
	file *os.File
	size int64
	torn bool // the file ends within a line
	seq  uint64
	last []auditEntry
}

const (
	auditKept = 2000
	// auditFileMax is when the file is set aside and a new one begun; one old one is kept.
	auditFileMax = 64 << 20
	// auditLineMax is more than any entry takes.
	auditLineMax = 64 << 10
)

func openAudit(dir string, log *slog.Logger) (*auditLog, error) {
	a := &auditLog{log: log}
	if dir == "" {
		return a, nil
	}
	path := filepath.Join(dir, "audit.jsonl")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	for in := bufio.NewReaderSize(f, 64<<10); ; {
		line, err := readLine(in)
		var e auditEntry
		if json.Unmarshal(line, &e) == nil {
			a.seq = max(a.seq, e.Seq)
			a.keep(e)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
	}
	a.file = f
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		a.size = st.Size()
		end := make([]byte, 1)
		_, err := f.ReadAt(end, a.size-1)
		a.torn = err != nil || end[0] != '\n' // killed while it wrote
	}
	return a, nil
}

// readLine reads a line; of one that is longer than any entry it gives nothing.
func readLine(in *bufio.Reader) (line []byte, err error) {
	for {
		var part []byte
		part, err = in.ReadSlice('\n')
		if len(line) <= auditLineMax {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	if len(line) > auditLineMax {
		return nil, err
	}
	return line, err
}

func (a *auditLog) keep(e auditEntry) {
	a.last = append(a.last, e)
	if len(a.last) > 2*auditKept {
		a.last = append([]auditEntry(nil), a.last[len(a.last)-auditKept:]...)
	}
}

// add writes an entry and gives its number.
func (a *auditLog) add(e auditEntry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	e.Seq = a.seq
	e.User, e.Action, e.Outcome = topology.Clean(e.User, 200), topology.Clean(e.Action, 200), topology.Clean(e.Outcome, 200)
	e.Object, e.Detail, e.From = topology.Clean(e.Object, 1024), topology.Clean(e.Detail, 1024), topology.Clean(e.From, 200)
	a.keep(e)
	a.log.Info("audit", "user", e.User, "from", e.From, "action", e.Action, "object", e.Object, "outcome", e.Outcome, "detail", e.Detail)
	if a.file == nil {
		return nil
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if a.size > auditFileMax {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	if b = append(b, '\n'); a.torn {
		b = append([]byte{'\n'}, b...)
	}
	n, err := a.file.Write(b)
	a.size += int64(n)
	a.torn = n < len(b) && (n > 0 || a.torn)
	if err == nil {
		err = a.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

func (a *auditLog) rotate() error {
	path := a.file.Name()
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) { // not there: the last time it was set aside, and no more
		return fmt.Errorf("set the audit log aside: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("begin a new audit log: %w", err)
	}
	a.file.Close()
	a.file, a.size, a.torn = f, 0, false
	return nil
}

// before gives entries with a number below seq (0: all), newest first.
func (a *auditLog) before(seq uint64, limit int) []auditEntry {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []auditEntry{}
	for i := len(a.last) - 1; i >= 0 && len(out) < limit; i-- {
		if seq == 0 || a.last[i].Seq < seq {
			out = append(out, a.last[i])
		}
	}
	return out
}

func (a *auditLog) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil {
		a.file.Close()
	}
}
