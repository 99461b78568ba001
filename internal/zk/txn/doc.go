// Package txn reads and writes ZooKeeper's transaction records, as they stand in the logs and in the stream between servers.
//
// A transaction is what the leader has already decided: versions are the resulting ones, sequential names are complete,
// failures are recorded as failures. learner and zkfile make Txns of bytes, tree replays them, zksync plans from them.
package txn
