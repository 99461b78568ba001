package execlink

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/execlink/message"
	"github.com/orchestrator/orchestrator/internal/agent/unixsock"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Peer is the executor at the other end, as the containerizer knows it by the token.
type Peer struct {
	ContainerID ids.Container
	FrameworkID ids.Framework
	ExecutorID  ids.Executor
}

// Stream carries the events for one subscribed executor. Its methods never block.
type Stream interface {
	// Send queues an event. False: the executor is gone or does not read; it will subscribe again.
	Send(*executorv1.Event) bool
	// Close ends the connection once what is queued has been written (an executor that was refused, or was told to shut down).
	Close()
	// Done is closed when the connection has ended.
	Done() <-chan struct{}
}

// NestedLaunch is a helper's wish for a container below its own.
type NestedLaunch struct {
	ContainerID ids.Container // below Peer.ContainerID
	// Task is set for the member of a task group. Else Command runs as a Session container inside its parent, for a check.
	Task    *mesosv1.TaskInfo
	Command *mesosv1.CommandInfo
}

// Handler is the agent. Its methods may be called from any goroutine; an error of Subscribe or Call closes the connection
// with that message. The helper's calls arrive in order.
type Handler interface {
	// Subscribe: the executor (re)connected. The stream stays valid until its Done.
	Subscribe(ctx context.Context, p Peer, call *executorv1.Call, s Stream) error
	// Call: UPDATE and MESSAGE.
	Call(ctx context.Context, p Peer, call *executorv1.Call) error
	// The four below act on containers below p.ContainerID only: the server has checked that. containerizer.ErrNotFound
	// tells of an unknown one.
	LaunchNested(ctx context.Context, p Peer, l NestedLaunch) error
	WaitNested(ctx context.Context, p Peer, id ids.Container) (*agentv1.Response_WaitContainer, error)
	KillNested(ctx context.Context, p Peer, id ids.Container, signal int) error
	RemoveNested(ctx context.Context, p Peer, id ids.Container) error
}

// Config is the server's configuration.
type Config struct {
	// Path of the socket; its directory exists and belongs to the agent. Any length.
	Path string
}

// Deps are what the server needs from others.
type Deps struct {
	Log     *slog.Logger
	Handler Handler
	// Token gives the executor and the secret of a container that was launched with a helper; false when there is none.
	Token func(ids.Container) (Peer, string, bool)
	// NotFound recognises the error of an unknown container.
	NotFound error
}

// Limits of one connection.
const (
	queueLength    = 256              // events that may wait for a slow helper
	nestedPerPeer  = 1024             // nested requests under way
	subscribeLimit = 10 * time.Second // from connect to Subscribe
	writeLimit     = 10 * time.Second // for one write
	heartbeat      = 30 * time.Second
	maxConnections = 20000
)

// Server accepts helpers.
type Server struct {
	cfg   Config
	deps  Deps
	l     *net.UnixListener
	ready chan struct{}
	conns atomic.Int64
}

// New opens the socket.
func New(cfg Config, deps Deps) (*Server, error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Handler == nil || deps.Token == nil {
		return nil, errors.New("execlink: Handler and Token are required")
	}
	l, err := unixsock.Listen(cfg.Path)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, deps: deps, l: l, ready: make(chan struct{})}
	close(s.ready)
	return s, nil
}

// Ready is closed from the start: New has opened the socket.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends; then it closes every connection (the helpers stay and come back) and returns nil.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.l.Close() })
	defer stop()
	defer os.Remove(s.cfg.Path)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait: it ends the connections
	for {
		c, err := s.l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept helpers: %w", err)
			}
			// Out of descriptors or the like: the helpers try again, so do we.
			s.deps.Log.Warn("cannot accept a helper", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if s.conns.Add(1) > maxConnections {
			s.conns.Add(-1)
			c.Close()
			continue
		}
		wg.Go(func() {
			defer s.conns.Add(-1)
			if err := s.serve(ctx, c); err != nil && ctx.Err() == nil {
				s.deps.Log.Warn("helper disconnected", "error", err)
			}
		})
	}
}

