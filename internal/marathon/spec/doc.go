// Package spec owns the definitions that users write: apps, pods and groups in Marathon's JSON.
//
// It reads them (old forms accepted, every problem reported with its path), fills in the defaults, validates them, emits
// the canonical 1.5+ form, and keeps the tree of groups as a copy-on-write Root. The REST API, the core and the store use it.
//
// Invariants: a definition that has been put into a Root is never changed afterwards, a change puts a new one in its place;
// reading what was emitted gives the same definition again; nothing here knows the time, the network or a disk.
package spec
