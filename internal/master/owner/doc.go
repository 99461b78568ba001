// Package owner runs the one goroutine that owns the master's state while this process leads.
//
// Everybody else posts typed events (package core) into its queue and reads published snapshots. After each batch of
// events the owner flushes the state and carries the effects out: events onto streams, messages onto agent links, records
// into the registry. None of that blocks: streams and links queue and cut off who does not read, the registry calls back.
//
// The queue is bounded. When it is full, Post waits, so that the edge answers 503 in the end and an agent's connection is not
// read; answers of the registry always fit.
package owner
