package vmtest

import (
	"os"
	"testing"
)

// xfs and ext4 are disks whose file systems have project quotas.
var (
	xfs  = Disk{At: "/data", Format: []string{"mkfs.xfs", "-q", "-f", "-m", "reflink=0"}, Type: "xfs", Options: "prjquota", MB: 400}
	ext4 = Disk{At: "/ext4", Format: []string{"mkfs.ext4", "-q", "-O", "quota,project"}, Type: "ext4", Options: "prjquota", MB: 64}
)

// TestAgent runs the agent's tests that need what this machine's kernel may not have: limits in the unified hierarchy of control
// groups, and quotas of file systems.
func TestAgent(t *testing.T) {
	t.Parallel()
	tmp := []string{"TMPDIR=" + xfs.At}
	Run(t, Config{
		Programs: []string{"mkfs.xfs", "mkfs.ext4"}, Modules: []string{"xfs", "crc32c_generic", "quota_v2"}, Disks: []Disk{xfs, ext4},
		Tests: []Test{
			{Package: "internal/agent/projectquota", Args: []string{"-test.v"}, Env: tmp},
			{Package: "internal/agent/projectquota", Args: []string{"-test.v"}, Env: []string{"TMPDIR=" + ext4.At}},
			{Package: "internal/agent/cgroup", Args: []string{"-test.v", "-test.run=^TestUnified"}, Env: tmp},
			{Package: "internal/agent/containerizer/native", Args: []string{"-test.v", "-test.run=^(TestQuota.*|TestUnified.*|TestMemoryLimit|TestPlainContainer)$"}, Env: tmp},
		},
	})
}

// TestAgentInAContainer is about an agent that sees a part only of the hierarchy, with itself in it.
func TestAgentInAContainer(t *testing.T) {
	if os.Getenv(everythingEnv) == "" {
		t.Skip("set " + everythingEnv + "=1 to run what takes minutes")
	}
	Run(t, Config{Delegated: true, Tests: []Test{{
		Package: "internal/agent/cgroup", Args: []string{"-test.v", "-test.run=^TestUnifiedInAContainer$"}, Env: []string{"ORCHESTRATOR_TEST_DELEGATED=1"},
	}}})
}

// everythingEnv asks for the long tests.
const everythingEnv = "ORCHESTRATOR_VM_TESTS"
