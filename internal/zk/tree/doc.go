// Package tree is ZooKeeper's data tree outside the server: it holds every node with what the server persists of it, replays
// transactions by the server's own rules (DataTree.processTxn), and keeps the same digest, so that the source itself proves
// after every transaction that the replica is equal to it.
//
// A snapshot is fuzzy: it was written while transactions went on. Replaying every transaction since its beginning makes it
// exact, because the rules are made to be repeated: a create that finds its node, a delete that finds none, and a parent's
// counter that is already ahead change nothing.
//
// A Tree belongs to one goroutine. A million small nodes take about 350 bytes each beside their data and paths.
package tree
