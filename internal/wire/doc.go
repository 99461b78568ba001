// Package wire is the Call and Event room: everything that masters, agents, executors, schedulers and operators say to
// each other over HTTP has one shape, and this package does it once, for servers and for clients.
//
// A client POSTs Calls and holds one stream of Events. The package owns: the two content types (protobuf and Mesos'
// JSON), RecordIO, negotiation, reading a call with Mesos' order of checks and statuses, unary answers, event streams
// with bounded queues and heartbeats, leader redirects, the authentication hook, and the client side of all of it.
//
// Who calls it: internal/master and internal/agent (server side), internal/marathon, the command line, the executors,
// simulated frameworks and tests (client side).
//
// Invariants:
//
//   - An event is encoded at most once per content type; its bytes are shared by all streams.
//   - One record is one HTTP chunk.
//   - Sending to a stream never blocks: a reader that does not keep up is disconnected, never waited for.
//   - Every answer that is not a stream has a Content-Length, and an empty one has no Content-Type.
//   - Whatever a peer sends, it gets a clear error within limits of size, depth, count and time.
package wire
