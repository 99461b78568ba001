package containerizer

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/orchestrator/orchestrator/internal/ids"
)

// Parent gives the id of the container that this one is inside of: ids are names of levels, joined by dots, the outermost first.
func Parent(id ids.Container) (ids.Container, bool) {
	i := strings.LastIndexByte(string(id), '.')
	if i < 0 {
		return "", false
	}
	return id[:i], true
}

// ValidateID says what is wrong with a container's id, which becomes a name of files, control groups and the like: longest is the
// length that these allow.
func ValidateID(id ids.Container, longest int) error {
	if len(id) > longest {
		return fmt.Errorf("container ID is %d characters long, limit %d", len(id), longest)
	}
	for level := range strings.SplitSeq(string(id), ".") {
		if err := ids.Validate(level); err != nil {
			return fmt.Errorf("container ID %q: %w", id, err)
		}
	}
	return nil
}

// NewToken gives what a helper proves with that it is its container's (package execlink).
func NewToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
