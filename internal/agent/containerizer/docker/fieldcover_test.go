package docker

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// TestEveryFieldHasARow: each field that a ContainerInfo can have, however deep, is set in a row of TestFields, TestParameters or
// TestRefused, so that one which the schema gains is not silently ignored.
func TestEveryFieldHasARow(t *testing.T) {
	t.Parallel()
	covered := map[protoreflect.FullName]bool{}
	values := map[protoreflect.FullName]map[protoreflect.EnumNumber]bool{} // of the enums that change what is made
	var look func(m protoreflect.Message)
	look = func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			covered[f.FullName()] = true
			switch {
			case f.IsList() && f.Message() != nil:
				for i := range v.List().Len() {
					look(v.List().Get(i).Message())
				}
			case f.Message() != nil:
				look(v.Message())
			case f.Enum() != nil && !f.IsList():
				name := f.Enum().FullName()
				if values[name] == nil {
					values[name] = map[protoreflect.EnumNumber]bool{}
				}
				values[name][v.Enum()] = true
			}
			return true
		})
	}
	for _, r := range fieldRows(&host{t: t, dir: "/x"}, nil, "/data") {
		ti := &mesosv1.TaskInfo{Command: shell("true"), Container: hostNet()}
		r.make(ti, ti.Container)
		look(ti.Container.ProtoReflect())
	}
	for _, r := range plannedRows {
		info := dockerInfo(bridge)
		r.make(info)
		look(info.ProtoReflect())
	}
	for _, f := range refusals() {
		cfg := containerizer.Config{Container: hostNet()}
		f(&cfg, cfg.Container)
		look(cfg.Container.ProtoReflect())
	}
	// What is refused as a whole need not be taken apart.
	whole := []string{"mesos.v1.Volume.image", "mesos.v1.Volume.Source.csi_volume", "mesos.v1.Secret.reference"}
	// What is looked at elsewhere, or is not for Docker: as with Mesos it is not an error there.
	elsewhere := map[string]string{
		"mesos.v1.ContainerInfo.mesos":                       "the mesos containerizer's",
		"mesos.v1.ContainerInfo.DockerInfo.force_pull_image": "TestImages",
		"mesos.v1.NetworkInfo.groups":                        "for CNI plugins",
		"mesos.v1.NetworkInfo.labels":                        "for CNI plugins",
		"mesos.v1.NetworkInfo.port_mappings":                 "for CNI plugins; Docker's are docker.port_mappings",
		"mesos.v1.LinuxInfo.share_cgroups":                   "for nested containers",
	}
	seen := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor, path string)
	walk = func(m protoreflect.MessageDescriptor, path string) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if elsewhere[string(f.FullName())] != "" {
				continue
			}
			if !covered[f.FullName()] {
				t.Errorf("%s.%s (%s) is set in no row", path, f.Name(), f.FullName())
			}
			stop := false
			for _, w := range whole {
				stop = stop || w == string(f.FullName())
			}
			if f.Message() != nil && !stop {
				walk(f.Message(), path+"."+string(f.Name()))
			}
		}
	}
	walk((*mesosv1.ContainerInfo)(nil).ProtoReflect().Descriptor(), "container")
	for _, e := range []protoreflect.EnumDescriptor{
		mesosv1.ContainerInfo_DockerInfo_HOST.Descriptor(), mesosv1.Volume_RW.Descriptor(), mesosv1.Volume_Source_SECRET.Descriptor(),
		mesosv1.Volume_Source_SandboxPath_SELF.Descriptor(), mesosv1.MountPropagation_BIDIRECTIONAL.Descriptor(), mesosv1.LinuxInfo_PRIVATE.Descriptor(),
		mesosv1.ContainerInfo_DOCKER.Descriptor(),
	} {
		for i := range e.Values().Len() {
			if v := e.Values().Get(i); !strings.Contains(string(v.Name()), "UNKNOWN") && !values[e.FullName()][v.Number()] {
				t.Errorf("%s is in no row", v.FullName())
			}
		}
	}
}
