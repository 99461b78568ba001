package network

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// BenchmarkNamespace makes and gives up pinned network namespaces: a part of GOALS row 8.
func BenchmarkNamespace(b *testing.B) {
	realpart.Root(b)
	dir := b.TempDir()
	i := 0
	for b.Loop() {
		i++
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := makeNamespace(path); err != nil {
			b.Fatal(err)
		}
		if err := dropNamespace(path); err != nil {
			b.Fatal(err)
		}
	}
}
