package zk_test

import (
	"errors"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// A server that has lost its quorum serves reads to who takes that, refuses writes, and is left when there is a better one. Its
// session becomes a real one then.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	e := zktest.Start(t, zktest.Options{Servers: 3, HeapMB: 96, JVM: []string{"-Dreadonlymode.enabled=true"}, Config: []string{"localSessionsEnabled=true", "localSessionsUpgradingEnabled=true"}})
	c := e.Client(t, zk.Config{})
	do(t, c, zk.Create("/x", []byte("1"), zk.OpenACL(), zk.Persistent))
	for _, n := range e.Nodes { // all have it
		cc := e.Client(t, zk.Config{Servers: []string{n.Client}})
		if err := cc.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		cc.Close()
	}
	c.Close()
	e.Nodes[1].Kill()
	e.Nodes[2].Kill()
	// The server that is left may take clients on as ever until it has noticed.
	var ro *zk.Client
	zktest.Eventually(t, 60*time.Second, "a client is served without a quorum", func() bool {
		if ro = e.Client(t, zk.Config{ReadOnly: true, SessionTimeout: 4 * time.Second}); ro.State() == zk.StateReadOnly {
			return true
		}
		ro.Close()
		return false
	})
	if data, _, err := ro.Get(t.Context(), "/x"); err != nil || string(data) != "1" {
		t.Errorf("read %q, %v", data, err)
	}
	if _, err := ro.Set(t.Context(), "/x", nil, -1); !errors.Is(err, zk.ErrNotReadOnly) {
		t.Errorf("write: %v", err)
	}
	for _, n := range e.Nodes[1:] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	zktest.Eventually(t, 60*time.Second, "the client finds the quorum", func() bool { return ro.State() == zk.StateConnected })
	if _, err := ro.Set(t.Context(), "/x", []byte("2"), 0); err != nil {
		t.Errorf("write with a quorum: %v", err)
	}
}
