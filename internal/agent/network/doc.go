// Package network joins containers to container networks: CNI configurations, found by name, carried out by CNI plugins.
// The native containerizer calls it.
//
// A container's network namespace is pinned by a bind mount and lives until its networks have been left, however many times
// that has to be tried, because plugins find in it what they must undo. What was asked of plugins is on disk before they are
// asked, so that a new agent process deletes it after kill -9. A plugin that hangs is killed with everything it started; a
// container whose network can't be deleted has ended all the same, and its network is deleted later, by Networks itself.
package network
