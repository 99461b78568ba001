// Package dockertest runs real Docker Engines for tests: each with a data root, a network and a mount namespace of its own,
// so that neither its bridge and iptables rules nor its mounts touch the host, and nothing of it is left when the test ends.
//
// Tests of whatever speaks to Docker call it. Images are made from a static busybox; no registry outside is ever asked.
package dockertest
