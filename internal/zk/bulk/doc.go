// Package bulk reads and writes trees of many nodes through a client port, as fast as one server answers.
//
// Read goes a level at a time and asks for many nodes in one multiRead where the server knows it (3.6+), node by node where it does
// not; a connection that breaks is waited for. Writer puts operations into multis, and does those of a multi that fails one by
// one, so that each gets an answer of its own. What may be in flight is bounded in bytes as well as in nodes.
//
// cli and zksync use it; it uses packages zk and tree. What it reads is not one moment; what comes through the quorum port (package
// learner) is, and FromTree gives that the same shape.
package bulk
