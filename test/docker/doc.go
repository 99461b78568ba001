// Package docker runs a whole cluster with a real Docker Engine: the program as it is built, started by `orchestrator up`, and its
// own command line as the user.
package docker
