// Package message holds what the agent and its helpers (cmd/executor) say to each other, in plain Go types: the helper is
// small and starts in a millisecond because it knows no protobuf.
//
// A connection carries frames, each a 4-byte big-endian length and a JSON value, Up from helper to agent and Down from
// agent to helper. The agent side turns them into v1 executor Calls and Events (package execlink). Both sides come from
// one build except after an upgrade of the agent, when older helpers are still running: fields are only ever added, and
// what is unknown is ignored.
package message
