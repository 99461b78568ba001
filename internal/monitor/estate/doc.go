// Package estate is the monitor's picture of everything that the probes report: entities, their metrics, and who talks to
// whom.
//
// A probe reports connections as it sees them: from the client's side with the server's address, from the server's side with
// the client's. The estate resolves addresses to entities over all probes and joins the two halves into one edge; when an
// address changes hands only the halves that name it are resolved again.
//
// What several probes tell of (a cluster's pods, when two watch it) stays until the last of them takes it back; the words of whoever told
// last count, or, when that one is not heard, those of one that is.
//
// All methods of Estate are safe for concurrent use. Entities and edges that are reached inside Read or Update are valid
// only there. Nothing is deleted because time passes: a probe says what is gone; a lost probe's entities are greyed and kept
// for a minute.
package estate
