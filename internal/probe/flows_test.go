package probe

import (
	"net/netip"
	"testing"
)

// loopWorld is a host on which everything is the host's own.
func loopWorld(events bool) *world {
	own := func(*socket) string { return "process;p" }
	return &world{
		hostID: "host;h", rootNS: 1, addrs: map[netip.Addr]uint64{}, nsEntity: func(uint64) string { return "host;h" }, events: events,
		ownerOf: own, byEvent: func(*netEvent) string { return "process;client" }, eventNS: func(*netEvent) uint64 { return 1 },
	}
}

// What is left of a connection whose server, on a port that a client could have been given, has closed it first and gone is no connection the other
// way round: ten thousand of them, of a load test, would be ten thousand edges to ports of clients.
func TestWhatIsLeftOfAServerIsNoClient(t *testing.T) {
	t.Parallel()
	server := netip.MustParseAddrPort("127.0.0.1:40000")
	client := func(i int) netip.AddrPort { return netip.AddrPortFrom(server.Addr(), uint16(50000+i)) }
	const n = 100
	for _, events := range []bool{true, false} {
		w, flows := loopWorld(events), newFlowTable()
		round := func(at int64, sockets ...socket) []edge {
			edges, _ := flows.update(at, sockets, w)
			for _, e := range edges {
				if e.key.port != server.Port() {
					t.Fatalf("events %v: an edge to port %d", events, e.key.port)
				}
			}
			return edges
		}
		listener := socket{state: tcpListen, local: server, netns: 1, inode: 1}
		// One that a dump has met on both sides, with the listener and after it has gone.
		ends := []socket{
			{state: tcpEstablished, local: client(n), remote: server, netns: 1, inode: 2}, {state: tcpEstablished, local: server, remote: client(n), netns: 1, inode: 3},
		}
		if got := round(1000, append(ends, listener)...); len(got) != 1 || got[0].conns != 1 {
			t.Fatalf("events %v: %+v", events, got)
		}
		if got := round(2000, ends...); len(got) != 1 || got[0].conns != 1 {
			t.Errorf("events %v: without its listener: %+v", events, got)
		}
		// Those that no dump has met.
		var left []socket
		for i := range n {
			if events {
				flows.events = append(flows.events, netEvent{local: client(i), remote: server}, netEvent{local: server, remote: client(i), accepted: true})
			}
			left = append(left, socket{state: tcpTimeWait, local: server, remote: client(i), netns: 1})
		}
		for at := int64(3000); at < 8000; at += 1000 {
			round(at, left...)
		}
		if got := round(9000); events && len(got) == 0 {
			t.Error("the connections that events told of are on no edge")
		}
		// A client that has closed first, of a server that is still there or elsewhere, is one.
		flows = newFlowTable()
		if got := round(1000, listener, socket{state: tcpTimeWait, local: client(0), remote: server, netns: 1}); len(got) != 1 {
			t.Errorf("events %v: a client's end: %+v", events, got)
		}
		flows = newFlowTable()
		far := netip.MustParseAddrPort("192.0.2.1:40000")
		if got := round(1000, socket{state: tcpTimeWait, local: netip.MustParseAddrPort("192.0.2.9:50000"), remote: far, netns: 1}); len(got) != 1 {
			t.Errorf("events %v: a client of another host: %+v", events, got)
		}
	}
}
