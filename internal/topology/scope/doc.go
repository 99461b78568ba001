// Package scope is the model of Weave Scope's reports and how they are read: msgpack as its probes send it, JSON as plugins and
// others write it, and Scope's words (ids of nodes, templates, formats, controls) in ours.
//
// Who uses it: internal/probe for Scope's plugins, internal/monitor for Scope's probes and for those who read what Scope's app
// would have told them.
//
// Invariants: decoding takes memory in proportion to the input, nests no deeper and holds no more values than Limits says, and
// skips what it does not know. What it returns is as the sender wrote it: text is not yet made fit to be shown (topology.Clean does).
package scope
