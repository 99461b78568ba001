// Package userns makes user namespaces, puts programs into them, and shows them files under their own ids.
//
// The kernel lets a process with more than one thread enter no user namespace, and a Go program always has more than one. So
// a program is started through a few instructions (enter_*.s) in an executable of their own, made in memory, which enter the
// namespaces and then become the program. That executable is also what a namespace is made with.
//
// Callers: the helper (package supervisor), and the agent, which tries the host with Probe.
package userns
