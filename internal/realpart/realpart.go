package realpart

import (
	"os"
	"os/exec"
	"testing"
)

// InVM is set in internal/vmtest's virtual machines, where tests run that other kernels can't run.
const InVM = "ORCHESTRATOR_TEST_VM"

// Missing ends a test that misses a real part: it fails when CI is set, and is skipped otherwise.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Root ends a test that does not run as root, as Missing does.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "this test needs root")
	}
}

// Program gives where a program is, or ends the test as Missing does. source is Debian's package.
func Program(t testing.TB, name, source string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "this test needs %s: run test/deps.sh (Debian: %s)", name, source)
	}
	return file
}

// OtherKernel skips a test that this machine's kernel can't run, because internal/vmtest runs it on one that can: there the test fails.
// Whoever calls it adds the test to those of internal/vmtest.
func OtherKernel(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(InVM) != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf("internal/vmtest runs this test: "+format, args...)
}

// Long skips a test that takes minutes unless an environment variable asks for it. It gives the variable's value.
func Long(t testing.TB, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Skipf("this test takes minutes: set %s to run it", variable)
	}
	return value
}

// NotShort skips a test that starts processes when go test is asked for the short ones.
func NotShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("this test starts processes")
	}
}
