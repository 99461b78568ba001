// Package execlink is the agent's end of the link to its helpers: the command and default executors that run beside
// containers (cmd/executor). It makes v1 executor Calls of what they say and takes v1 executor Events for them, so that the
// agent treats helpers and HTTP executors alike.
//
// Invariants: a helper speaks only for the container whose token it holds, whatever ids it claims; a helper that does not
// read is disconnected, never waited for; an update stays with the helper until it is acknowledged, so losing a connection
// loses nothing.
package execlink
