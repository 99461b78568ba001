package vmtest

import (
	"slices"
	"testing"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// TestProbe looks at the network of another kernel, which has nothing but the unified hierarchy, as the probe does: with its events, its tables, and
// Debian's own tools beside them.
func TestProbe(t *testing.T) {
	realpart.Long(t, everythingEnv)
	t.Parallel()
	Run(t, Config{
		Programs: slices.Concat([]string{"runc", "ss", "conntrack", "nsenter", "bridge"}, networkPrograms), Trees: networkTrees,
		Modules: slices.Concat([]string{"tcp_diag", "udp_diag", "inet_diag", "nf_conntrack_netlink"}, networkModules),
		Tests: []Test{{
			Package: "internal/probe", Args: []string{"-test.v", "-test.run=^(TestContainersThatPass.*|TestARealContainerThatPasses|TestServerThatClosesFirst|TestTablesAgreeWithSs|TestTheNATTableAgreesWithConntrack)$"},
		}},
	})
}
