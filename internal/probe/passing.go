package probe

import (
	"net/netip"
	"slices"
	"strings"
)

// passing are containers that have come and gone between two rounds: nothing tells of them but the kernel's events of what they connected to.
// They stay as long as anything is left of their connections. Used by the owner goroutine.
type passing map[string]*passed // by runtime id

type passed struct {
	ref   containerRef
	place uint64 // stands for its network namespace, whose number the next one gets; 0: the host's, or one that others are in too
	addrs []netip.Addr
	at    int64 // of the last event, ms
}

// passedPlaces is where the numbers begin that stand for namespaces which have gone: the kernel's have 32 bits.
const passedPlaces = 1 << 40

// passingMillis is how long they stay: a server's socket waits for a minute after its client has gone.
const passingMillis = 90_000

// maxPassing bounds them. What is beyond is its host's, as without events.
const maxPassing = 1000

// containerOfPath finds the container in the last parts of a cgroup path.
func containerOfPath(path string) (ref containerRef) {
	ref = containerInPath(path)
	if ref.runtime == "lxc" && strings.Count(path, "/") >= nameLevels {
		return containerRef{} // told by its place from the root, which is not known
	}
	return ref
}

// notePassing finds the containers of events whose process nobody has met, and takes those that nobody has met either into the picture.
func (p *Probe) notePassing(events []netEvent, at int64) {
	for i := range events {
		e := &events[i]
		if e.accepted || e.path == "" || p.table.byPid[e.pid] != nil || e.cgroup != 0 && p.pic.byCg[e.cgroup] != nil {
			continue
		}
		ref := containerOfPath(e.path)
		if ref.id == "" {
			continue
		}
		e.container = ref.id
		if b := p.pic.boxes[ref.id]; b != nil && len(b.procs) > 0 {
			continue
		}
		x := p.passing[ref.id]
		if x == nil {
			if len(p.passing) >= maxPassing {
				continue
			}
			x = &passed{ref: ref}
			p.passing[ref.id] = x
		}
		x.at = at
		if p.ns.held[e.netns] == nil {
			if x.place == 0 {
				p.places++
				x.place = passedPlaces + p.places
			}
			e.netns = x.place
			if a := e.local.Addr(); !a.IsLoopback() && !slices.Contains(x.addrs, a) && len(x.addrs) < 16 {
				x.addrs = append(x.addrs, a)
			}
		}
	}
	p.addPassing(p.pic, at)
}

// addPassing puts those that have not been met since into a picture, and forgets the others, and those that are long gone.
func (p *Probe) addPassing(pic *picture, at int64) {
	for id, x := range p.passing {
		b := pic.boxes[id]
		if at-x.at > passingMillis || b != nil && len(b.procs) > 0 {
			delete(p.passing, id)
			continue
		}
		if b == nil {
			if b = pic.box(x.ref, p.cfg.Hostname); b == nil {
				continue
			}
		}
		b.passed = x
		if x.place != 0 {
			pic.byNS[x.place] = b
		}
	}
}

// passedAddrs gives the addresses of those that have gone to whoever had them last.
func (p *Probe) passedAddrs(give func(a netip.Addr, place uint64)) {
	newest := map[netip.Addr]*passed{}
	for _, x := range p.passing {
		for _, a := range x.addrs {
			if was := newest[a]; was == nil || x.place > was.place {
				newest[a] = x
			}
		}
	}
	for a, x := range newest {
		give(a, x.place)
	}
}
