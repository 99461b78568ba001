package tree

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Stat is what the server persists about a node (StatPersisted).
type Stat struct {
	Czxid, Mzxid, Pzxid int64
	Ctime, Mtime        int64
	Version             int32
	Creations           int32 // the persisted cversion: how many children were ever created, which is the next sequence number
	Aversion            int32
	Owner               int64
}

// StatOf is what of that a client is shown. The server shows creations and deletions of children together.
func StatOf(st *zk.Stat) Stat {
	return Stat{
		Czxid: st.Czxid, Mzxid: st.Mzxid, Pzxid: st.Pzxid, Ctime: st.Ctime, Mtime: st.Mtime, Version: st.Version,
		Creations: (st.Cversion + st.NumChildren) / 2, Aversion: st.Aversion, Owner: st.EphemeralOwner,
	}
}

// Node is one node of the tree. Its fields are read-only outside this package.
type Node struct {
	Path string
	Data []byte
	Stat
	acl                       int32
	children                  int32
	digest                    uint32
	parent, first, next, prev *Node
}

// NumChildren is the number of children.
func (n *Node) NumChildren() int { return int(n.children) }

// Cversion is the version of the children as clients see it: creations and deletions.
func (n *Node) Cversion() int32 { return n.Creations*2 - n.children }

// Kind tells what sort of node it is.
func (n *Node) Kind() zk.Kind { return zk.KindOf(n.Owner) }

// TTL is a TTL node's time to live.
func (n *Node) TTL() time.Duration { return zk.TTLOf(n.Owner) }

// Name is the last element of the path.
func (n *Node) Name() string { return zk.Name(n.Path) }

// Parent is the node above; nil for the root.
func (n *Node) Parent() *Node { return n.parent }

// Children yields the children in no particular order. The tree must not be changed meanwhile.
func (n *Node) Children() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for c := n.first; c != nil; c = c.next {
			if !yield(c) {
				return
			}
		}
	}
}

func (n *Node) link(child *Node) {
	child.parent, child.next, child.prev = n, n.first, nil
	if n.first != nil {
		n.first.prev = child
	}
	n.first = child
	n.children++
}

func (n *Node) unlink(child *Node) {
	if child.prev != nil {
		child.prev.next = child.next
	} else {
		n.first = child.next
	}
	if child.next != nil {
		child.next.prev = child.prev
	}
	child.parent, child.next, child.prev = nil, nil, nil
	n.children--
}

// digestOf is the server's digest of a node (DigestCalculator, version 2): nothing below /zookeeper/ counts.
func digestOf(n *Node) uint32 {
	if strings.HasPrefix(n.Path, "/zookeeper/") {
		return 0
	}
	var b [60]byte
	binary.BigEndian.PutUint64(b[0:], uint64(n.Czxid))
	binary.BigEndian.PutUint64(b[8:], uint64(n.Mzxid))
	binary.BigEndian.PutUint64(b[16:], uint64(n.Pzxid))
	binary.BigEndian.PutUint64(b[24:], uint64(n.Ctime))
	binary.BigEndian.PutUint64(b[32:], uint64(n.Mtime))
	binary.BigEndian.PutUint32(b[40:], uint32(n.Version))
	binary.BigEndian.PutUint32(b[44:], uint32(n.Creations))
	binary.BigEndian.PutUint32(b[48:], uint32(n.Aversion))
	binary.BigEndian.PutUint64(b[52:], uint64(n.Owner))
	crc := uint32(0)
	if n.Path != "/" {
		crc = crc32.Update(crc, crc32.IEEETable, []byte(n.Path))
	}
	crc = crc32.Update(crc, crc32.IEEETable, n.Data)
	return crc32.Update(crc, crc32.IEEETable, b[:])
}
