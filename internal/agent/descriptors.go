package agent

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepDescriptors makes sure that no container gets what this process was started with: a shell's lock or a service
// manager's socket would otherwise live on in helpers and tasks long after the agent. What Go opens is safe by itself.
func keepDescriptors() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list the open descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err == nil && fd > 2 {
			unix.CloseOnExec(fd) // one that is closed by now is fine
		}
	}
	return nil
}
