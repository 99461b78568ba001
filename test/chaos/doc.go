// Package chaos runs a real master, agent, helpers, executors and a framework as processes, and kills (-9) or stops some of
// them at moments that a seed picks. Its tests demand that no task is lost, that no update which anybody acknowledged is lost
// or told twice under another uuid, that every task has exactly one end, and that nothing is left afterwards.
//
// `go test ./test/chaos` runs a few seeds; CHAOS_SEEDS=300 runs more, CHAOS_SEED=n one. The seed fixes the faults and what
// they wait for, not the operating system's part of the timing: a failing seed fails again soon, not always at once.
package chaos
