package learner

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/jute"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
)

// Packet types between servers (Leader).
const (
	packetProposal          = 2
	packetAck               = 3
	packetCommit            = 4
	packetPing              = 5
	packetInform            = 8
	packetCommitAndActivate = 9
	packetNewLeader         = 10
	packetUpToDate          = 12
	packetDiff              = 13
	packetTrunc             = 14
	packetSnap              = 15
	packetObserverInfo      = 16
	packetLeaderInfo        = 17
	packetAckEpoch          = 18
	packetInformAndActivate = 19
)

const (
	protocolVersion = 0x10000
	signature       = "BenWasHere" // stands behind a snapshot on the wire
	// maxPacket bounds one packet or node; servers refuse more unless jute.maxbuffer was raised far.
	maxPacket   = 256 << 20
	maxAuthInfo = 1000
)

// ErrTruncate says that the ensemble does not know the transaction that the learner claims to have: it was lost with its
// leader, or belongs to another ensemble. Starting over from a snapshot is the way on.
var ErrTruncate = errors.New("the ensemble does not have our last transaction: start over from a snapshot")

// Config says where to learn from.
type Config struct {
	// Addrs are quorum ports (host:port); they are tried in turn, since only the leader listens (and observer masters).
	Addrs []string
	// ServerID must differ from every configured server's and from other learners' that are connected. 0 picks one above
	// all ids that people give.
	ServerID int64
	// Last is the last transaction that the handler has; 0 starts over.
	Last int64
	// Silence is how long the leader may say nothing (it pings twice a tick). Default 20s.
	Silence time.Duration
}

// Deps are the learner's effects; the zero value is the real world.
type Deps struct {
	Log  *slog.Logger
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS, when set, is spoken on quorum ports (sslQuorum). Without a ServerName the address's host is expected in the certificate.
	TLS *tls.Config
}

// Handler takes what the ensemble sends. Calls come one after another; an error ends the connection.
type Handler interface {
	// Begin says how the learner is brought up to date: with a fuzzy tree (all that was known is to be forgotten), or, when
	// snapshot is nil, with the transactions after Config.Last.
	Begin(snapshot *tree.Tree) error
	// Txn takes a transaction. Until Live was called these complete the snapshot or the gap.
	Txn(x *txn.Txn) error
	// Live says that all that was committed when the learner joined has been sent: a fuzzy snapshot is exact now.
	Live() error
	// Idle says that nothing more is waiting to be read: what was gathered can be passed on.
	Idle() error
}

// Run learns from the first address that lets it, until the connection or ctx ends. The error is never nil.
func Run(ctx context.Context, cfg Config, deps Deps, h Handler) error {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Dial == nil {
		deps.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 20 * time.Second
	}
	if cfg.ServerID == 0 {
		cfg.ServerID = 1 << 40
	}
	if len(cfg.Addrs) == 0 {
		return errors.New("learner: no quorum addresses given")
	}
	var errs []error
	for _, addr := range cfg.Addrs {
		conn, err := deps.Dial(ctx, "tcp", addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if deps.TLS != nil {
			c := deps.TLS
			if c.ServerName == "" && !c.InsecureSkipVerify {
				c = c.Clone()
				c.ServerName, _, _ = net.SplitHostPort(addr)
			}
			conn = tls.Client(conn, c)
		}
		unhook := context.AfterFunc(ctx, func() { conn.Close() })
		l := &learner{cfg: cfg, conn: conn, in: jute.NewStream(&patient{conn, cfg.Silence}, maxPacket), h: h, last: cfg.Last}
		err = l.run()
		unhook()
		conn.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("learning from %s: %w", addr, err)
		if l.accepted {
			return err
		}
		// A server that is no leader closes the connection, or never listened.
		errs = append(errs, err)
	}
	return fmt.Errorf("no server lets us learn (only the leader does, on its quorum port): %w", errors.Join(errs...))
}

// patient gives every read a deadline.
type patient struct {
	net.Conn
	silence time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.silence)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

type packet struct {
	kind int32
	zxid int64
	data []byte
}

type learner struct {
	cfg      Config
	conn     net.Conn
	in       *jute.Stream
	h        Handler
	accepted bool
	last     int64
	epoch    int64
	live     bool
	pending  []*txn.Txn // proposals whose commit is to come
}

func (l *learner) write(kind int32, zxid int64, data []byte) error {
	b := jute.AppendInt(nil, kind)
	b = jute.AppendLong(b, zxid)
	b = jute.AppendBuffer(b, data)
	b = jute.AppendInt(b, -1) // no auth info
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.cfg.Silence)); err != nil {
		return err
	}
	_, err := l.conn.Write(b)
	return err
}

func (l *learner) read() (packet, error) {
	p := packet{l.in.Int(), l.in.Long(), l.in.Buffer()}
	for range l.in.Count(maxAuthInfo) {
		_, _ = l.in.String(), l.in.String()
	}
	return p, l.in.Err()
}

