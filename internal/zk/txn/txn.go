package txn

import (
	"fmt"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

// Header says who committed what when (TxnHeader).
type Header struct {
	ClientID int64 // the session of the author
	Cxid     int32
	Zxid     int64
	Time     int64 // ms since 1970, by the leader's clock
	Type     zk.OpCode
}

// Op is one change of the tree. Which fields count depends on Type: a create of some kind, OpDelete, OpDeleteContainer, OpSet,
// OpReconfig, OpSetACL, OpCheck or OpErrorResult.
type Op struct {
	Type      zk.OpCode
	Path      string
	Data      []byte
	ACL       []zk.ACL
	Ephemeral bool          // creates: owned by the author's session
	TTL       time.Duration // OpCreateTTL
	// ParentCVersion is the parent's count of creations after this one; -1 from very old servers.
	ParentCVersion int32
	Version        int32    // the resulting version (OpSet), ACL version (OpSetACL), or the one checked
	Err            zk.Error // OpErrorResult
}

// Digest is the sum over the author's tree after the transaction (3.6+).
type Digest struct {
	Version int32
	Tree    int64
}

// Txn is one transaction.
type Txn struct {
	Header
	Ops []Op // one, or several of a multi; none of session transactions
	// Failed marks a multi that failed: it changes nothing, though the operations before the failing one are listed.
	Failed bool
	// Paths are the nodes that closeSession removes, where the server says so (3.6+).
	Paths    []string
	HasPaths bool
	Timeout  int32 // createSession: ms
	Digest   *Digest
}

// Owner is the ephemeralOwner of a node that the operation creates.
func (o *Op) Owner(client int64) int64 {
	switch {
	case o.Type == zk.OpCreateContainer:
		return zk.OwnerOf(zk.KindContainer, 0)
	case o.Type == zk.OpCreateTTL:
		return zk.OwnerOf(zk.KindTTL, o.TTL)
	case o.Ephemeral:
		return client
	}
	return 0
}

// Creates reports whether the operation creates a node.
func (o *Op) Creates() bool {
	return o.Type == zk.OpCreate || o.Type == zk.OpCreate2 || o.Type == zk.OpCreateContainer || o.Type == zk.OpCreateTTL
}

const digestSize = 12

// Decode reads a transaction: header, record, and the digest where there is one. Buffers alias b.
func Decode(b []byte) (*Txn, error) {
	d := jute.NewDecoder(b)
	t := &Txn{Header: Header{ClientID: d.Long(), Cxid: d.Int(), Zxid: d.Long(), Time: d.Long(), Type: zk.OpCode(d.Int())}}
	if d.Err() != nil {
		return nil, fmt.Errorf("transaction header: %w", d.Err())
	}
	switch t.Type {
	case zk.OpCreateSession:
		t.Timeout = d.Int()
	case zk.OpCloseSession:
		// Older servers write nothing here; a digest alone is told from a list by its size and version.
		if rest := d.Rest(); len(rest) > 0 && !(len(rest) == digestSize && jute.NewDecoder(rest).Int() == 2) {
			t.Paths, t.HasPaths = d.Strings(), true
		}
	case zk.OpMulti:
		n := d.Count(8)
		t.Ops = make([]Op, 0, n)
		for range n {
			code := zk.OpCode(d.Int())
			sub := jute.NewDecoder(d.Buffer())
			op, err := decodeOp(code, sub)
			if err != nil {
				return nil, fmt.Errorf("transaction 0x%x: %w", t.Zxid, err)
			}
			t.Ops = append(t.Ops, op)
			t.Failed = t.Failed || code == zk.OpErrorResult
		}
	default:
		op, err := decodeOp(t.Type, d)
		if err != nil {
			return nil, fmt.Errorf("transaction 0x%x: %w", t.Zxid, err)
		}
		t.Ops = []Op{op}
	}
	if d.Len() >= digestSize {
		t.Digest = &Digest{d.Int(), d.Long()}
	}
	if d.Err() != nil {
		return nil, fmt.Errorf("transaction 0x%x of type %d: %w", t.Zxid, t.Type, d.Err())
	}
	return t, nil
}

func decodeOp(code zk.OpCode, d *jute.Decoder) (Op, error) {
	op := Op{Type: code}
	switch code {
	case zk.OpCreate, zk.OpCreate2:
		op.Path, op.Data, op.ACL, op.Ephemeral = d.String(), d.Buffer(), zk.DecodeACL(d), d.Bool()
		op.ParentCVersion = -1
		if d.Len() > 0 { // CreateTxnV0 ends here
			op.ParentCVersion = d.Int()
		}
	case zk.OpCreateContainer:
		op.Path, op.Data, op.ACL, op.ParentCVersion = d.String(), d.Buffer(), zk.DecodeACL(d), d.Int()
	case zk.OpCreateTTL:
		op.Path, op.Data, op.ACL, op.ParentCVersion = d.String(), d.Buffer(), zk.DecodeACL(d), d.Int()
		op.TTL = time.Duration(d.Long()) * time.Millisecond
	case zk.OpDelete, zk.OpDeleteContainer:
		op.Path = d.String()
	case zk.OpSet, zk.OpReconfig:
		op.Path, op.Data, op.Version = d.String(), d.Buffer(), d.Int()
	case zk.OpSetACL:
		op.Path, op.ACL, op.Version = d.String(), zk.DecodeACL(d), d.Int()
	case zk.OpCheck:
		op.Path, op.Version = d.String(), d.Int()
	case zk.OpErrorResult:
		op.Err = zk.Error(d.Int())
	default:
		return op, fmt.Errorf("unknown type %d", code)
	}
	if d.Err() != nil {
		return op, fmt.Errorf("%v of %q: %w", code, op.Path, d.Err())
	}
	return op, nil
}

// Append writes the transaction as Decode reads it.
func (t *Txn) Append(b []byte) []byte {
	b = jute.AppendLong(b, t.ClientID)
	b = jute.AppendInt(b, t.Cxid)
	b = jute.AppendLong(b, t.Zxid)
	b = jute.AppendLong(b, t.Time)
	b = jute.AppendInt(b, int32(t.Type))
	switch t.Type {
	case zk.OpCreateSession:
		b = jute.AppendInt(b, t.Timeout)
	case zk.OpCloseSession:
		if t.HasPaths {
			b = jute.AppendStrings(b, t.Paths)
		}
	case zk.OpMulti:
		b = jute.AppendInt(b, int32(len(t.Ops)))
		for i := range t.Ops {
			b = jute.AppendInt(b, int32(t.Ops[i].Type))
			b = jute.AppendBuffer(b, t.Ops[i].append([]byte{}))
		}
	default:
		for i := range t.Ops {
			b = t.Ops[i].append(b)
		}
	}
	if t.Digest != nil {
		b = jute.AppendInt(b, t.Digest.Version)
		b = jute.AppendLong(b, t.Digest.Tree)
	}
	return b
}

func (o *Op) append(b []byte) []byte {
	switch o.Type {
	case zk.OpErrorResult:
		return jute.AppendInt(b, int32(o.Err))
	default:
		b = jute.AppendString(b, o.Path)
	}
	switch o.Type {
	case zk.OpCreate, zk.OpCreate2:
		b = jute.AppendBuffer(b, o.Data)
		b = zk.AppendACL(b, o.ACL)
		b = jute.AppendBool(b, o.Ephemeral)
		b = jute.AppendInt(b, o.ParentCVersion)
	case zk.OpCreateContainer, zk.OpCreateTTL:
		b = jute.AppendBuffer(b, o.Data)
		b = zk.AppendACL(b, o.ACL)
		b = jute.AppendInt(b, o.ParentCVersion)
		if o.Type == zk.OpCreateTTL {
			b = jute.AppendLong(b, int64(o.TTL/time.Millisecond))
		}
	case zk.OpSet, zk.OpReconfig:
		b = jute.AppendBuffer(b, o.Data)
		b = jute.AppendInt(b, o.Version)
	case zk.OpSetACL:
		b = zk.AppendACL(b, o.ACL)
		b = jute.AppendInt(b, o.Version)
	case zk.OpCheck:
		b = jute.AppendInt(b, o.Version)
	}
	return b
}
