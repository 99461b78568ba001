package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// parseCredential reads one principal and its secret: {"principal":…,"secret":…}, or the two separated by white space.
func parseCredential(text string) (principal, secret string, err error) {
	if strings.HasPrefix(text, "{") {
		var c struct{ Principal, Secret string }
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return "", "", fmt.Errorf("read --credential: %w", err)
		}
		if c.Principal == "" {
			return "", "", errors.New("read --credential: the object has no principal")
		}
		return c.Principal, c.Secret, nil
	}
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return "", "", errors.New("read --credential: expecting a principal and a secret, or a JSON object of both")
	}
	return fields[0], fields[1], nil
}