func (l *learner) run() error {
	info := jute.AppendLong(nil, l.cfg.ServerID)
	info = jute.AppendInt(info, protocolVersion)
	if err := l.write(packetObserverInfo, l.cfg.Last>>32<<32, info); err != nil {
		return err
	}
	p, err := l.read()
	if err != nil {
		return err
	}
	if p.kind != packetLeaderInfo {
		return fmt.Errorf("the server answers %d to the introduction: is this a quorum port of ZooKeeper 3.4 or later?", p.kind)
	}
	l.epoch = p.zxid >> 32
	// The epoch -1 says that ours is of no weight.
	if err := l.write(packetAckEpoch, l.cfg.Last, jute.AppendInt(nil, -1)); err != nil {
		return err
	}
	if p, err = l.read(); err != nil {
		return err
	}
	l.accepted = true
	switch p.kind {
	case packetDiff:
		err = l.h.Begin(nil)
	case packetSnap:
		t, rerr := tree.Read(l.in)
		if rerr != nil {
			return rerr
		}
		if s := l.in.String(); s != signature {
			return fmt.Errorf("the snapshot is not followed by its signature but by %.20q", s)
		}
		t.SetZxid(p.zxid)
		l.last = p.zxid
		err = l.h.Begin(t)
	case packetTrunc:
		return ErrTruncate
	default:
		return fmt.Errorf("the leader sends %d where DIFF, SNAP or TRUNC was due", p.kind)
	}
	if err != nil {
		return err
	}
	for {
		if p, err = l.read(); err != nil {
			return err
		}
		if err := l.packet(p); err != nil {
			return err
		}
		if l.in.Buffered() == 0 {
			if err := l.h.Idle(); err != nil {
				return err
			}
		}
	}
}

// packet takes one packet of the stream. While the learner catches up, transactions come as proposal and commit (that is how
// followers get them) or as inform; afterwards an observer gets informs.
func (l *learner) packet(p packet) error {
	switch p.kind {
	case packetPing:
		// The answer lists the sessions that this server has heard of: none, which must not be null.
		return l.write(packetPing, p.zxid, []byte{})
	case packetProposal:
		x, err := txn.Decode(p.data)
		if err != nil {
			return err
		}
		l.pending = append(l.pending, x)
	case packetCommit, packetCommitAndActivate:
		if len(l.pending) == 0 || l.pending[0].Zxid != p.zxid {
			return fmt.Errorf("commit of 0x%x, which was not proposed next", p.zxid)
		}
		x := l.pending[0]
		l.pending = l.pending[1:]
		return l.deliver(x)
	case packetInform, packetInformAndActivate:
		data := p.data
		if p.kind == packetInformAndActivate { // the designated leader stands in front
			if len(data) < 8 {
				return errors.New("inform-and-activate is short")
			}
			data = data[8:]
		}
		x, err := txn.Decode(data)
		if err != nil {
			return err
		}
		return l.deliver(x)
	case packetNewLeader:
		return l.write(packetAck, p.zxid, nil)
	case packetUpToDate:
		if err := l.write(packetAck, l.epoch<<32, nil); err != nil {
			return err
		}
		l.live = true
		return l.h.Live()
	}
	return nil // what newer servers may add is none of ours
}

func (l *learner) deliver(x *txn.Txn) error {
	if x.Zxid <= l.last {
		if l.live {
			return fmt.Errorf("transaction 0x%x came after 0x%x", x.Zxid, l.last)
		}
		// A fuzzy snapshot may hold it already; replaying it does no harm, and completes what the snapshot missed.
		return l.h.Txn(x)
	}
	// Within an epoch nothing may be missing.
	if l.last>>32 == x.Zxid>>32 && x.Zxid != l.last+1 && l.last != 0 {
		return fmt.Errorf("transactions are missing between 0x%x and 0x%x", l.last, x.Zxid)
	}
	l.last = x.Zxid
	return l.h.Txn(x)
}

// QuorumAddrs reads the quorum ports out of an ensemble's dynamic configuration (/zookeeper/config, 3.5+). Servers that listen on
// all addresses are reached under the host that clients use for them.
func QuorumAddrs(config string) []string {
	var out []string
	for line := range strings.Lines(config) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || !strings.HasPrefix(key, "server.") {
			continue
		}
		server, _, _ := strings.Cut(value, ";")
		for alt := range strings.SplitSeq(server, "|") { // several addresses of one server (3.6+)
			if host, port, ok := hostPort(alt); ok {
				out = append(out, net.JoinHostPort(host, port))
			}
		}
	}
	return out
}

// hostPort takes host and quorum port of "host:quorum:election[:role]", where the host may be a bracketed IPv6 address.
func hostPort(s string) (host, port string, ok bool) {
	if strings.HasPrefix(s, "[") {
		host, s, ok = strings.Cut(s[1:], "]:")
	} else {
		host, s, ok = strings.Cut(s, ":")
	}
	port, _, _ = strings.Cut(s, ":")
	return host, port, ok && host != "" && port != ""
}

// Discover finds the quorum ports of an ensemble through its client port.
func Discover(ctx context.Context, c *zk.Client) ([]string, error) {
	data, _, err := c.Get(ctx, "/zookeeper/config")
	if err != nil {
		return nil, fmt.Errorf("finding the quorum ports (servers before 3.5 do not tell; name them instead): %w", err)
	}
	addrs := QuorumAddrs(string(data))
	if len(addrs) == 0 {
		return nil, errors.New("the ensemble's configuration names no quorum ports: a standalone server has none (restart it with standaloneEnabled=false and a server line in its configuration)")
	}
	return addrs, nil
}

// Reachable leaves out the addresses where nothing listens; a follower's quorum port is closed, the leader's is open.
func Reachable(ctx context.Context, addrs []string) []string {
	var out []string
	for _, a := range addrs {
		conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", a)
		if err == nil {
			conn.Close()
			out = append(out, a)
		}
	}
	return out
}
