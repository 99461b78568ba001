// Package zookeeper keeps the registry in ZooKeeper, for several masters: one small znode per key, under hashed parents.
//
//	<path>/epoch            the latest claimed epoch and who claimed it
//	<path>/writer-<epoch>   exists while that epoch is the latest; its znode version counts the batches written under it
//	<path>/kv/<00..ff>/…    the keys: "/" is written "!", what ZooKeeper does not allow in names is percent-encoded
//
// A key's version is its znode's version plus one. A value is stored behind one format byte and the CRC-32C of key and value.
//
// Writing: a Writer takes transactions from its queue, decides each one against its exact index of keys and versions (it is
// the only writer), and sends them in multis, several in flight. The first operation of every multi sets
// writer-<epoch> with the expected version. That one operation is the fence (a later Claim removes the node, so that nothing
// of the earlier epoch can succeed any more), keeps the order (a multi cannot succeed before the one in front of it) and is
// the memory of what happened: after a lost connection the node's version tells how many batches took effect, and the rest is
// sent again. So a transaction takes effect once, whatever the connection does.
//
// The masters' opener of stores calls it; it calls package zk only.
package zookeeper
