// Package agent is the agent daemon: it runs the tasks that the leading master sends, in containers on this host, and
// answers for them until their end is acknowledged.
//
// One goroutine owns the core (package core), which decides. Around it:
//
//	link       holds the connection to the leading master
//	executors  holds a stream to every executor: our helpers' over a unix socket, strangers' over the v1 executor API
//	containers asks the containerizers to start, watch, limit and destroy
//	committer  makes what the core persists durable (package checkpoint), then carries out what follows
//	collector  deletes the sandboxes of what has ended, by age and by need
//	http       serves the v1 operator API, Mesos' older endpoints, files, metrics and a page for people
//
// Events go to the owner through one bounded queue. Its effects go, in order, through another one to the committer, which
// takes what has gathered there as one batch with one fsync. Nothing but the disk is ever waited for on that way.
//
// The process may be killed at any moment: tasks live on in their helpers, and the next process finds all that this one
// promised. SIGTERM is no different from that. Deps carries what tests swap.
package agent
