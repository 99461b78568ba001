// Package up runs a whole datacenter in one process: a master, agents and services, meeting on loopback as they would between
// machines. It is what `make up` starts, and the way to try the product.
//
// It owns the directory below which each component keeps its own, and the order of starting and stopping; it and package cli
// are the only ones that know every component. Components see nothing of each other but addresses.
//
// Invariants:
//   - Every listener is open before anything runs, so that a port which is taken is told at once and nothing is left half started.
//   - Stopping leaves tasks running, as stopping an agent does; starting again with the same directory finds them.
//   - One directory is used by one process: the master's registry is locked.
package up
