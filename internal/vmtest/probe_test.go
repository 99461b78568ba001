package vmtest

import (
	"slices"
	"testing"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// TestProbe looks at the network of another kernel as the probe does, with its events, its tables, and Debian's own tools beside them: once where there
// is nothing but the unified hierarchy of control groups, once where there is nothing but version 1.
func TestProbe(t *testing.T) {
	realpart.Long(t, everythingEnv)
	t.Parallel()
	for name, v1 := range map[string]bool{"unified": false, "version 1": true} {
		t.Run(name, func(t *testing.T) {
			Run(t, Config{
				Version1: v1, Programs: slices.Concat([]string{"runc", "ss", "conntrack", "bridge"}, networkPrograms), Trees: networkTrees,
				Modules: slices.Concat([]string{"tcp_diag", "udp_diag", "inet_diag", "nf_conntrack_netlink"}, networkModules),
				Tests: []Test{{Package: "internal/probe", Args: []string{
					"-test.v", "-test.run=^(TestContainersThatPass.*|TestARealContainerThatPasses|TestServerThatClosesFirst|TestTablesAgreeWithSs|TestTheNATTableAgreesWithConntrack)$",
				}}},
			})
		})
	}
}
