package zookeeper

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/election"
)

// Labels of candidates' nodes.
const (
	labelJSON   = "json.info_"
	labelProto  = "info_"
	labelMember = "member_"
)

// candidate splits a node's name; ok is false for nodes that are no candidates (log_replicas and whatever else is there).
func candidate(name string) (label string, number int64, ok bool) {
	for _, l := range []string{labelJSON, labelProto, labelMember, ""} {
		rest, found := strings.CutPrefix(name, l)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(rest, 10, 32) // the counter is an int32 that may overflow to negative
		return l, n, err == nil && rest != "" && rest[0] != '+'
	}
	return "", 0, false
}

type jsonAddress struct {
	Hostname string `json:"hostname,omitempty"`
	IP       string `json:"ip,omitempty"`
	Port     int32  `json:"port"`
}

type jsonName struct {
	Name string `json:"name"`
}

type jsonDomain struct {
	FaultDomain *struct {
		Region jsonName `json:"region"`
		Zone   jsonName `json:"zone"`
	} `json:"fault_domain,omitempty"`
}

type jsonCapability struct {
	Type string `json:"type"`
}

// jsonInfo is MasterInfo as it stands in the node: fields in alphabetical order, compact.
type jsonInfo struct {
	Address      *jsonAddress     `json:"address,omitempty"`
	Capabilities []jsonCapability `json:"capabilities,omitempty"`
	Domain       *jsonDomain      `json:"domain,omitempty"`
	Hostname     string           `json:"hostname,omitempty"`
	ID           string           `json:"id"`
	IP           uint32           `json:"ip"`
	PID          string           `json:"pid,omitempty"`
	Port         uint32           `json:"port"`
	Version      string           `json:"version,omitempty"`
}

// encodeInfo makes the node's content. What MasterInfo says twice (ip, port, pid beside address) is filled in when missing.
func encodeInfo(self election.Leader) (label string, data []byte, err error) {
	if self.Info == nil {
		return labelMember, []byte(self.Address), nil
	}
	m := self.Info
	host, portText, err := net.SplitHostPort(self.Address)
	if err != nil {
		return "", nil, fmt.Errorf("address to announce: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", nil, fmt.Errorf("address to announce %q: %w", self.Address, err)
	}
	j := jsonInfo{Hostname: m.GetHostname(), ID: m.GetId(), IP: m.GetIp(), PID: m.GetPid(), Port: uint32(port), Version: m.GetVersion()}
	if m.Port != nil {
		j.Port = m.GetPort()
	}
	if a := m.GetAddress(); a != nil {
		j.Address = &jsonAddress{a.GetHostname(), a.GetIp(), a.GetPort()}
	} else {
		j.Address = &jsonAddress{Hostname: m.GetHostname(), Port: int32(port)}
	}
	if j.Address.IP == "" {
		if ip := net.ParseIP(host); ip != nil {
			j.Address.IP = ip.String()
		}
	}
	// ip is the address' four bytes, in network order, read as a little-endian number.
	if ip4 := net.ParseIP(j.Address.IP).To4(); j.IP == 0 && ip4 != nil {
		j.IP = binary.LittleEndian.Uint32(ip4)
	}
	if j.PID == "" {
		j.PID = "master@" + self.Address
	}
	if fd := m.GetDomain().GetFaultDomain(); fd != nil {
		d := &jsonDomain{}
		_ = json.Unmarshal([]byte(`{"fault_domain":{}}`), d)
		d.FaultDomain.Region.Name, d.FaultDomain.Zone.Name = fd.GetRegion().GetName(), fd.GetZone().GetName()
		j.Domain = d
	}
	for _, c := range m.GetCapabilities() {
		j.Capabilities = append(j.Capabilities, jsonCapability{c.GetType().String()})
	}
	data, err = json.Marshal(j)
	return labelJSON, data, err
}

// decodeInfo reads a candidate's node, in any of the forms.
func decodeInfo(label string, data []byte) (*election.Leader, error) {
	switch label {
	case labelJSON:
		var j jsonInfo
		if err := json.Unmarshal(data, &j); err != nil {
			return nil, fmt.Errorf("reading MasterInfo: %w", err)
		}
		return leaderOf(infoOf(&j))
	case labelProto:
		m := &mesosv1.MasterInfo{}
		if err := proto.Unmarshal(data, m); err != nil {
			return nil, fmt.Errorf("reading MasterInfo: %w", err)
		}
		return leaderOf(m)
	case labelMember:
		return leaderAt(string(data), nil)
	default: // a bare pid
		_, address, ok := strings.Cut(string(data), "@")
		if !ok {
			return nil, fmt.Errorf("%.100q is no pid", data)
		}
		return leaderAt(address, nil)
	}
}

func infoOf(j *jsonInfo) *mesosv1.MasterInfo {
	str := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	m := &mesosv1.MasterInfo{
		Id: proto.String(j.ID), Ip: proto.Uint32(j.IP), Port: proto.Uint32(j.Port), Pid: str(j.PID), Hostname: str(j.Hostname), Version: str(j.Version),
	}
	if a := j.Address; a != nil {
		m.Address = &mesosv1.Address{Hostname: str(a.Hostname), Ip: str(a.IP), Port: proto.Int32(a.Port)}
	}
	if j.Domain != nil && j.Domain.FaultDomain != nil {
		m.Domain = &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
			Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String(j.Domain.FaultDomain.Region.Name)},
			Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String(j.Domain.FaultDomain.Zone.Name)},
		}}
	}
	for _, c := range j.Capabilities {
		if v, ok := mesosv1.MasterInfo_Capability_Type_value[c.Type]; ok {
			m.Capabilities = append(m.Capabilities, &mesosv1.MasterInfo_Capability{Type: mesosv1.MasterInfo_Capability_Type(v).Enum()})
		}
	}
	return m
}

// leaderOf finds the address in a MasterInfo, where clients look for it: address, then pid, then ip or hostname and port.
func leaderOf(m *mesosv1.MasterInfo) (*election.Leader, error) {
	if a := m.GetAddress(); a != nil && a.GetPort() > 0 {
		host := a.GetIp()
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = a.GetHostname()
		}
		if host != "" {
			return leaderAt(net.JoinHostPort(host, strconv.Itoa(int(a.GetPort()))), m)
		}
	}
	if _, address, ok := strings.Cut(m.GetPid(), "@"); ok {
		return leaderAt(address, m)
	}
	host := m.GetHostname()
	if ip := m.GetIp(); ip != 0 {
		host = net.IP(binary.LittleEndian.AppendUint32(nil, ip)).String()
	}
	return leaderAt(net.JoinHostPort(host, strconv.Itoa(int(m.GetPort()))), m)
}

func leaderAt(address string, m *mesosv1.MasterInfo) (*election.Leader, error) {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
		return nil, fmt.Errorf("the leader's address %.100q is not host:port", address)
	}
	return &election.Leader{Address: address, Info: m}, nil
}
