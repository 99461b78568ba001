// Package api is the master's edge: everything that clients, operators, tools and browsers reach over HTTP.
//
// It owns the open event streams of schedulers and operators, the sessions of frameworks as far as HTTP needs them, and the
// calls that wait for an answer. It decides nothing about the cluster: what changes something becomes a core.Event for the
// Owner, and what only reads is served from the Owner's published Snapshot, in the goroutine that asked.
//
// Package master makes the Server with itself as the Owner, mounts Handler on its listener, and hands the core's effects that
// concern HTTP to Apply, in their order and from one goroutine. When leadership is lost it calls Reset.
//
// Invariants:
//   - Apply never blocks: a stream takes an event into its bounded queue or is cut off.
//   - Every stream that was opened for a SchedulerSubscribe is followed by exactly one SchedulerDisconnected while this master
//     leads, whoever ended it.
//   - A reader never waits for the Owner and never makes it wait.
//   - Statuses and their order are Mesos' (facts/mesos.md 1.1, 3.1); bodies of legacy endpoints are in testdata.
package api
