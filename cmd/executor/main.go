// Command executor is the small helper that stands beside every container (internal/agent/executor). The agent starts it;
// `make build` links it statically and embeds it into orchestrator.
package main

import (
	"os"

	"github.com/orchestrator/orchestrator/internal/agent/executor"
)

func main() {
	os.Exit(executor.Main(os.Args[1:]))
}
