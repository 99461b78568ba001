package api

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// TestGeneratedCodeIsUpToDate generates everything again and compares. Comments that name the versions of the tools may
// differ.
func TestGeneratedCodeIsUpToDate(t *testing.T) {
	t.Parallel()
	realpart.Program(t, "protoc", "protobuf-compiler")
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "./generate.sh")
	cmd.Env = append(os.Environ(), "OUT="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generate.sh: %v\n%s", err, out)
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fresh, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		committed, err := os.ReadFile(rel)
		if err != nil {
			t.Errorf("%s is not committed: run make generate", rel)
			return nil
		}
		seen++
		if !bytes.Equal(withoutVersions(fresh), withoutVersions(committed)) {
			t.Errorf("%s is out of date: run make generate", rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Error("nothing was generated: this test proves nothing")
	}
}

func withoutVersions(b []byte) []byte {
	var out bytes.Buffer
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "// \tprotoc") || strings.HasPrefix(line, "// protoc") {
			continue
		}
		out.WriteString(line)
	}
	return out.Bytes()
}
