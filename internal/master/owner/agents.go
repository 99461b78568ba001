package owner

import (
	"context"
	"sync"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// Link is a connection that carries one agent, or several of a relay (link.Conn). Send never blocks.
type Link interface {
	Send(channel uint64, msgs ...*linkv1.Message) bool
	SendRaw(channel uint64, parts ...[]byte) bool
	CloseChannel(channel uint64) bool
	Close()
}

// agents are the channels of agents by the id that the core knows them by.
type agents struct {
	mu    sync.Mutex
	next  core.ConnID
	conns map[core.ConnID]channel

	encoded []byte    // scratch memory of the owner's goroutine
	parts   [1][]byte // the same
}

type channel struct {
	link Link
	id   uint64
}

func (a *agents) init() { a.conns = map[core.ConnID]channel{} }

func (a *agents) send(id core.ConnID, m *linkv1.Message) {
	a.mu.Lock()
	c, ok := a.conns[id]
	a.mu.Unlock()
	if ok {
		c.link.Send(c.id, m)
	}
}

// sendAck encodes an acknowledgement itself: a message for each would be garbage at once.
func (a *agents) sendAck(e *core.SendAck) {
	a.mu.Lock()
	c, ok := a.conns[e.Conn]
	a.mu.Unlock()
	if ok {
		a.encoded = link.AppendUpdateAck(a.encoded[:0], string(e.Framework), string(e.Task), e.UUID[:])
		a.parts[0] = a.encoded
		c.link.SendRaw(c.id, a.parts[:]...)
	}
}

func (a *agents) close(id core.ConnID) {
	a.mu.Lock()
	c, ok := a.conns[id]
	delete(a.conns, id)
	a.mu.Unlock()
	if ok {
		c.link.CloseChannel(c.id)
	}
}

func (a *agents) closeAll() {
	a.mu.Lock()
	links := map[Link]bool{}
	for _, c := range a.conns {
		links[c.link] = true
	}
	a.conns = map[core.ConnID]channel{}
	a.mu.Unlock()
	for l := range links {
		l.Close()
	}
}

// Channels is one connection's side of the owner: it gives each channel its id and posts what arrives. It is used by the
// goroutine that reads the connection.
type Channels struct {
	owner *Owner
	link  Link
	ids   map[uint64]core.ConnID
	limit int
}

// Connect takes a connection of an agent or a relay on. maxChannels bounds how many agents it may carry.
func (o *Owner) Connect(l Link, maxChannels int) *Channels {
	return &Channels{owner: o, link: l, ids: map[uint64]core.ConnID{}, limit: maxChannels}
}

// Handle is the connection's handler (link.Handler): it posts messages in order, and waits when the owner's queue is full,
// which slows this connection down and no other.
func (c *Channels) Handle(ctx context.Context, ch uint64, msgs []*linkv1.Message, closed bool) error {
	id, known := c.ids[ch]
	if known && !c.owner.agents.has(id) {
		// The core closed it; what follows on the number is a new agent.
		known = false
	}
	if !known && len(msgs) > 0 {
		if len(c.ids) >= c.limit && c.limit > 0 {
			c.forgetClosed()
			if len(c.ids) >= c.limit {
				return errTooManyChannels
			}
		}
		id = c.owner.agents.add(c.link, ch)
		c.ids[ch] = id
		known = true
	}
	for _, m := range msgs {
		if err := c.owner.Post(ctx, &core.AgentMessage{Conn: id, Message: m}); err != nil {
			return err
		}
	}
	if closed && known {
		delete(c.ids, ch)
		c.owner.agents.drop(id)
		c.owner.postAlways(&core.AgentDisconnected{Conn: id})
	}
	return nil
}

func (c *Channels) forgetClosed() {
	for ch, id := range c.ids {
		if !c.owner.agents.has(id) {
			delete(c.ids, ch)
		}
	}
}

// Disconnected tells that the whole connection is gone.
func (c *Channels) Disconnected() {
	for _, id := range c.ids {
		c.owner.agents.drop(id)
		c.owner.postAlways(&core.AgentDisconnected{Conn: id})
	}
	c.ids = map[uint64]core.ConnID{}
}

func (a *agents) add(l Link, ch uint64) core.ConnID {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	a.conns[a.next] = channel{l, ch}
	return a.next
}

func (a *agents) has(id core.ConnID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.conns[id]
	return ok
}

func (a *agents) drop(id core.ConnID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.conns, id)
}
