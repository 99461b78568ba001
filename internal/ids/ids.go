// Package ids holds the distinct string types of the identifiers that travel through the cluster, so that one can't be
// passed for another, and the one rule about what a valid identifier is.
package ids

import (
	"errors"
	"fmt"
	"strings"
)

// Identifiers as they stand in Mesos' messages.
type (
	Framework string // FrameworkID: "<master id>-%04d"
	Agent     string // AgentID: "<master id>-S<n>"
	Offer     string // OfferID: "<master id>-O<n>"
	Task      string // TaskID, unique within its framework
	Executor  string // ExecutorID, unique within its framework and agent
	Container string // ContainerID as text: the values from the root to the leaf joined by "."
	Operation string // OperationID, chosen by the framework
	Role      string // "*" or a path of components joined by "/"
)

// MaxLength is the greatest length of an identifier in bytes (Mesos: common/validation.cpp, NAME_MAX).
const MaxLength = 255

// Validate checks an identifier that a client chose: 1 to 255 bytes, not "." or "..", no control character, no "/" or "\",
// because identifiers become names of directories (facts: Mesos common/validation, validateID).
func Validate(id string) error {
	switch {
	case id == "":
		return errors.New("ID must not be empty")
	case len(id) > MaxLength:
		return fmt.Errorf("ID must not be greater than %d characters", MaxLength)
	case id == "." || id == "..":
		return fmt.Errorf("'%s' is disallowed", id)
	}
	for _, r := range id {
		if r < 0x20 || r == 0x7f || r == '/' || r == '\\' {
			return fmt.Errorf("'%s' contains invalid characters", strings.ToValidUTF8(id, "?"))
		}
	}
	return nil
}
