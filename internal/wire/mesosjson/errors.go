package mesosjson

import (
	"errors"
	"strconv"
	"strings"
)

// FieldError says which field of a message is wrong and why. Path reads as a person would write it:
// `accept.operations[0].launch.task_infos[1].agent_id.value`.
type FieldError struct {
	Path   string
	Reason string
}

// Error returns "path: reason".
func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return e.Path + ": " + e.Reason
}

// within puts the name of the enclosing field in front of the error's path.
func within(err error, name string) error {
	var fe *FieldError
	if !errors.As(err, &fe) {
		return err
	}
	switch {
	case fe.Path == "":
		fe.Path = name
	case strings.HasPrefix(fe.Path, "["):
		fe.Path = name + fe.Path
	default:
		fe.Path = name + "." + fe.Path
	}
	return fe
}

// SyntaxError says where the text stops being JSON.
type SyntaxError struct {
	Offset int // byte offset into the text
	Reason string
}

// Error names the offset and the reason.
func (e *SyntaxError) Error() string {
	return "invalid JSON at byte " + strconv.Itoa(e.Offset) + ": " + e.Reason
}
