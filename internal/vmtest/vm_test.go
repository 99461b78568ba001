package vmtest

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/agent/cgroup"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// xfs and ext4 are disks whose file systems have project quotas.
var (
	xfs  = Disk{At: "/data", Format: []string{"mkfs.xfs", "-q", "-f", "-m", "reflink=0"}, Type: "xfs", Options: "prjquota", MB: 400}
	ext4 = Disk{At: "/ext4", Format: []string{"mkfs.ext4", "-q", "-O", "quota,project"}, Type: "ext4", Options: "prjquota", MB: 64}
)

// What container networks need of the host and the kernel: the plugins, and the programs and modules that these use.
var (
	networkPrograms = []string{
		"ip", "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore", "tc", "nsenter", "sysctl", "perl",
	}
	networkTrees   = []string{"/usr/lib/cni", "/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/x86_64-linux-gnu/perl-base"}
	networkModules = []string{
		"bridge", "br_netfilter", "veth", "nf_tables", "nft_compat", "nf_nat", "nft_chain_nat", "xt_MASQUERADE", "xt_comment", "xt_addrtype", "xt_conntrack",
		"xt_mark", "xt_multiport", "xt_DNAT", "xt_nat", "xt_tcpudp", "sch_tbf", "sch_ingress", "ifb", "act_mirred", "cls_u32",
	}
)

// TestAgent runs the agent's tests that need what this machine's kernel may not have: limits in the unified hierarchy of control
// groups, with a container network, and quotas of file systems.
func TestAgent(t *testing.T) {
	t.Parallel()
	tmp := []string{"TMPDIR=" + xfs.At}
	Run(t, Config{
		Programs: slices.Concat([]string{"crun", "runc", "mkfs.xfs", "mkfs.ext4"}, networkPrograms), Trees: networkTrees, Modules: append([]string{"xfs", "crc32c_generic", "quota_v2"}, networkModules...), Disks: []Disk{xfs, ext4},
		Tests: []Test{
			{Package: "internal/agent/projectquota", Args: []string{"-test.v"}, Env: tmp},
			{Package: "internal/agent/projectquota", Args: []string{"-test.v"}, Env: []string{"TMPDIR=" + ext4.At}},
			{Package: "internal/agent/cgroup", Args: []string{"-test.v", "-test.run=^(TestUnified.*|TestDeviceProgram|TestSetDevices)$", "-test.skip=^TestUnifiedInAContainer$"}, Env: tmp},
			{Package: "internal/agent/containerizer/native", RacedOutside: true, Args: []string{"-test.v", "-test.run=^(TestQuota.*|TestImage|TestUnified.*|TestMemoryLimit|TestPlainContainer|TestDevices|TestCPUSet|TestGroupThatCannotBeRemoved|TestGroupInOneNetwork)$"}, Env: tmp},
		},
	})
}

// everythingEnv asks for the long tests.
const everythingEnv = "ORCHESTRATOR_VM_TESTS"

// TestAgentInAContainer is about an agent that sees a part only of the hierarchy, with itself in it.
func TestAgentInAContainer(t *testing.T) {
	t.Parallel()
	Run(t, Config{Delegated: true, Tests: []Test{{
		Package: "internal/agent/cgroup", Args: []string{"-test.v", "-test.run=^TestUnifiedInAContainer$"}, Env: []string{"ORCHESTRATOR_TEST_DELEGATED=1"},
	}}})
}

// TestVersion1 runs the tests that read the files of cgroups v1 where this machine's kernel has them not: elsewhere the packages' own tests do.
func TestVersion1(t *testing.T) {
	t.Parallel()
	if h, err := cgroup.Detect(); err == nil && h.V2 == "" && os.Getenv(everythingEnv) == "" {
		return
	}
	tmp := []string{"TMPDIR=" + xfs.At}
	Run(t, Config{
		Version1: true, Programs: []string{"crun", "runc", "mkfs.xfs"}, Modules: []string{"xfs", "crc32c_generic"}, Disks: []Disk{xfs},
		Tests: []Test{
			{Package: "internal/agent/cgroup", Args: []string{"-test.v", "-test.run=^TestRealGroup$"}, Env: tmp},
			{Package: "internal/agent/containerizer/native", RacedOutside: true, Args: []string{"-test.v", "-test.run=^(TestCgroupValues|TestDevices|TestFakeGPUs|TestCPUSet|TestMemoryLimit)$/^helper$"}, Env: tmp},
		},
	})
}

// TestWholeAgent runs all tests of what starts and confines containers, with and without images, but those that go on at random for
// a long time.
func TestWholeAgent(t *testing.T) {
	realpart.Long(t, everythingEnv)
	tmp := []string{"TMPDIR=" + xfs.At}
	var tests []Test
	for _, p := range []string{"cgroup", "confine", "seccomp", "osthread", "launcher", "supervisor", "image"} {
		tests = append(tests, Test{Package: "internal/agent/" + p, Args: []string{"-test.v", "-test.skip=^TestUnifiedInAContainer$"}, Env: tmp})
	}
	Run(t, Config{
		Programs: append([]string{"mkfs.xfs", "mkfs.ext4", "mkfs.btrfs", "crun", "runc", "pidof", "tty"}, networkPrograms...), Trees: networkTrees,
		Modules: append([]string{"xfs", "ext4", "btrfs", "crc32c_generic"}, networkModules...),
		Disks:   []Disk{{At: xfs.At, Format: xfs.Format, Type: xfs.Type, Options: xfs.Options, MB: 2000}},
		Tests: append(tests, Test{
			Package: "internal/agent/containerizer/native", RacedOutside: true, Env: tmp,
			Args: []string{"-test.v", "-test.parallel=2", "-test.skip=^(TestMany.*|TestKillAtAnyMoment.*|TestWithoutRoot|TestCgroupValues)$"},
		}),
		Limit: 15 * time.Minute,
	})
}
