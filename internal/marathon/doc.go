// Package marathon is the service scheduler: a Mesos v1 framework that keeps apps and pods running and serves Marathon's API.
//
// It joins the pure core (internal/marathon/core) with the world: one owner goroutine feeds the core, a committer makes its
// records durable and only then carries out what depends on them, a scheduler holds the subscription with the Mesos master,
// a prober runs health checks, and the API serves reads from snapshots. Used by internal/cli and internal/up.
//
// Invariants: only the leader has an owner, and only its store transactions count (the store's fence); effects of a step are
// carried out in order and after its records are durable; nothing that a client, a task or the master does makes the owner
// wait; losing leadership, the store or the master ends neither the process nor any task.
package marathon
