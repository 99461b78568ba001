// Command orchestrator is the whole product in one binary: see `orchestrator help`.
package main

import (
	"os"

	"github.com/orchestrator/orchestrator/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
