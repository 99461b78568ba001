// Package scopereaders holds the monitor's copy of Weave Scope's read API against Weave Scope itself, unmodified: its app
// answers the requests of golden.json about an estate, which internal/monitor/scope/read has to answer alike about the same
// one, and its types decode what a running monitor says, field for field.
package scopereaders
