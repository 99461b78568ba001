// Package control asks Weave Scope's probes to do things, in the way in which Scope's app does: a probe opens a WebSocket, over which
// calls go as JSON (Go's net/rpc, method control.Handle), and a second one for each two-way stream, a pipe, which it names in an answer.
//
// Who calls it: the monitor, which has checked who asks and writes it down. A Link is one probe; its methods may be called by many.
//
// Invariants: a pipe's socket is taken only while something was asked of this probe that may open one, and joined only to the request
// whose answer named it; a pipe that is over stays so, which the probe is told by 404 and closes its end. What a probe says is
// bounded, and a probe that does not answer costs no more than the call's own deadline.
package control
