package containerizer

import (
	"errors"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// ErrNotFound: no container has this id.
var ErrNotFound = errors.New("container not found")

// ErrExists: a container has this id already.
var ErrExists = errors.New("container exists already")

// ErrStopping: the agent is stopping; nothing was decided about the container. Who asked asks the next agent process.
var ErrStopping = errors.New("the agent is stopping")

// ErrNotAttachable: the container has no terminal and is no session, so that its output goes to files only.
var ErrNotAttachable = errors.New("container has no attachable input and output")

// LaunchError is a failed launch with what a status update says about it.
type LaunchError struct {
	Reason  mesosv1.TaskStatus_Reason
	Message string
	Err     error
}

func (e *LaunchError) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

func (e *LaunchError) Unwrap() error { return e.Err }
