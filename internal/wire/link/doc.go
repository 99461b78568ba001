// Package link is the agent link: what the master and its agents say to each other (api/link/v1) over one connection per
// agent, or one per relay that carries many agents.
//
// The agent dials: POST /api/v1/link with `Upgrade: orchestrator-link/1`. A master that leads answers 101, and from then
// on both sides send frames: a 4-byte big-endian length and one encoded Frame. Every frame belongs to a channel; an agent
// that dials by itself is channel 0, a relay gives each of its agents a channel of its own.
//
// It owns the handshake, the framing, batching and the bounds. The master calls Accept, the agent Dial; both then run
// the connection with Run and send with Send.
//
// Invariants:
//
//   - Send never blocks. A peer that does not take what is queued for it is disconnected.
//   - The first message leaves at once; what is sent while a write is in flight rides in the next write, all of it.
//   - Messages of one channel arrive in the order in which they were sent. Order holds between channels too.
//   - Whatever the peer sends, memory grows only with what has arrived, within MaxFrame, and decoding cannot crash.
//   - An idle connection holds one goroutine and no buffers worth mentioning.
package link
