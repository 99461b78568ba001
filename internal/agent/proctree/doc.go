// Package proctree finds the processes below a process, and ends them.
//
// The helper (packages supervisor and executor) calls it for what its container has started, the launcher and the docker
// containerizer for processes that they only remember. Invariants: a process that was remembered is told from a later one of the same
// number by its start time, with a descriptor of it open; what forks faster than it is killed is stopped first. It links nothing heavy.
package proctree
