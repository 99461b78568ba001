// Package resources is the arithmetic on Mesos resources: what agents have, what offers hold and what tasks use.
//
// Resources is an immutable value in canonical form: one entry per identity (name, type, reservations, disk, provider,
// revocable, shared, allocation role), entries sorted, none empty. Scalars are fixed point with Mesos' precision of 0.001, so
// that sums don't drift; ranges are sorted and merged; sets are sorted. Everything that comes from outside goes through
// FromProto or Parse, which refuse what has no meaning (negative, NaN, overlapping, unknown); nothing behind them panics.
//
// The package is a leaf: master, allocator, agent, marathon and the command line call it. It is pure.
//
// Invariants:
//   - no method changes its receiver or an argument, nor a protobuf message that was given to it or that it returned before;
//   - reservations are a stack, in post-refinement form, whatever form they arrived in;
//   - what can't be divided (shared volumes, persistent volumes, MOUNT and BLOCK disks, RAW disks with an id) is held whole,
//     with a number of copies: copies of a shared resource count once in Quantities, copies of the others count each.
package resources
