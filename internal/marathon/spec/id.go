package spec

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// RootID is the id of the group that holds all others.
const RootID = "/"

// maxIDLength bounds a path: the id becomes part of the task id, which Mesos limits to 255 bytes and to which
// ".instance-<uuid>._app.<n>" is added.
const maxIDLength = 190

var segmentPattern = regexp.MustCompile(`^(([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\.)*([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])$`)

// reservedSegments can't end the id of an app, because the API's own paths end in them.
var reservedSegments = map[string]bool{"restart": true, "tasks": true, "versions": true}

const idRule = "must fully match regular expression '^(([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])\\.)*([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])|(\\.|\\.\\.)$'"

// Resolve makes the id absolute against the base group, resolving "." and "..", without a trailing slash.
func Resolve(id, base string) string {
	if !strings.HasPrefix(id, "/") {
		id = base + "/" + id
	}
	var out []string
	for s := range strings.SplitSeq(id, "/") {
		switch s {
		case "", ".":
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// resolveRunSpec makes the id of an app or a pod absolute. A "." or ".." at its end stays, so that it is refused instead of
// naming something else.
func resolveRunSpec(id, base string) string {
	full := Resolve(id, base)
	if last := id[strings.LastIndexByte(id, '/')+1:]; last == "." || last == ".." {
		full += "/" + last
	}
	return full
}

// CheckID validates an absolute id: every segment in Marathon's form, and short enough to become part of a task id.
func CheckID(id string) error {
	if id == RootID {
		return nil
	}
	if len(id) > maxIDLength {
		return fmt.Errorf("must not be longer than %d characters", maxIDLength)
	}
	for s := range strings.SplitSeq(strings.TrimPrefix(id, "/"), "/") {
		if !segmentPattern.MatchString(s) {
			return errors.New(idRule)
		}
	}
	return nil
}

// CheckRunSpecID validates the id of an app or a pod, which can't be the root nor end in one of the API's own words.
func CheckRunSpecID(id string) error {
	if id == RootID || id == "" {
		return errors.New("Path must contain at least one path element")
	}
	if err := CheckID(id); err != nil {
		return err
	}
	if last := id[strings.LastIndexByte(id, '/')+1:]; reservedSegments[last] {
		return fmt.Errorf("must not end with any of the following reserved keywords: restart, tasks, versions, ., .. (it ends with %q)", last)
	}
	return nil
}

// ParentID is the id of the group that holds id; the root's parent is the root.
func ParentID(id string) string {
	if i := strings.LastIndexByte(id, '/'); i > 0 {
		return id[:i]
	}
	return RootID
}

// IsBeneath reports whether id lies anywhere below the group.
func IsBeneath(id, group string) bool {
	if group == RootID {
		return id != RootID
	}
	return len(id) > len(group) && strings.HasPrefix(id, group) && id[len(group)] == '/'
}

// TopGroup is the id of the top-level group above id, or "" for an id directly below the root.
func TopGroup(id string) string {
	if i := strings.IndexByte(id[1:], '/'); i >= 0 {
		return id[:i+1]
	}
	return ""
}

// SafeID is the id as it stands in task ids: segments joined by "_", which no segment contains.
func SafeID(id string) string { return strings.ReplaceAll(strings.TrimPrefix(id, "/"), "/", "_") }

// FromSafeID is the inverse of SafeID.
func FromSafeID(safe string) string { return "/" + strings.ReplaceAll(safe, "_", "/") }

// DiscoveryName is the id as Mesos' DiscoveryInfo carries it: segments reversed, joined by ".".
func DiscoveryName(id string) string {
	parts := strings.Split(strings.TrimPrefix(id, "/"), "/")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".")
}
