package resources

import (
	"fmt"
	"strings"
)

// AnyRole is the role that unreserved resources belong to in Mesos' pre-refinement form, and the default role of frameworks.
const AnyRole = "*"

// maxRoleLength bounds a role's text: role names become directory names and metric keys.
const maxRoleLength = 1024

// ValidateRole checks Mesos' role grammar: "*" or a path of components joined by "/" (facts: Mesos roles.cpp, validate).
func ValidateRole(role string) error {
	switch {
	case role == AnyRole:
		return nil
	case role == "":
		return fmt.Errorf("empty role name is invalid")
	case len(role) > maxRoleLength:
		return fmt.Errorf("role name is longer than %d bytes", maxRoleLength)
	case strings.HasPrefix(role, "/"):
		return fmt.Errorf("role '%s' cannot start with a slash", role)
	case strings.HasSuffix(role, "/"):
		return fmt.Errorf("role '%s' cannot end with a slash", role)
	}
	for component := range strings.SplitSeq(role, "/") {
		switch {
		case component == "":
			return fmt.Errorf("role '%s' cannot contain two adjacent slashes", role)
		case component == ".", component == "..":
			return fmt.Errorf("role '%s' cannot include '%s' as a component", role, component)
		case component == AnyRole:
			return fmt.Errorf("role '%s' cannot include '*' as a component", role)
		case strings.HasPrefix(component, "-"):
			return fmt.Errorf("role component '%s' is invalid because it begins with a dash", component)
		}
		for _, r := range component {
			if r <= 0x20 || r == 0x7f {
				return fmt.Errorf("role component %q is invalid because it contains a backspace, whitespace or control character", component)
			}
		}
	}
	return nil
}

// IsRoleOrDescendant reports whether role is ancestor itself or lies below it in the tree of roles.
func IsRoleOrDescendant(role, ancestor string) bool {
	return role == ancestor ||
		len(role) > len(ancestor) && role[len(ancestor)] == '/' && role[:len(ancestor)] == ancestor
}
