// Package bench measures a master with simulated agents and frameworks, and prints the figures that the project's goals
// name: one JSON line each, then a table.
//
// It has two of the three tiers: the whole wire, with master, agents and frameworks in processes of their own on one
// machine, and everything in one process over an in-memory network. The third, Go benchmarks of single packages, stands
// with those packages. The hidden command `orchestrator bench` is its only caller.
//
// What it does to the load is written with each scenario: rates are open-loop and counted at the framework, latencies
// count from the intended time of a launch, memory is a slope and never an absolute, and processor time is that of the
// master's process.
package bench
