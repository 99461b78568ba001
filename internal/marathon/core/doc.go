// Package core decides what happens to services: which definitions are in force, what a deployment does next, which offer is
// taken for which instance, what is killed, when a failed instance is tried again, what is healthy.
//
// It is a pure machine: Step takes events with the time at which they happened and returns effects (records to store, calls
// for the master, notices for subscribers, answers, probes to run). It knows no network, disk or clock, and its random
// choices come from a seed, so a recorded history replays exactly.
//
// Called by internal/marathon, whose one owner goroutine feeds it and carries the effects out in their order: records are
// durable before any later effect of the same step happens.
//
// Invariants, checked in every test that runs the machine:
//   - an instance is stored before the offer for it is accepted, and a status is stored before it is acknowledged;
//   - of each spec, at most one deployment that is not finished touches it;
//   - a rolling replacement kills no healthy instance that would leave fewer than minimumHealthCapacity of them, and starts
//     none beyond maximumOverCapacity (see replace.go for both in numbers);
//   - a task id is used once: each start of an instance has its own incarnation.
package core
