package monitor

import (
	"testing"
	"time"
)

// A probe whose network was cut connects again while its first connection still hangs here. Whoever has asked over that one is told so, and does not wait
// for an answer that can't come.
func TestWhoHasAskedOverALostConnectionIsTold(t *testing.T) {
	t.Parallel()
	m, _ := routesUnderTest(t)
	p := m.fake(t, "vm1")
	c, err := m.probes.begin(t.Context(), "vm1", request{verb: "stop", node: "container;vm1;web", timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	p.connect("vm1")
	select {
	case resp, ok := <-c.done:
		if ok {
			t.Errorf("answered %v", resp)
		}
	default:
		t.Error("it waits on")
	}
	if _, err := c.wait(t.Context()); asAPI(err).Code != "probe_gone" {
		t.Errorf("told %v", err)
	}
}
