// Package launcher starts helpers (cmd/executor) and finds those of an earlier agent process again. The native
// containerizer calls it.
//
// Order of a start, so that kill -9 of the agent at any moment leaves either a known running container or none: the paper
// (spec.LaunchFile) is written, the helper is born into its cgroup and namespaces and prepares, its pid is written
// (spec.PIDFile), and only then it is told to go on. A helper that is not told so ends when the agent does.
package launcher

import (
	"errors"
)

// ErrGone: the helper that the pid file names does not exist any more.
var ErrGone = errors.New("the helper is gone")
