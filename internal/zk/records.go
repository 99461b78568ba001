package zk

import (
	"crypto/sha1" //nolint:gosec // the digest scheme is defined by it
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

// Stat is what the server knows about a node (data.Stat).
type Stat struct {
	Czxid          int64 `json:"czxid"`          // transaction that created it
	Mzxid          int64 `json:"mzxid"`          // transaction that last set its data
	Ctime          int64 `json:"ctime"`          // ms since 1970
	Mtime          int64 `json:"mtime"`          // ms since 1970
	Version        int32 `json:"version"`        // number of data changes
	Cversion       int32 `json:"cversion"`       // number of changes of its children
	Aversion       int32 `json:"aversion"`       // number of ACL changes
	EphemeralOwner int64 `json:"ephemeralOwner"` // session, or the marks of container and TTL nodes
	DataLength     int32 `json:"dataLength"`
	NumChildren    int32 `json:"numChildren"`
	Pzxid          int64 `json:"pzxid"` // transaction that last changed its children
}

const (
	containerOwner = int64(-1 << 63)
	ttlMark        = int64(-1 << 56)
)

// Kind tells what sort of node a Stat describes, as far as clients are told: servers show them container and TTL nodes as
// persistent ones (only snapshots, logs and the learner's stream tell).
func (s *Stat) Kind() Kind { return KindOf(s.EphemeralOwner) }

// Kind is the sort of a node: what makes it go away.
type Kind int

// The kinds of nodes.
const (
	KindPersistent Kind = iota
	KindEphemeral       // goes with its session
	KindContainer       // goes when its last child has gone
	KindTTL             // goes when it was not changed for a while and has no children
)

func (k Kind) String() string { return [...]string{"persistent", "ephemeral", "container", "ttl"}[k] }

// KindOf reads the kind from an ephemeralOwner field (EphemeralType in the server).
func KindOf(owner int64) Kind {
	switch {
	case owner == 0:
		return KindPersistent
	case owner == containerOwner:
		return KindContainer
	case owner&ttlMark == ttlMark:
		return KindTTL
	}
	return KindEphemeral
}

// TTLOf is the time to live that a TTL node's ephemeralOwner holds.
func TTLOf(owner int64) time.Duration {
	if KindOf(owner) != KindTTL {
		return 0
	}
	return time.Duration(owner&0xffffffffff) * time.Millisecond
}

// OwnerOf is the ephemeralOwner of a node of this kind that no session owns.
func OwnerOf(kind Kind, ttl time.Duration) int64 {
	switch kind {
	case KindContainer:
		return containerOwner
	case KindTTL:
		return ttlMark | int64(ttl/time.Millisecond)
	default:
		return 0
	}
}

const statSize = 6*8 + 5*4

func decodeStat(d *jute.Decoder, s *Stat) {
	s.Czxid, s.Mzxid, s.Ctime, s.Mtime = d.Long(), d.Long(), d.Long(), d.Long()
	s.Version, s.Cversion, s.Aversion = d.Int(), d.Int(), d.Int()
	s.EphemeralOwner = d.Long()
	s.DataLength, s.NumChildren = d.Int(), d.Int()
	s.Pzxid = d.Long()
}

// Perm is a set of permissions of an ACL entry.
type Perm int32

// Permissions (ZooDefs.Perms).
const (
	PermRead Perm = 1 << iota
	PermWrite
	PermCreate
	PermDelete
	PermAdmin
	PermAll = PermRead | PermWrite | PermCreate | PermDelete | PermAdmin
)

const permLetters = "rwcda"

func (p Perm) String() string {
	var b strings.Builder
	for i, l := range permLetters {
		if p&(1<<i) != 0 {
			b.WriteRune(l)
		}
	}
	return b.String()
}

// ACL is one entry of a node's access control list.
type ACL struct {
	Perms  Perm   `json:"perms"`
	Scheme string `json:"scheme"`
	ID     string `json:"id"`
}

func (a ACL) String() string { return a.Scheme + ":" + a.ID + ":" + a.Perms.String() }

// OpenACL permits everything to everybody; ReadACL permits reading to everybody; CreatorACL everything to who creates
// the node (the client must be authenticated).
func OpenACL() []ACL { return []ACL{{PermAll, "world", "anyone"}} }

// ReadACL permits reading to everybody.
func ReadACL() []ACL { return []ACL{{PermRead, "world", "anyone"}} }

// CreatorACL permits everything to the identities that the creating session has authenticated.
func CreatorACL() []ACL { return []ACL{{PermAll, "auth", ""}} }

// DigestID is the id of the digest scheme for a user and password, as it stands in ACLs.
func DigestID(user, password string) string {
	h := sha1.Sum([]byte(user + ":" + password)) //nolint:gosec // see the import
	return user + ":" + base64.StdEncoding.EncodeToString(h[:])
}

// ParseACL reads the notation of zkCli: scheme:id:perms, entries separated by commas. The id may hold colons.
func ParseACL(s string) ([]ACL, error) {
	var acl []ACL
	for _, e := range strings.Split(s, ",") {
		first, last := strings.IndexByte(e, ':'), strings.LastIndexByte(e, ':')
		if first < 0 || first == last {
			return nil, fmt.Errorf("acl %q: want scheme:id:perms, like world:anyone:cdrwa", e)
		}
		a := ACL{Scheme: e[:first], ID: e[first+1 : last]}
		for _, r := range e[last+1:] {
			i := strings.IndexRune(permLetters, r)
			if i < 0 {
				return nil, fmt.Errorf("acl %q: unknown permission %q (r read, w write, c create, d delete, a admin)", e, r)
			}
			a.Perms |= 1 << i
		}
		acl = append(acl, a)
	}
	return acl, nil
}

// AppendACL appends a vector of ACL entries.
func AppendACL(b []byte, acl []ACL) []byte {
	b = jute.AppendInt(b, int32(len(acl)))
	for _, a := range acl {
		b = jute.AppendInt(b, int32(a.Perms))
		b = jute.AppendString(b, a.Scheme)
		b = jute.AppendString(b, a.ID)
	}
	return b
}

// DecodeACL reads a vector of ACL entries.
func DecodeACL(d *jute.Decoder) []ACL {
	n := d.Count(12)
	if n == 0 {
		return nil
	}
	acl := make([]ACL, 0, n)
	for range n {
		acl = append(acl, ACL{Perm(d.Int()), d.String(), d.String()})
	}
	if d.Err() != nil {
		return nil
	}
	return acl
}

// ClientInfo is one identity of the session, as whoAmI answers.
type ClientInfo struct {
	Scheme string `json:"scheme"`
	User   string `json:"user"`
}
