// Package core is the master's decisions: a pure state machine with one owner.
//
// The owner (package master's loop) feeds it typed events with Step and takes the effects with Flush: events for
// frameworks, messages for agents, writes for the registry, answers for operators. Nothing here reads a clock, opens a
// connection or starts a goroutine: time comes with each call, ids come from counters and the master's own id, and work
// that needs the registry goes on when the StoreDone event for its token arrives. The same events at the same times
// give the same effects, which is what the seeded simulation relies on.
//
// Readers never touch the state. Publish gives a Snapshot: immutable pages, one per framework and per agent, of which
// only the changed ones are new.
//
// Truth: the master decides which agents and frameworks exist, and quota, weights, reservations asked of agents,
// maintenance and drains. What runs on an agent is the agent's truth; the master believes what it re-registers with.
//
// Invariants, checked by the tests after every step of the simulation:
//   - a resource of an agent is in at most one of: free, in one offer, used by one task or executor (shared volumes aside);
//   - a task is in exactly one of its framework's live, unreachable or completed sets;
//   - an update that carries a uuid is forgotten only when its framework acknowledged it or is gone;
//   - a framework id, once ended, does not come back.
package core
