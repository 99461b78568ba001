package supervisor

import (
	"io"
	"syscall"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
)

// Remote makes signals for the container's first process go to signal: somebody else (Docker) has started the process.
func (c *Container) Remote(signal func(syscall.Signal) error) {
	c.first.Lock()
	defer c.first.Unlock()
	c.first.remote = signal
}

// Remote takes the output of a process that somebody else has started: copyAll copies both streams until they end, and closing
// from makes it return. stdin, which may be nil, gets what attachments send; resize is nil without a terminal.
func (o *Output) Remote(from io.Closer, stdin io.WriteCloser, resize func(rows, columns uint16), copyAll func(stdout, stderr io.Writer)) {
	if o.log.Attach {
		o.setHub(newHub(o.log.Session, stdin, resize))
	}
	o.keep(from)
	h := o.hub
	o.wg.Go(func() {
		if h != nil && h.session {
			select {
			case <-h.first:
			case <-h.quit():
			}
		}
		copyAll(tee{o.out, control.Stdout, h}, tee{o.err, control.Stderr, h})
	})
}

// tee writes to a log and to who is attached; either may be nil.
type tee struct {
	log *logFile
	typ byte
	hub *hub
}

// Write implements io.Writer.
func (t tee) Write(p []byte) (int, error) {
	if t.log != nil {
		_, _ = t.log.Write(p)
	}
	if t.hub != nil {
		t.hub.publish(t.typ, p)
	}
	return len(p), nil
}
