// Package topology is the model that probe and monitor share: kinds of entities, their identifiers, the metrics that are
// known by name, and the codec of the stream between the two (api/probe/v1).
//
// An Entity is a host, container, process, pod…; an Edge sums the connections of one client entity to one server entity on
// one server port: ephemeral client ports never leave the host. A probe sends a snapshot and then numbered deltas; the
// monitor acknowledges them; deletions are explicit, so nothing blinks when a probe is slow.
//
// Invariants: whatever Decode returns is within the limits of this package: bounded counts, valid UTF-8 of bounded length,
// finite numbers. A reader may use it without checking again.
package topology
