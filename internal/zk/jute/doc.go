// Package jute is ZooKeeper's serialization: big-endian integers, length-prefixed buffers and strings, counted vectors.
//
// It knows no message. Everything that ZooKeeper writes, to clients, between servers and to disk, is made of these few
// shapes; packages zk, txn, learner and zkfile give them meaning. Encoding appends to a byte slice and cannot fail.
// Decoding comes in two forms: Decoder reads a message that is already in memory, Stream reads a connection or a file.
// Both keep their first error and answer zero values after it, so that a record is read whole and checked once.
//
// No length or count read from outside is trusted: it is checked against what is there (Decoder) or against a limit
// (Stream) before anything is allocated.
package jute
