// Package zookeeper elects a leader with Mesos' own znodes, so that every tool that finds a Mesos leader finds ours.
//
// A candidate is an ephemeral sequential node <path>/json.info_NNNNNNNNNN that holds its MasterInfo as JSON from the moment it
// is created; the candidate with the smallest number leads. Where a candidate has no MasterInfo (services), the node is
// <path>/member_NNNNNNNNNN and holds its address. Detection also understands Mesos' older forms, info_ (a binary MasterInfo)
// and a bare number (a pid).
//
// Invariants, beyond those of package election:
//   - A term is one node: who lost leadership, or may have lost it, contends with a new node behind all others. So terms
//     of one candidate differ, and the epoch (the transaction that created the node) grows from leader to leader.
//   - A leader that ZooKeeper does not answer stops leading before its session can expire, by its own clock: its term
//     ends a tenth of the session timeout early, to leave time to stop.
//   - Names are never made with Curator's protected create, which other readers sort wrongly. Whether a create succeeded whose
//     answer was lost is found out from the owner of the nodes that are there.
//   - A detector whose connection is lost keeps the leader it knew: who leads cannot be known then, and the old one is
//     the best guess. It is corrected at the first answer.
package zookeeper
