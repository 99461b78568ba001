package probe

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// natTable is what the kernel's connection tracking tells: which connections NAT leads elsewhere.
type natTable struct {
	entries []translation
	plain   []translation // without NAT: evidence of connections, for hosts with no better source
	next    time.Time
}

// natEvery is how often the table is read; it is a dump of every connection of the host.
const natEvery = 5 * time.Second

// maxNAT bounds what is kept of one dump.
const maxNAT = 100_000

// readNAT reads the table when it is due and there is one.
func (p *Probe) readNAT(now time.Time) {
	if p.cfg.Conntrack == "off" {
		return
	}
	if p.cfg.Conntrack == "auto" && p.cfg.NetSource != "conntrack" {
		if _, err := os.Stat(filepath.Join(p.cfg.ProcRoot, conntrackCount)); err != nil {
			p.setState("net.conntrack", "off", "connection tracking is not in use on this host")
			return
		}
	}
	if p.nat == nil {
		p.nat = &natTable{}
	}
	if now.Before(p.nat.next) {
		return
	}
	p.nat.next = now.Add(natEvery)
	if b, err := os.ReadFile(filepath.Join(p.cfg.ProcRoot, conntrackCount)); err == nil && strings.TrimSpace(string(b)) == "0" {
		// The table is long to walk, however empty it is.
		p.nat.entries, p.nat.plain = p.nat.entries[:0], p.nat.plain[:0]
	} else if err := p.nat.read(); err != nil {
		state := "failed"
		text := err.Error()
		if errors.Is(err, unix.EPERM) {
			state, text = "off", "may not read connection tracking: run the probe as root (or with CAP_NET_ADMIN); connections through NAT show their outer address"
		}
		p.setState("net.conntrack", state, text)
		p.flows.nat = nil
		return
	}
	p.flows.nat = p.nat.entries
	p.setState("net.conntrack", "ok", "")
}

// conntrackCount is how many connections of this network namespace are tracked.
const conntrackCount = "sys/net/netfilter/nf_conntrack_count"

func (n *natTable) read() error {
	n.entries, n.plain = n.entries[:0], n.plain[:0]
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			if family == unix.AF_INET6 {
				continue
			}
			return err
		}
		for _, f := range flows {
			udp := f.Forward.Protocol == unix.IPPROTO_UDP
			if !udp && f.Forward.Protocol != unix.IPPROTO_TCP {
				continue
			}
			t := translation{udp: udp}
			t.client, t.dialled = tupleEnd(f.Forward.SrcIP, f.Forward.SrcPort), tupleEnd(f.Forward.DstIP, f.Forward.DstPort)
			t.server, t.seenAs = tupleEnd(f.Reverse.SrcIP, f.Reverse.SrcPort), tupleEnd(f.Reverse.DstIP, f.Reverse.DstPort)
			switch {
			case len(n.entries)+len(n.plain) >= maxNAT:
			case t.server != t.dialled || t.seenAs != t.client:
				n.entries = append(n.entries, t)
			default:
				n.plain = append(n.plain, t)
			}
		}
	}
	return nil
}

func tupleEnd(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// asEvents turns the table into connections, for when it is the only source: the client is whoever has its address.
func (n *natTable) asEvents(w *world) []netEvent {
	var out []netEvent
	for _, list := range [][]translation{n.entries, n.plain} {
		for _, t := range list {
			if ns, ok := w.addrs[t.client.Addr()]; ok {
				out = append(out, netEvent{local: t.client, remote: t.dialled, netns: ns, udp: t.udp})
			} else if ns, ok := w.addrs[t.server.Addr()]; ok {
				out = append(out, netEvent{local: t.server, remote: t.seenAs, netns: ns, udp: t.udp, accepted: true})
			}
		}
	}
	return out
}
