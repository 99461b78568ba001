// Package master is the cluster's leader as a daemon: it owns the listener, the registry, the leadership and the one goroutine
// that owns the state (package core), and joins them with the HTTP edge (package api).
package master
