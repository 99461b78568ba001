// Package faults treats a real master, agent, helpers and executors, each a process, as the world treats them.
//
// TestKillAnything kills (-9) or stops some of them at moments that a seed picks, and demands that no task is lost, that no
// update which anybody acknowledged is lost or told twice under another uuid, that every task has exactly one end, and that
// nothing is left afterwards. `go test ./test/faults` runs a few seeds; CHAOS_SEEDS=300 runs more, CHAOS_SEED=n one. The seed
// fixes the faults and what they wait for, not the operating system's part of the timing: a failing seed fails again soon, not
// always at once.
//
// TestBadInput sends what no sane client would, beside a framework that goes on launching tasks.
package faults
