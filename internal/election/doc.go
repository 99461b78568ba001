// Package election says who leads and where the leader is. Contender and Detector are what masters, Marathon, agents and
// clients are written against; standalone is the implementation for a single process, zookeeper the one for several masters.
//
// Invariants every Contender keeps:
//   - lead runs only while this candidate leads; its context ends as soon as leadership is lost or can't be proved any more,
//     and no later than another candidate may begin to lead.
//   - Losing leadership does not end the process: the candidate contends again until its own context ends.
//   - Epochs grow with every leader of the cluster. Epoch 0 means that there is no contest and the store picks the next one.
//     Leadership alone is no licence to write: the store's fence is (package store), because a paused leader can't know.
package election