// serve speaks with one helper until it or the agent goes.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) error {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	cred, err := unixsock.Peer(c)
	if err != nil {
		return fmt.Errorf("read peer credentials: %w", err)
	}
	if uid := os.Geteuid(); int(cred.Uid) != uid && cred.Uid != 0 {
		return fmt.Errorf("refused a process of user %d: helpers run as the agent's own user %d", cred.Uid, uid)
	}
	_ = c.SetReadDeadline(time.Now().Add(subscribeLimit))
	var first message.Up
	if err := message.Read(c, &first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("read subscribe: %w", err)
	}
	if first.Subscribe == nil {
		return errors.New("the first message of a helper must be subscribe")
	}
	peer, token, ok := s.deps.Token(ids.Container(first.Subscribe.ContainerID))
	if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(first.Subscribe.Token)) != 1 {
		// A helper of a container that the agent gave up: it must not live on.
		_ = c.SetWriteDeadline(time.Now().Add(writeLimit))
		_ = message.Write(c, message.Down{Shutdown: true})
		return fmt.Errorf("refused a helper of container %q: unknown container or wrong token", clip(first.Subscribe.ContainerID))
	}
	_ = c.SetReadDeadline(time.Time{})

	st := &stream{queue: make(chan message.Down, queueLength), done: make(chan struct{}), closing: make(chan struct{}), conn: c}
	defer st.end()
	stop := context.AfterFunc(ctx, st.end)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer st.end()
	wg.Go(func() { st.write() })

	call, err := subscribeCall(peer, first.Subscribe)
	if err == nil {
		err = s.deps.Handler.Subscribe(ctx, peer, call, st)
	}
	if err != nil {
		st.push(message.Down{Error: err.Error()})
		st.Close()
		<-st.done
		return fmt.Errorf("subscribe of executor %s: %w", peer.ExecutorID, err)
	}

	slots := make(chan struct{}, nestedPerPeer)
	for {
		var up message.Up
		if err := message.Read(c, &up); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read from executor %s: %w", peer.ExecutorID, err)
		}
		switch {
		case up.Update != nil:
			status, err := statusOf(peer, *up.Update)
			if err == nil {
				err = s.deps.Handler.Call(ctx, peer, &executorv1.Call{
					ExecutorId:  &mesosv1.ExecutorID{Value: ptr(string(peer.ExecutorID))},
					FrameworkId: &mesosv1.FrameworkID{Value: ptr(string(peer.FrameworkID))},
					Type:        executorv1.Call_UPDATE.Enum(),
					Update:      &executorv1.Call_Update{Status: status},
				})
			}
			if err != nil {
				st.push(message.Down{Error: err.Error()})
				st.Close()
				<-st.done
				return fmt.Errorf("update of executor %s: %w", peer.ExecutorID, err)
			}
		case up.Launch != nil, up.Wait != nil, up.Kill != nil, up.Remove != nil:
			select {
			case slots <- struct{}{}:
			default:
				return fmt.Errorf("executor %s has more than %d requests under way", peer.ExecutorID, nestedPerPeer)
			}
			wg.Go(func() {
				defer func() { <-slots }()
				r, err := s.nested(ctx, peer, up)
				if ctx.Err() != nil || errors.Is(err, containerizer.ErrStopping) {
					return // no answer is no loss: it asks the next agent process, which an answer would keep it from
				}
				st.push(message.Down{Result: r})
			})
		default:
			// A newer helper's message: nothing that we promised depends on it.
		}
	}
}

