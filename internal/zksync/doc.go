// Package zksync keeps a subtree of one ZooKeeper ensemble (the target) equal to a subtree of another (the source): data, ACLs,
// versions, kinds and the counters behind sequential names, live, with nothing lost, doubled or reordered.
//
// How it works: a follower joins the source as an observer (package learner) and queues what it sends. The engine replays
// it into a shadow tree, which the source's own digests prove to be exact, and plans from every transaction the operations
// that have the same effect on the target. They go there in multis, several in flight; each multi's first operation sets
// the state node in the target (position, engine) with the version that the multi before it left. So position, fence and
// changes are one transaction: an engine that was killed continues exactly where it was, and one that was superseded
// cannot write any more.
//
// Whatever is not simple (the first seeding, a restart, a source whose log no longer reaches back, a target that somebody
// else changed, a container that the target's own reaper removed) is one procedure, reconcile: compare the shadow with
// what the target holds and do what is missing, until versions and counters agree as well.
//
// Invariants:
//   - The source is never written to.
//   - The target's state node never names a position whose changes are not in the target.
//   - Ephemeral nodes of the source are persistent nodes in the target that the engine deletes when their owner's deletion
//     was read in the source's stream, never because of a timeout. If the engine or the link fails, they stay.
//   - The follower never waits for the target: it queues up to a limit, then disconnects and comes back for the rest.
//
// cli runs it (zk sync, zk diff, zk verify); it uses package zk and what lies below it.
package zksync
