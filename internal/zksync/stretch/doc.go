// Package stretch moves an ensemble to other servers without copying: the new servers follow without a vote, are made voters one
// at a time, each followed by the removal of an old one, the leader last. It is one ensemble throughout, so sessions,
// ephemeral nodes and watches survive. Servers 3.5+ with reconfigEnabled, and super rights, are needed.
//
// The new servers are started by the operator, with the old members and themselves (as participant) in their configuration: so
// they follow without a vote until they are promoted. Observers would not count towards the new quorum.
// Between any two steps a gate waits until the server concerned has its role and has caught up. Until the old servers are
// stopped the way back is the same procedure with the old members as the aim: removed servers follow on without a vote.
//
// cli runs it (zk stretch); it uses package zk only.
package stretch