// nested answers one request about a container below the peer's own.
func (s *Server) nested(ctx context.Context, p Peer, up message.Up) (*message.Result, error) {
	h := s.deps.Handler
	var r message.Result
	var err error
	below := func(id string) (ids.Container, error) {
		prefix := string(p.ContainerID) + "."
		if len(id) <= len(prefix) || id[:len(prefix)] != prefix {
			return "", fmt.Errorf("container %q is not below %s", clip(id), p.ContainerID)
		}
		return ids.Container(id), nil
	}
	var id ids.Container
	switch {
	case up.Launch != nil:
		r.Request = up.Launch.Request
		if id, err = below(up.Launch.ContainerID); err != nil {
			break
		}
		l := NestedLaunch{ContainerID: id}
		if len(up.Launch.Task) > 0 {
			l.Task = new(mesosv1.TaskInfo)
			if err = l.Task.UnmarshalVT(up.Launch.Task); err != nil {
				err = fmt.Errorf("decode task: %w", err)
				break
			}
		} else if l.Command = commandProto(up.Launch.Command); l.Command == nil {
			err = errors.New("neither task nor command given")
			break
		}
		if err = h.LaunchNested(ctx, p, l); errors.Is(err, containerizer.ErrExists) {
			err = nil // asked again after a restart of ours that swallowed the answer: ids are never used twice
		}
	case up.Wait != nil:
		r.Request = up.Wait.Request
		if id, err = below(up.Wait.ContainerID); err != nil {
			break
		}
		var w *agentv1.Response_WaitContainer
		if w, err = h.WaitNested(ctx, p, id); err == nil {
			fillWait(&r, w)
		}
	case up.Kill != nil:
		r.Request = up.Kill.Request
		if id, err = below(up.Kill.ContainerID); err == nil {
			err = h.KillNested(ctx, p, id, up.Kill.Signal)
		}
	case up.Remove != nil:
		r.Request = up.Remove.Request
		if id, err = below(up.Remove.ContainerID); err == nil {
			err = h.RemoveNested(ctx, p, id)
		}
	}
	if err != nil {
		r.Error = err.Error()
		r.NotFound = s.deps.NotFound != nil && errors.Is(err, s.deps.NotFound)
	}
	return &r, err
}

// stream is one helper's event queue and its writer.
type stream struct {
	conn    *net.UnixConn
	queue   chan message.Down
	closing chan struct{}
	done    chan struct{}
	close1  sync.Once
	done1   sync.Once
}

func (st *stream) Done() <-chan struct{} { return st.done }

func (st *stream) Close() { st.close1.Do(func() { close(st.closing) }) }

// end cuts the connection now.
func (st *stream) end() {
	st.done1.Do(func() {
		close(st.done)
		st.conn.Close()
	})
}

// Send queues one event. A full queue means a helper that does not read: it is cut off and comes back.
func (st *stream) Send(e *executorv1.Event) bool {
	d, err := downOf(e)
	if err != nil {
		return false
	}
	return st.push(d)
}

func (st *stream) push(d message.Down) bool {
	select {
	case <-st.done:
		return false
	case <-st.closing:
		return false
	default:
	}
	select {
	case st.queue <- d:
		return true
	default:
		st.end()
		return false
	}
}

func (st *stream) write() {
	defer st.end()
	var buf bytes.Buffer
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	put := func(d message.Down) bool {
		b, err := message.Append(buf.Bytes()[:0], d)
		if err != nil {
			return false
		}
		_ = st.conn.SetWriteDeadline(time.Now().Add(writeLimit))
		_, err = st.conn.Write(b)
		return err == nil
	}
	for {
		select {
		case <-st.done:
			return
		case d := <-st.queue:
			if !put(d) {
				return
			}
		case <-beat.C:
			if !put(message.Down{Heartbeat: true}) {
				return
			}
		case <-st.closing:
			for {
				select {
				case d := <-st.queue:
					if !put(d) {
						return
					}
					continue
				default:
				}
				return
			}
		}
	}
}

// clip bounds what a stranger's text adds to a log line.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

func ptr[T any](v T) *T { return &v }
