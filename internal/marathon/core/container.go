package core

import (
	"fmt"
	"math"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

var inf = math.Inf(1)

// container is the ContainerInfo of an app, nil for one that runs without an image on the host's network.
func (b *builder) container(task string, ports []spec.Port, host []int) *mesosv1.ContainerInfo {
	a := b.spec.App
	c := a.Container
	if c == nil {
		if a.TTY != nil && *a.TTY {
			return &mesosv1.ContainerInfo{Type: new(mesosv1.ContainerInfo_MESOS), TtyInfo: &mesosv1.TTYInfo{}}
		}
		return nil
	}
	out := &mesosv1.ContainerInfo{LinuxInfo: linuxInfo(c.LinuxInfo, nil)}
	if a.TTY != nil && *a.TTY {
		out.TtyInfo = &mesosv1.TTYInfo{}
	}
	for _, v := range c.Volumes {
		if x := volume(v, a.Secrets); x != nil {
			out.Volumes = append(out.Volumes, x)
		}
	}
	inside := containerPorts(ports, host)
	if c.Type == "DOCKER" {
		out.Type = new(mesosv1.ContainerInfo_DOCKER)
		out.Docker = b.docker(task, ports, host, inside)
		if a.Networks[0].Mode == spec.NetworkContainer {
			out.NetworkInfos = []*mesosv1.NetworkInfo{{Name: optional(a.Networks[0].Name), Labels: labels(a.Networks[0].Labels)}}
		}
		return out
	}
	out.Type = new(mesosv1.ContainerInfo_MESOS)
	if c.Docker != nil {
		out.Mesos = &mesosv1.ContainerInfo_MesosInfo{Image: image(c.Docker.Image, c.Docker.ForcePullImage, c.Docker.PullConfig, a.Secrets)}
	}
	out.NetworkInfos = networkInfos(a.Networks, ports, host, inside)
	return out
}

func (b *builder) docker(task string, ports []spec.Port, host, inside []int) *mesosv1.ContainerInfo_DockerInfo {
	a := b.spec.App
	d := a.Container.Docker
	out := &mesosv1.ContainerInfo_DockerInfo{Image: new(d.Image), Privileged: new(d.Privileged), ForcePullImage: new(d.ForcePullImage)}
	for _, p := range d.Parameters {
		out.Parameters = append(out.Parameters, &mesosv1.Parameter{Key: new(p.Key), Value: new(p.Value)})
	}
	out.Parameters = append(out.Parameters, &mesosv1.Parameter{Key: new("label"), Value: new("MESOS_TASK_ID=" + task)})
	switch a.Networks[0].Mode {
	case spec.NetworkHost:
		out.Network = new(mesosv1.ContainerInfo_DockerInfo_HOST)
		return out
	case spec.NetworkBridge:
		out.Network = new(mesosv1.ContainerInfo_DockerInfo_BRIDGE)
	default:
		out.Network = new(mesosv1.ContainerInfo_DockerInfo_USER)
	}
	at := 0
	for k, p := range ports {
		if p.HostPort == nil {
			continue
		}
		for proto := range strings.SplitSeq(p.Protocol, ",") {
			out.PortMappings = append(out.PortMappings, &mesosv1.ContainerInfo_DockerInfo_PortMapping{
				HostPort:      new(uint32(host[at])),
				ContainerPort: new(uint32(inside[k])), Protocol: new(proto),
			})
		}
		at++
	}
	return out
}

func networkInfos(nets []spec.Network, ports []spec.Port, host, inside []int) []*mesosv1.NetworkInfo {
	var out []*mesosv1.NetworkInfo
	for _, n := range nets {
		if n.Mode == spec.NetworkHost {
			return nil
		}
		name := n.Name
		if n.Mode == spec.NetworkBridge {
			name = bridgeNetwork
		}
		info := &mesosv1.NetworkInfo{Name: &name, Labels: labels(n.Labels), IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{Protocol: new(mesosv1.NetworkInfo_IPv4)}}}
		at := 0
		for k, p := range ports {
			if p.HostPort == nil {
				continue
			}
			if len(p.NetworkNames) == 0 || p.NetworkNames[0] == n.Name {
				for proto := range strings.SplitSeq(p.Protocol, ",") {
					info.PortMappings = append(info.PortMappings, &mesosv1.NetworkInfo_PortMapping{HostPort: new(uint32(host[at])), ContainerPort: new(uint32(inside[k])), Protocol: new(proto)})
				}
			}
			at++
		}
		out = append(out, info)
	}
	return out
}

func image(name string, forcePull bool, pull *spec.PullConfig, secrets map[string]spec.Secret) *mesosv1.Image {
	i := &mesosv1.Image{Type: new(mesosv1.Image_DOCKER), Docker: &mesosv1.Image_Docker{Name: &name}, Cached: new(!forcePull)}
	if pull != nil {
		i.Docker.Config = secretRef(secrets[pull.Secret].Source)
	}
	return i
}

func linuxInfo(l *spec.LinuxInfo, shareCgroups *bool) *mesosv1.LinuxInfo {
	if l == nil && shareCgroups == nil {
		return nil
	}
	out := &mesosv1.LinuxInfo{ShareCgroups: shareCgroups}
	if l == nil {
		return out
	}
	if l.Seccomp != nil {
		out.Seccomp = &mesosv1.SeccompInfo{ProfileName: optional(l.Seccomp.ProfileName), Unconfined: l.Seccomp.Unconfined}
	}
	if l.IPCInfo != nil {
		out.IpcMode = new(mesosv1.LinuxInfo_PRIVATE)
		if l.IPCInfo.Mode == "SHARE_PARENT" {
			out.IpcMode = new(mesosv1.LinuxInfo_SHARE_PARENT)
		}
		if l.IPCInfo.ShmSize != nil {
			out.ShmSize = new(uint32(*l.IPCInfo.ShmSize))
		}
	}
	return out
}

