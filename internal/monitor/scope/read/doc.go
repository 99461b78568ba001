// Package read answers the requests of clients of Weave Scope's read API: the list of topologies, one topology, one node, the
// differences of a topology over a WebSocket, and the list of probes, field for field as Scope 1.13 gives them.
//
// Who calls it: internal/monitor, when the monitor runs with --scope-api. It checks who asks before it comes here.
//
// It is an adapter. What there is and who talks to whom is worked out by internal/monitor/view: one picture a topology,
// whatever options its readers choose, kept up to date for as long as somebody asks for it. This package reads a picture inside the
// estate's lock into nodes of its own (gather), and does the rest without any lock: Scope's filters (options), rows (rows)
// and answers (serve). What was read is used again for half a second, so that many readers cost one reading.
//
// Invariants: ids are Scope's own forms (`<id>;<container>`, `host;pid`, `in-theinternet`); a node that two pictures show has
// one id; a reader of differences holds a number for each node that it was sent, and nothing queues for it: who is slow
// gets the difference to what is true when it reads again.
package read
