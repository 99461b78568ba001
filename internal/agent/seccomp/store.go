package seccomp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/orchestrator/orchestrator/internal/agent/confine"
)

// maxProfile is the greatest size of a profile's file.
const maxProfile = 1 << 20

// Store finds profiles beneath a directory (Mesos' --seccomp_config_dir).
type Store struct {
	// Dir may be empty: then only the built-in profile is known.
	Dir string
}

// Load reads a profile and resolves what in it depends on the architecture, the kernel and the container's bounding
// capabilities. nil bounding: all of them.
func (s Store) Load(name string, bounding []confine.Capability) (*specs.LinuxSeccomp, error) {
	if bounding == nil {
		for c := range confine.Capability(41) {
			bounding = append(bounding, c)
		}
	}
	rs := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: confine.Names(bounding)}}}
	if name == confine.DefaultProfile {
		return profiles.GetDefaultProfile(rs)
	}
	text, err := s.read(name)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w", name, err)
	}
	p, err := profiles.LoadProfile(string(text), rs)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w", name, err)
	}
	if p == nil {
		return nil, fmt.Errorf("seccomp profile %q: it has neither a defaultAction nor syscalls", name)
	}
	return p, nil
}

func (s Store) read(name string) ([]byte, error) {
	switch {
	case s.Dir == "":
		return nil, errors.New("the agent has no directory of profiles: --seccomp_config_dir")
	case path.IsAbs(name):
		return nil, errors.New("its name must be relative to the directory of profiles")
	}
	root, err := os.OpenRoot(s.Dir) // no name and no link leads out of it
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(text) > maxProfile {
		err = fmt.Errorf("it is larger than %d bytes", maxProfile)
	}
	return text, err
}
