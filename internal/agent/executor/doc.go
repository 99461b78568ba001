// Package executor is the helper that stands beside a container and outlives the agent: the command executor (one task of
// its own), the default executor (task groups, whose tasks are nested containers that the agent starts for it), and the
// supervisor of everything else (custom executors, nested and standalone containers).
//
// cmd/executor is its main; `orchestrator` serves as the same helper when it is called with the hidden first argument
// spec.Subcommand. Package supervisor does the work on the host; the decisions are in core.go, pure: events in, effects
// out, time and identifiers given. Invariants: an update is kept until the agent has acknowledged it; the end of a task is
// said once and is final; without the agent the helper lives for the recovery timeout and then ends its tasks.
package executor
