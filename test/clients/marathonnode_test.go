package clients

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

// TestNodeMarathonClients takes an app through its life with marathon-node 1.1.0, while marathon-event-bus-client 0.1.7 and
// marathon-node's own event source listen (npm/marathon.js).
func TestNodeMarathonClients(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--no-deprecation", nodeScript(t, "marathon.js"), house.marathon.url)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, tail(out))
	}
}
