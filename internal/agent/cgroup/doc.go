// Package cgroup keeps one control group per container, on hosts with cgroups v1, v2, or both: limits, kill, memory
// exhaustion, usage. The native containerizer calls it and nobody else does.
//
// Layout as Mesos': v1 <hierarchy>/<root>/<container>[/mesos/<child>…] in every controller's hierarchy; v2
// <mount>/<root>/<container>[/<child>…] with the processes in a child "leaf", because v2 allows none beside subgroups.
//
// Invariants: a memory limit is never lowered under what runs; killing is atomic (frozen or cgroup.kill) so that nothing
// forks away from it; every group below the root is this agent's.
package cgroup
