// Package zk speaks ZooKeeper's client protocol, 3.4 through 3.9.
//
// It owns the wire and the session: an ordered, asynchronous client whose requests are answered by callbacks in the order
// in which they were sent, with blocking wrappers on top. It is used by election/zookeeper, store/zookeeper, zksync and the
// zk commands; nothing else in the house knows ZooKeeper. Beside it stand jute (serialization), txn (transaction records), tree
// (the replayed data tree and its digest), zkfile (snapshots and logs), learner (the observer's end of the quorum port) and
// zktest (real servers for tests).
//
// Shape: core is the protocol as a pure state machine (no clock, socket or goroutine of its own); Client gives it a
// connection, a clock and a lock.
//
// Invariants:
//   - Requests of one Client reach the server in the order of Send, and callbacks run in that order on one goroutine.
//     A callback or watch function must not block; it may call Send.
//   - Every Send is answered exactly once: by the server, by ErrConnectionLoss (it was sent, the outcome is unknown), by
//     ErrSessionExpired, ErrAuthFailed or ErrClosed. A request that was not sent yet survives a reconnect.
//   - One-shot and persistent watches are set again on every reconnect. Persistent watches do not replay what happened in
//     between (nothing in ZooKeeper does): their functions get an EventSession so that the owner reads again.
//   - Session loss is said only by the server. AliveUntil tells how long the session is certain to live without asking.
package zk
