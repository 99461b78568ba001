package confine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// DNS is what a container's resolver is told.
type DNS struct {
	Nameservers []string `json:"nameservers"`
	Search      []string `json:"search"`
	Options     []string `json:"options"`
}

// DefaultDNS is --default_container_dns (Mesos' ContainerDNSInfo): what containers of a network get whose plugin says
// nothing. An entry without a network's name is for all that have none of their own.
type DefaultDNS struct {
	Mesos  []NetworkDNS `json:"mesos"`
	Docker []NetworkDNS `json:"docker"`
}

// NetworkDNS is one entry.
type NetworkDNS struct {
	Mode string `json:"network_mode"` // CNI; for docker HOST, BRIDGE, NONE, USER
	Name string `json:"network_name"`
	DNS  DNS    `json:"dns"`
}

// DNSOf reads the flag; empty: nothing was said.
func DNSOf(text string) (*DefaultDNS, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	d := &DefaultDNS{}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		return nil, err
	}
	for i, n := range append(append([]NetworkDNS(nil), d.Mesos...), d.Docker...) {
		if i < len(d.Mesos) && n.Mode != "CNI" {
			return nil, fmt.Errorf("mesos: network_mode %q is not CNI", n.Mode)
		}
		for _, a := range n.DNS.Nameservers {
			if _, err := netip.ParseAddr(a); err != nil {
				return nil, fmt.Errorf("nameserver: %w", err)
			}
		}
		for _, w := range append(append([]string(nil), n.DNS.Search...), n.DNS.Options...) {
			if w == "" || strings.ContainsAny(w, " \t\n\r") {
				return nil, fmt.Errorf("%q is no word of a resolver's configuration", w)
			}
		}
	}
	return d, nil
}

// For gives what containers of a network get, or nil.
func (d *DefaultDNS) For(network string) *DNS {
	if d == nil {
		return nil
	}
	var common *DNS
	for i := range d.Mesos {
		switch d.Mesos[i].Name {
		case network:
			return &d.Mesos[i].DNS
		case "":
			common = &d.Mesos[i].DNS
		}
	}
	return common
}

// Text writes a resolver's configuration file.
func (d *DNS) Text() string {
	var b strings.Builder
	if len(d.Search) > 0 {
		b.WriteString("search " + strings.Join(d.Search, " ") + "\n")
	}
	if len(d.Options) > 0 {
		b.WriteString("options " + strings.Join(d.Options, " ") + "\n")
	}
	for _, n := range d.Nameservers {
		b.WriteString("nameserver " + n + "\n")
	}
	return b.String()
}
