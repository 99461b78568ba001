// Package report makes what Weave Scope's probes send (package topology/scope) into what a probe of ours would have sent:
// entities, edges, listeners and metrics, as numbered deltas.
//
// Who calls it: the monitor, with each report that comes. A Sender is what is held of one probe; it is used by one goroutine.
//
// Scope sends a full report now and then, and in between what has changed, without what has gone. So a node stays for as long as
// full reports have it, a connection for Window after it was last seen, and with a sender that never sends full reports everything
// does. Values carry the time at which they were so, and the newer holds, whatever comes first.
package report