func mode(m string) *mesosv1.Volume_Mode {
	if m == "RO" {
		return new(mesosv1.Volume_RO)
	}
	return new(mesosv1.Volume_RW)
}

// volume is a mount of an app that is not a resource; persistent volumes come with the resources.
func volume(v spec.Volume, secrets map[string]spec.Secret) *mesosv1.Volume {
	switch {
	case v.HostPath != "":
		return &mesosv1.Volume{Mode: mode(v.Mode), ContainerPath: new(v.ContainerPath), HostPath: new(v.HostPath)}
	case v.Secret != "":
		return &mesosv1.Volume{Mode: mode("RO"), ContainerPath: new(v.ContainerPath), Source: &mesosv1.Volume_Source{Type: new(mesosv1.Volume_Source_SECRET), Secret: secretRef(secrets[v.Secret].Source)}}
	case v.External != nil && v.External.Provider == "dvdi":
		driver := v.External.Options["dvdi/driver"]
		src := &mesosv1.Volume_Source_DockerVolume{Driver: optional(driver), Name: new(v.External.Name), DriverOptions: &mesosv1.Parameters{}}
		for _, k := range sortedKeys(v.External.Options) {
			if name, ok := strings.CutPrefix(k, "dvdi/"); ok && name != "driver" {
				src.DriverOptions.Parameter = append(src.DriverOptions.Parameter, &mesosv1.Parameter{Key: &name, Value: new(v.External.Options[k])})
			}
		}
		if v.External.Size != nil {
			src.DriverOptions.Parameter = append(src.DriverOptions.Parameter, &mesosv1.Parameter{Key: new("size"), Value: new(fmt.Sprint(*v.External.Size))})
		}
		return &mesosv1.Volume{Mode: mode(v.Mode), ContainerPath: new(v.ContainerPath), Source: &mesosv1.Volume_Source{Type: new(mesosv1.Volume_Source_DOCKER_VOLUME), DockerVolume: src}}
	}
	return nil
}

// wantedVolume is a persistent volume to be made.
type wantedVolume struct {
	path string
	v    *spec.PersistentVolume
}

func appVolumes(a *spec.App) []wantedVolume {
	var out []wantedVolume
	for _, v := range a.Container.Volumes {
		if v.Persistent != nil {
			out = append(out, wantedVolume{v.ContainerPath, v.Persistent})
		}
	}
	return out
}

func podVolumes(p *spec.Pod) []wantedVolume {
	var out []wantedVolume
	for _, v := range p.Volumes {
		if v.Persistent != nil {
			out = append(out, wantedVolume{v.Name, v.Persistent})
		}
	}
	return out
}

// reserve turns what was taken into a reservation of the instance's own, makes its volumes, and gives what the launch uses.
// All of it goes into the same ACCEPT as the launch: Mesos applies the operations in order, or none of what follows a
// failed one.
func (b *builder) reserve(pl *placement, res []*mesosv1.Resource, volumes []wantedVolume) ([]*mesosv1.Resource, []Reason, string) {
	fw, inst := b.m.frameworkID, b.inst.ID
	mark := &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: new(labelFramework), Value: &fw}, {Key: new(labelInstance), Value: &inst}}}
	role := b.spec.Role()
	own := func(r *mesosv1.Resource) *mesosv1.Resource {
		c := r.CloneVT()
		c.Role = &role
		c.Reservation = &mesosv1.Resource_ReservationInfo{Labels: mark, Principal: optional(b.m.opt.Principal)}
		c.Reservations = nil
		return c
	}
	var reserved, launch []*mesosv1.Resource
	for _, r := range res {
		if len(r.GetReservations()) > 0 || r.GetRole() != "" && r.GetRole() != "*" {
			launch = append(launch, r) // reserved for the role already: it can't be reserved a second time
			continue
		}
		o := own(r)
		reserved = append(reserved, o)
		launch = append(launch, o)
	}
	var created []*mesosv1.Resource
	for _, w := range volumes {
		disk, ok := b.purse.room(w.v, &b.m.patterns)
		if !ok {
			return nil, []Reason{InsufficientDisk}, fmt.Sprintf("the volume %s needs %d MiB of a disk of type %s", w.path, w.v.Size, w.v.Type)
		}
		uuid := b.m.uuid()
		id := spec.SafeID(b.spec.ID) + "#" + w.path + "#" + uuid
		b.inst.Volumes = append(b.inst.Volumes, LocalVolume{ContainerPath: w.path, UUID: uuid, PersistenceID: id})
		o := own(disk)
		reserved = append(reserved, o)
		v := o.CloneVT()
		if v.Disk == nil {
			v.Disk = &mesosv1.Resource_DiskInfo{}
		}
		v.Disk.Persistence = &mesosv1.Resource_DiskInfo_Persistence{Id: &id, Principal: optional(b.m.opt.Principal)}
		v.Disk.Volume = &mesosv1.Volume{Mode: mode("RW"), ContainerPath: new(w.path)}
		created = append(created, v)
		launch = append(launch, v)
	}
	pl.ops = append(pl.ops,
		&mesosv1.Offer_Operation{Type: new(mesosv1.Offer_Operation_RESERVE), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: reserved}},
		&mesosv1.Offer_Operation{Type: new(mesosv1.Offer_Operation_CREATE), Create: &mesosv1.Offer_Operation_Create{Volumes: created}})
	b.inst.Reserved = true
	return launch, nil, ""
}
