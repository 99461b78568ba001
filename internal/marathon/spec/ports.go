package spec

// Port is a port of an app, whichever way it was written.
type Port struct {
	Name          string
	Protocol      string // tcp, udp or udp,tcp
	Labels        map[string]string
	ServicePort   int
	ContainerPort int      // 0 in host networking, and in containers that take the number of their host port
	HostPort      *int     // nil: none on the host; 0: any; otherwise exactly this one
	NetworkNames  []string // container networks that the port belongs to
}

// Ports lists the app's ports in the order that portIndex refers to.
func (a *App) Ports() []Port {
	if a.HostNetworking() {
		out := make([]Port, 0, len(a.PortDefinitions))
		for _, d := range a.PortDefinitions {
			host := 0
			if a.RequirePorts {
				host = d.Port
			}
			out = append(out, Port{Name: d.Name, Protocol: d.Protocol, Labels: d.Labels, ServicePort: d.Port, HostPort: &host})
		}
		return out
	}
	if a.Container == nil {
		return nil
	}
	out := make([]Port, 0, len(a.Container.PortMappings))
	for _, m := range a.Container.PortMappings {
		out = append(out, Port{
			Name: m.Name, Protocol: m.Protocol, Labels: m.Labels, ServicePort: m.ServicePort,
			ContainerPort: m.ContainerPort, HostPort: m.HostPort, NetworkNames: m.NetworkNames,
		})
	}
	return out
}

// ServicePorts lists the app's service ports in order.
func (a *App) ServicePorts() []int {
	ports := a.Ports()
	out := make([]int, len(ports))
	for i, p := range ports {
		out[i] = p.ServicePort
	}
	return out
}

// setServicePort changes the service port at an index of a definition that is still being made.
func (a *App) setServicePort(i, port int) {
	if a.HostNetworking() {
		a.PortDefinitions[i].Port = port
		return
	}
	a.Container.PortMappings[i].ServicePort = port
}
