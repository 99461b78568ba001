// Package archtest enforces the house's rules about who may import whom (docs/architecture.md).
package archtest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/orchestrator/orchestrator/"

type pkg struct {
	ImportPath string
	Imports    []string
}

// components never import each other: they meet on the wire. cli and up alone know them all.
var components = []string{
	"internal/master", "internal/agent", "internal/marathon", "internal/zksync", "internal/probe", "internal/monitor",
	"internal/dns", "internal/lb", "internal/consul", "internal/migrate",
}

// rooms that do not exist by rule: a package is named for its subject.
var forbiddenNames = []string{"util", "utils", "common", "helpers", "helper", "types", "structs", "misc", "shared"}

func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list found no package: this test would prove nothing")
	}
	return pkgs
}

// within reports whether the import path lies in the room (a path below the module).
func within(path, room string) bool {
	p := strings.TrimPrefix(path, module)
	return p == room || strings.HasPrefix(p, room+"/")
}

func componentOf(path string) string {
	for _, c := range components {
		if within(path, c) {
			return c
		}
	}
	return ""
}

func TestComponentsMeetOnlyOnTheWire(t *testing.T) {
	for _, p := range load(t) {
		own := componentOf(p.ImportPath)
		for _, imp := range p.Imports {
			other := componentOf(imp)
			switch {
			case other == "" || other == own:
			case within(p.ImportPath, "internal/cli"), within(p.ImportPath, "internal/up"), within(p.ImportPath, "internal/sim"):
			case within(p.ImportPath, "test"), within(p.ImportPath, "internal/dockertest"), within(p.ImportPath, "cmd/executor") && other == "internal/agent":
			default:
				t.Errorf("%s imports %s: components meet only on the wire", p.ImportPath, imp)
			}
		}
	}
}

func TestCoresArePure(t *testing.T) {
	banned := []string{"net", "net/http", "os", "os/exec", "math/rand", "crypto/rand", "syscall", "io/ioutil"}
	for _, p := range load(t) {
		if !strings.HasSuffix(p.ImportPath, "/core") && !strings.HasSuffix(p.ImportPath, "/allocator") || within(p.ImportPath, "api") {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(banned, imp) {
				t.Errorf("%s imports %s: core packages are pure (time, ids and choices arrive in events)", p.ImportPath, imp)
			}
		}
	}
}

// A generator that is made from a seed is as pure as a counter: cores may have one. The package's own functions are not.
func TestCoresSeedTheirRandomness(t *testing.T) {
	made := []string{"New", "NewPCG", "NewChaCha8", "Rand", "PCG", "ChaCha8", "Source"}
	for _, p := range load(t) {
		if !strings.HasSuffix(p.ImportPath, "/core") && !strings.HasSuffix(p.ImportPath, "/allocator") || !slices.Contains(p.Imports, "math/rand/v2") {
			continue
		}
		files, err := filepath.Glob(filepath.Join("../..", strings.TrimPrefix(p.ImportPath, module), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files found: %v", p.ImportPath, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			tree, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if id, ok := sel.X.(*ast.Ident); ok && id.Name == "rand" && !slices.Contains(made, sel.Sel.Name) {
						t.Errorf("%s uses rand.%s: cores draw from a seeded generator only", f, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func TestNoJunkDrawers(t *testing.T) {
	for _, p := range load(t) {
		name := p.ImportPath[strings.LastIndex(p.ImportPath, "/")+1:]
		if slices.Contains(forbiddenNames, name) {
			t.Errorf("%s: a package is named for its subject", p.ImportPath)
		}
	}
}

func TestOneRoomPerProtocol(t *testing.T) {
	rules := []struct {
		imported string
		by       []string
	}{
		{module + "internal/zk", []string{"internal/zk", "internal/election/zookeeper", "internal/store/zookeeper", "internal/zksync", "internal/cli", "internal/migrate"}},
		{"github.com/moby/moby/client", []string{"internal/agent/containerizer/docker", "internal/probe"}},
		{"github.com/go-zookeeper/zk", []string{}},
	}
	for _, p := range load(t) {
		for _, imp := range p.Imports {
			for _, r := range rules {
				if imp != r.imported && !strings.HasPrefix(imp, r.imported+"/") {
					continue
				}
				if !slices.ContainsFunc(r.by, func(room string) bool { return within(p.ImportPath, room) }) {
					t.Errorf("%s imports %s, which belongs to %v", p.ImportPath, imp, r.by)
				}
			}
		}
	}
}

// ownModule reports whether a directory is a Go module of its own: it can't import internal/realpart, and does the same by hand.
func ownModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// What a test does without its real part is internal/realpart's to say: with CI set it fails, so that nothing is skipped unseen.
func TestOnlyRealpartSkips(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../..", func(file string, e fs.DirEntry, err error) error {
		f := strings.TrimPrefix(filepath.ToSlash(file), "../../")
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "node_modules" || e.Name() == ".git"):
			return fs.SkipDir
		case e.IsDir() && (f == "internal/realpart" || strings.HasPrefix(f, "test/") && ownModule(file)):
			return fs.SkipDir
		case e.IsDir() || !strings.HasSuffix(f, ".go") || strings.HasSuffix(f, ".pb.go"):
			return nil
		}
		seen++
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(tree.Imports, func(s *ast.ImportSpec) bool { return s.Path.Value == `"testing"` }) {
			return nil
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				t.Errorf("%s skips a test by itself: internal/realpart says when a test may be skipped", f)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Fatalf("only %d files found: this test would prove little", seen)
	}
}
