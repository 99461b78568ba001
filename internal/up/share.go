package up

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Ports that tasks are given when an agent names no others (Mesos' default).
const (
	firstPort = 31000
	lastPort  = 32000
)

// shareOf is the i-th of n equal parts of this machine: all cpus, what memory and disk leave over for the system, and a range of
// ports of its own.
func shareOf(dir string, i, n int) (string, error) {
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err != nil {
		return "", fmt.Errorf("how much memory there is: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return "", fmt.Errorf("how large the disk is: %w", err)
	}
	const mb = 1 << 20
	memory := leaveOver(mem.Totalram*uint64(mem.Unit)/mb, 1024)
	space := leaveOver(disk.Blocks*uint64(disk.Bsize)/mb, 5*1024)
	width := (lastPort - firstPort + 1) / n
	first := firstPort + i*width
	return fmt.Sprintf("cpus:%.3f;mem:%d;disk:%d;ports:[%d-%d]", float64(runtime.NumCPU())/float64(n), memory/uint64(n), space/uint64(n), first, first+width-1), nil
}

// leaveOver keeps so much for the system, or half of it when there is not even twice that.
func leaveOver(total, keep uint64) uint64 {
	if total > 2*keep {
		return total - keep
	}
	return total / 2
}
