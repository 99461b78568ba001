package estate

import (
	"net/netip"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/series"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// Health of an entity.
type Health uint8

// The numbers are those of the API.
const (
	HealthUnknown Health = 0
	HealthOK      Health = 1
	HealthWarn    Health = 2
	HealthCrit    Health = 3
	HealthStale   Health = 4
)

var healthNames = [...]string{"unknown", "ok", "warn", "crit", "stale"}

func (h Health) String() string { return healthNames[h] }

// Worse gives the one that a group of both shows.
func Worse(a, b Health) Health {
	rank := [...]int{0, 1, 3, 4, 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// Attr is one attribute; labels have the prefix "label.".
type Attr struct{ Key, Value string }

// Reason is a verdict about an entity.
type Reason struct {
	Code     string `json:"code"`
	Severity int    `json:"severity"`
	Text     string `json:"text"`
	SinceMs  int64  `json:"since_ms"`
}

// numbers are the metrics of one entity. They outlive it in recordings, so they are an object of their own.
type numbers struct{ list []metric }

type metric struct {
	name string
	ring series.Ring
}

func (n *numbers) ring(name string) *series.Ring {
	for i := range n.list {
		if n.list[i].name == name {
			return &n.list[i].ring
		}
	}
	return nil
}

// add makes a metric's ring; nil when there are enough.
func (n *numbers) add(name string, slots int) *series.Ring {
	if len(n.list) >= maxMetrics {
		return nil
	}
	if len(n.list) == cap(n.list) {
		// The metrics of an entity come all at once and then never again: room for twice as many would stay empty.
		n.list = append(make([]metric, 0, len(n.list)+4), n.list...)
	}
	n.list = append(n.list, metric{name, series.MakeRing(slots)})
	return &n.list[len(n.list)-1].ring
}

func (n *numbers) size() (bytes int) {
	for i := range n.list {
		bytes += n.list[i].ring.Size()
	}
	return bytes
}

// Entity is one thing of the estate.
type Entity struct {
	ID, Kind, Label, State string
	StartedMs              int64
	SinceMs                int64 // when State was last seen to change
	ExitCode               int
	Parents                []string
	Attrs                  []Attr
	Controls               []string
	Health                 Health
	Reasons                []Reason
	Stale                  bool
	Pseudo                 bool

	probe    *Probe
	ref      uint32
	told     []Reason // what the probe itself said
	metrics  *numbers
	parents  []*Entity // those of Parents that are known
	children map[*Entity]struct{}
	bases    map[*Edge]struct{}
	failing  float32
	dirty    Change
	gone     bool
	recorded place
}

// Attr gives an attribute, "" when there is none.
func (e *Entity) Attr(key string) string {
	for i := range e.Attrs {
		if e.Attrs[i].Key == key {
			return e.Attrs[i].Value
		}
	}
	return ""
}

// Probe is the probe that reports the entity; nil for what stands for the outside.
func (e *Entity) Probe() *Probe { return e.probe }

// Gone reports whether the entity has left the estate.
func (e *Entity) Gone() bool { return e.gone }

// stopped reports whether it uses nothing now, whatever it used last.
func (e *Entity) stopped() bool {
	return e.Kind == topology.KindContainer && (e.State == topology.StateExited || e.State == topology.StateDead || e.State == topology.StateCreated)
}

// Number gives a metric's newest value. What has stopped has none.
func (e *Entity) Number(name string) (float64, bool) {
	if e.stopped() {
		return 0, false
	}
	return e.Last(name)
}

// Last gives a metric's newest value, also of what has stopped since.
func (e *Entity) Last(name string) (float64, bool) {
	if r := e.Ring(name); r != nil {
		return float64(r.Now()), true
	}
	return 0, false
}

// NumberAt gives a metric's value at a time of the last hour.
func (e *Entity) NumberAt(name string, ms int64) (float64, bool) {
	if r := e.Ring(name); r != nil {
		v := r.At(ms)
		return v, v == v
	}
	return 0, false
}

// Ring gives a metric's last hour, nil when there is none.
func (e *Entity) Ring(name string) *series.Ring { return e.metrics.ring(name) }

// MetricNames lists the metrics of the entity.
func (e *Entity) MetricNames() []string {
	out := make([]string, len(e.metrics.list))
	for i := range out {
		out[i] = e.metrics.list[i].name
	}
	return out
}

// Children calls yield with each entity that names this one as a parent.
func (e *Entity) Children(yield func(*Entity) bool) {
	for c := range e.children {
		if !yield(c) {
			return
		}
	}
}

// Edges calls yield with each edge from or to the entity itself.
func (e *Entity) Edges(yield func(*Edge) bool) {
	for b := range e.bases {
		if !yield(b) {
			return
		}
	}
}

// ParentID gives the first parent of a kind, also through the entity's container; "" when there is none.
func (e *Entity) ParentID(kind string) string {
	for _, p := range e.Parents {
		if topology.KindOf(p) == kind {
			return p
		}
	}
	if e.Kind == topology.KindProcess {
		if c := e.parentOf(topology.KindContainer); c != nil {
			return c.ParentID(kind)
		}
	}
	if (kind == topology.KindController || kind == topology.KindService || kind == topology.KindNamespace) && e.Kind == topology.KindContainer {
		if pod := e.parentOf(topology.KindPod); pod != nil {
			return pod.ParentID(kind)
		}
	}
	return ""
}

// ParentIDs gives all parents of a kind.
func (e *Entity) ParentIDs(kind string) []string {
	var out []string
	for _, p := range e.Parents {
		if topology.KindOf(p) == kind {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		if id := e.ParentID(kind); id != "" {
			out = append(out, id)
			if pod := e.parentOf(topology.KindPod); pod != nil {
				if all := pod.ParentIDs(kind); len(all) > 1 {
					return all
				}
			}
		}
	}
	return out
}

func (e *Entity) parentOf(kind string) *Entity {
	for _, p := range e.parents {
		if p.Kind == kind {
			return p
		}
	}
	return nil
}

// Container gives the container in which the entity is, or the entity itself when it is one; nil for neither.
func (e *Entity) Container() *Entity {
	if e.Kind == topology.KindContainer {
		return e
	}
	return e.parentOf(topology.KindContainer)
}

// HostID gives the id of the host on which the entity is.
func (e *Entity) HostID() string {
	if e.Kind == topology.KindHost {
		return e.ID
	}
	return e.ParentID(topology.KindHost)
}

// Hostname gives the name of the host on which the entity is.
func (e *Entity) Hostname() string {
	_, name, _ := strings.Cut(e.HostID(), ";")
	return name
}

// Edge is who talks to whom on which port, as far as both halves tell.
type Edge struct {
	Src, Dst *Entity
	Port     uint16
	UDP      bool

	Conns             uint32
	New, Fail, Tx, Rx float32
	RTTMicros         uint32
	Retrans           float32
	Evidence          uint8 // 1 client, 2 server, 3 both

	halves   []*half
	dirty    bool
	gone     bool
	told     edgeTold
	recorded place
}

func (b *Edge) key() edgeKey { return edgeKey{b.Src, b.Dst, b.Port, b.UDP} }

// Gone reports whether the edge has left the estate.
func (b *Edge) Gone() bool { return b.gone }

// Remotes calls yield with each address at the other end, as the probes of this end tell them, and its connections. Of the past
// none are known.
func (b *Edge) Remotes(yield func(a netip.Addr, conns uint32) bool) {
	for _, h := range b.halves {
		if h.remote.IsValid() && !yield(h.remote, h.conns) {
			return
		}
	}
}

type edgeKey struct {
	src, dst *Entity
	port     uint16
	udp      bool
}

// half is one edge as one probe reported it.
type half struct {
	src, dst        *Entity // nil: the side that remote is
	remote          netip.Addr
	edge            *Edge
	match           *match
	conns           uint32
	new, fail       float32
	tx, rx, retrans float32
	rtt             uint32
	port            uint16
	udp             bool
	seen            uint8
	client          bool // in match: it is a client's
	dirty           bool
	forgotten       bool
}

// match is where the client halves of one host and the server halves of one server meet. There is nearly one for each connection.
type match struct {
	key     matchKey
	next    *match // of those whose keys have the same hash
	halves  []*half
	clients int // of the halves
}

func (m *match) servers() int { return len(m.halves) - m.clients }

type matchKey struct {
	server *Entity // container, else host
	client string  // host id
	port   uint16
	udp    bool
}

// listener is a server address of a host, in the list of those with the same key.
type listener struct {
	entity     *Entity
	key        listenKey
	prev, next *listener
}

type listenKey struct {
	host string     // for listeners on every address
	addr netip.Addr // for one address
	port uint16
	udp  bool
}

// Change says what of an entity has changed since the last flush.
type Change uint8

// The kinds of changes.
const (
	ChangedBody    Change = 1 << iota // anything that its probe says of it, its health, or that it came or went
	ChangedPlace                      // its parents: nodes that it belongs to are others
	ChangedNumbers                    // metrics
)

// Ancestors calls yield with each known parent, and theirs, nearest first.
func (e *Entity) Ancestors(yield func(*Entity) bool) {
	for _, p := range e.parents {
		if !yield(p) {
			return
		}
	}
	for _, p := range e.parents {
		for _, q := range p.parents {
			if !yield(q) {
				return
			}
		}
	}
}
