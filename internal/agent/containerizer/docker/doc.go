// Package docker is the containerizer that runs containers in a Docker Engine, over its socket.
//
// The agent calls it through containerizer.Containerizer. It makes the container and starts a helper (package executor)
// beside it, which starts it, keeps its output in the sandbox, and speaks for it: that is why a restart of the agent costs
// neither output nor status. Package engine is the helper's part of the API; everything else here uses the moby client.
//
// Invariants: a container of ours bears this agent's mark in its labels, and nothing without that mark is ever touched; the
// helper's end is the container's end; an Engine that does not answer makes launches fail and everything else wait; what a
// container asks for and Docker or this package can't give is refused, never dropped; that a container does not run is believed when
// the kernel says so (package remains), not when the Engine does.
package docker
