// Package probe runs on every host: it finds hosts, containers, processes and connections, measures them, and streams what
// it knows to each monitor as one snapshot followed by acknowledged deltas.
//
// Who calls it: `orchestrator probe` and `orchestrator up`. It needs no privilege to start; what it may not read it says in
// the state of its collectors, which the monitor shows.
//
// Shape: collectors run in goroutines of their own, each at its own pace, and publish what they found; a collector that
// hangs, fails or panics degrades alone. One owner goroutine assembles their latest findings into entities and edges, and
// gives them to the hub, which turns the difference to the last round into a numbered delta. A link per monitor sends the
// deltas; what a monitor asks for (controls, logs, terminals, files) is checked against this probe's own policy first.
//
// Invariants: memory is bounded whatever the host does (caps are counted and said); secrets in environment variables are
// masked before they leave the host; the probe never does what its policy does not name, whoever asks.
package probe
