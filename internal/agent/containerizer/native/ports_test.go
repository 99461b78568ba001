package native

import (
	"fmt"
	"net"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
)

// TestPorts: a container that listens on a port it was not given is ended, where the port is one that matters.
func TestPorts(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	const isolation = "cgroups/cpu,cgroups/mem,namespaces/pid,network/ports"
	h := newHost(t)
	d := h.start(nil, func(c *Config) {
		c.Isolation = isolation
		c.Ports = PortsConfig{Interval: 10 * time.Millisecond, Enforce: true, Range: resources.Ranges{{Begin: 31000, End: 32000}}}
	})
	defer d.end()
	at := func(id ids.Container, port int) {
		cfg := d.plain(id, fmt.Sprintf(listen, port))
		cfg.Resources = append(cfg.Resources, ports(31010, 31012))
		d.launch(cfg)
	}
	at("own", 31011)
	at("beside", 8000) // not among those that matter
	at("stray", 31020)
	nested := d.plain("own.n", fmt.Sprintf(listen, 31021))
	term := d.wait("stray")
	if term.Reason == nil || *term.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION || term.Limitation.GetResources()[0].GetRanges().GetRange()[0].GetBegin() != 31020 {
		t.Errorf("termination %+v", term)
	}
	for _, port := range []string{"31011", "8000"} {
		eventually(t, port+" is listened on", func() bool { return hello(net.JoinHostPort("127.0.0.1", port)) == "hello\n" })
	}
	for range 5 { // several looks later they still run
		told := map[*container]string{}
		d.checkPorts(told)
	}
	for _, id := range []ids.Container{"own", "beside"} {
		if !d.runs(id) {
			t.Errorf("%s was ended: %+v", id, d.wait(id))
		}
	}
	// A nested container takes its root along.
	_ = d.Launch(t.Context(), nested) // it may be ended before it is told to have started
	if term := d.wait("own"); term.Reason == nil || *term.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION {
		t.Errorf("termination %+v", term)
	}
	d.end()

	// Without --enforce_container_ports it is only logged.
	lenient := h.start(nil, func(c *Config) { c.Isolation, c.Ports.Interval = isolation, time.Hour })
	defer lenient.end()
	lenient.launch(lenient.plain("logged", fmt.Sprintf(listen, 31030)))
	eventually(t, "it listens", func() bool { return hello("127.0.0.1:31030") == "hello\n" })
	told := map[*container]string{}
	lenient.checkPorts(told)
	if len(told) != 1 || !lenient.runs("logged") {
		t.Errorf("told %v", told)
	}
}
