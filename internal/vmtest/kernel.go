package vmtest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernelDir is where test/deps.sh unpacks the kernel's package, unless the variable kernelEnv says another place.
const (
	kernelDir = "/var/cache/orchestrator-tests/kernel"
	kernelEnv = "ORCHESTRATOR_TEST_KERNEL"
)

// kernel is an unpacked package of a kernel.
type kernel struct {
	image   string
	modules map[string]string // file by name
}

func findKernel() (*kernel, error) {
	dir := os.Getenv(kernelEnv)
	if dir == "" {
		dir = kernelDir
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("there is no kernel in %s: run test/deps.sh (Debian: linux-image-cloud-amd64)", dir)
	}
	k := &kernel{image: images[0], modules: make(map[string]string)}
	for _, lib := range []string{"lib", "usr/lib"} {
		root := filepath.Join(dir, lib, "modules")
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if name, _, ok := strings.Cut(filepath.Base(p), ".ko"); ok && e.Type().IsRegular() {
				k.modules[moduleName(name)] = p
			}
			return nil
		})
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return k, nil
}

// moduleName: a file's name has dashes where the module's has underscores, or not.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// module is one to load.
type module struct {
	name string
	code []byte
}

// load gives modules with all that they need, in the order in which they have to be loaded. One that the kernel's package does
// not have is left out: it may be built in.
func (k *kernel) load(names []string) ([]module, error) {
	var out []module
	seen := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		file, ok := k.modules[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		code, err := readModule(file)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		needs, err := dependencies(code)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		out = append(out, module{name, code})
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readModule(file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz":
		return exec.Command("xz", "-dc", file).Output()
	}
	return nil, fmt.Errorf("%s: unknown compression", filepath.Base(file))
}

// dependencies reads what a module needs out of the section .modinfo: NUL-terminated "key=value".
func dependencies(code []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("it has no section .modinfo")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if v, ok := strings.CutPrefix(kv, "depends="); ok {
			out = append(out, strings.Split(v, ",")...)
		}
		if v, ok := strings.CutPrefix(kv, "softdep=pre: "); ok {
			out = append(out, strings.Fields(v)...)
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" }), nil
}
