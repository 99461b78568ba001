// Package cluster simulates a whole cluster in one goroutine: the real state machines of master and agent (their core
// packages), with modelled executors, schedulers, disks and network between them, under faults that a seed picks.
//
// A run is a sequence of events in virtual time. Everything that could differ between two runs (delays, faults, what
// schedulers and executors do) is drawn from one generator, so that a seed replays exactly; a failing run prints its seed.
//
// What is checked is in check.go: the invariants of a cluster that must hold at any moment, what every scheduler may see
// of its tasks, and that after the faults have ended nothing is lost, doubled or leaked.
package cluster
