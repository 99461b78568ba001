// Package switchboard is the agent's end of a helper's control socket: requests, and attachments to a container's input
// and output. Both containerizers use it; the helper's end is package supervisor.
package switchboard

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/control"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
)

// Attach connects to the input and output of a container whose runtime directory is dir: its helper serves them, so that attachments need
// nothing of the agent but the way there.
func Attach(ctx context.Context, cfg containerizer.Config, dir string, starting, gone bool) (containerizer.Attachment, error) {
	switch {
	case cfg.Kind != containerizer.Session && (cfg.Container.GetTtyInfo() == nil || cfg.Kind == containerizer.Check):
		return nil, fmt.Errorf("container %s: %w", cfg.ID, containerizer.ErrNotAttachable)
	case starting:
		return nil, fmt.Errorf("container %s has not started yet", cfg.ID)
	case gone:
		return nil, fmt.Errorf("container %s has ended", cfg.ID)
	}
	at, err := dial(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", cfg.ID, err)
	}
	return at, nil
}

func dial(ctx context.Context, dir string) (containerizer.Attachment, error) {
	conn, err := unixsock.Dial(filepath.Join(dir, spec.ControlFile), 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	r := bufio.NewReaderSize(conn, 32<<10)
	err = control.Write(conn, control.Attach, nil)
	var typ byte
	var text []byte
	if err == nil {
		typ, text, err = control.Read(r)
	}
	if err == nil && typ != control.Done {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return &attachment{conn: conn, r: r}, nil
}

// Ask puts one request to the helper whose runtime directory is dir.
func Ask(dir string, typ byte, payload []byte) error {
	conn, err := unixsock.Dial(filepath.Join(dir, spec.ControlFile), 2*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if err := control.Write(conn, typ, payload); err != nil {
		return err
	}
	answer, text, err := control.Read(conn)
	switch {
	case err != nil:
		return fmt.Errorf("ask the helper: %w", err)
	case answer == control.Fail:
		return errors.New(string(text))
	}
	return nil
}

// Window clamps a window's size to what a terminal can have.
func Window(n uint32) uint16 { return uint16(min(n, math.MaxUint16)) }

// attachment is one connection to a helper's switchboard.
type attachment struct {
	conn *net.UnixConn
	r    *bufio.Reader
	wmu  sync.Mutex
	end  bool
}

// Recv implements containerizer.Attachment.
func (a *attachment) Recv() (*agentv1.ProcessIO, error) {
	if a.end {
		return nil, io.EOF
	}
	for {
		typ, data, err := control.Read(a.r)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				err = io.EOF
			}
			return nil, err
		}
		var kind agentv1.ProcessIO_Data_Type
		switch typ {
		case control.Stdout:
			kind = agentv1.ProcessIO_Data_STDOUT
		case control.Stderr:
			kind = agentv1.ProcessIO_Data_STDERR
		case control.Exit:
			a.end = true
			return nil, io.EOF
		default:
			continue // of a newer helper
		}
		return &agentv1.ProcessIO{
			Type: agentv1.ProcessIO_DATA.Enum(),
			Data: &agentv1.ProcessIO_Data{Type: kind.Enum(), Data: data},
		}, nil
	}
}

// Send implements containerizer.Attachment.
func (a *attachment) Send(m *agentv1.ProcessIO) error {
	a.wmu.Lock()
	defer a.wmu.Unlock()
	switch m.GetType() {
	case agentv1.ProcessIO_DATA:
		if m.GetData().GetType() != agentv1.ProcessIO_Data_STDIN {
			return errors.New("only STDIN can be sent to a container")
		}
		data := m.GetData().GetData()
		for first := true; first || len(data) > 0; first = false {
			n := min(len(data), control.MaxRecord)
			if err := control.Write(a.conn, control.Stdin, data[:n]); err != nil {
				return fmt.Errorf("send input: %w", err)
			}
			data = data[n:]
		}
		return nil
	case agentv1.ProcessIO_CONTROL:
		w := m.GetControl().GetTtyInfo().GetWindowSize()
		if m.GetControl().GetType() != agentv1.ProcessIO_Control_TTY_INFO || w == nil {
			return nil // a heartbeat
		}
		var b []byte
		b = binary.BigEndian.AppendUint16(b, Window(w.GetRows()))
		b = binary.BigEndian.AppendUint16(b, Window(w.GetColumns()))
		if err := control.Write(a.conn, control.Window, b); err != nil {
			return fmt.Errorf("send the window's size: %w", err)
		}
		return nil
	default:
		return errors.New("a record of unknown type was sent to a container")
	}
}

// Close implements containerizer.Attachment.
func (a *attachment) Close() error { return a.conn.Close() }
