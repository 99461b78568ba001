// Package monitor merges what the probes report, keeps it, lays it out and serves it: the API of docs/reference/monitor-api.md
// and the console.
//
// Who calls it: `orchestrator monitor` and `orchestrator up`. It talks to probes over their streams, to browsers over one
// WebSocket a page, and to a master or Marathon, when given, over their public HTTP APIs.
//
// Shape: every probe's connection has a goroutine that decodes and applies to the estate; one goroutine, the hub's, flushes
// the estate four times a second when something has changed, updates each view that somebody looks at, and encodes one
// difference for all its readers. A reader that is slow gets whole frames instead; nothing queues without bound.
//
// Invariants: all state but users, tokens, saved views and the audit log is soft and comes back with the probes, so several
// replicas need not know each other; every change that is asked for is checked against the role here and again by the probe
// against its policy, and audited with its outcome.
package monitor
