// Package native is the containerizer that starts plain processes in cgroups and namespaces of their own, without an
// image: through our launcher, with a helper beside every container that outlives the agent.
//
// The agent calls it through containerizer.Containerizer. Invariants: what it says of a container is on disk before
// (runtime directory, one directory per container); the helper's end is the container's end; Wait returns only when no
// process, cgroup or mount of the container is left; an isolation that the host can't give is reported by Isolation and
// refused where a container asks for it by name, never silently dropped.
//
// As another user than root there are no cgroups and no namespaces: containers are plain processes, found and killed as
// the helper's descendants.
package native
