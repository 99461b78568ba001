package txn

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orchestrator/orchestrator/internal/zk"
)

func samples() []*Txn {
	h := Header{ClientID: 5, Cxid: 2, Zxid: 0x100000007, Time: 1700000000000}
	one := func(op Op) *Txn {
		t := &Txn{Header: h, Ops: []Op{op}}
		t.Type = op.Type
		return t
	}
	acl := zk.OpenACL()
	ops := []Op{
		{Type: zk.OpCreate, Path: "/a", Data: []byte("x"), ACL: acl, Ephemeral: true, ParentCVersion: 3},
		{Type: zk.OpCreate2, Path: "/a", ACL: acl, ParentCVersion: 3},
		{Type: zk.OpCreateContainer, Path: "/c", Data: []byte{}, ACL: acl, ParentCVersion: 4},
		{Type: zk.OpCreateTTL, Path: "/t", ACL: acl, ParentCVersion: 4, TTL: time.Second},
		{Type: zk.OpDelete, Path: "/a"},
		{Type: zk.OpDeleteContainer, Path: "/a"},
		{Type: zk.OpSet, Path: "/a", Data: []byte("y"), Version: 9},
		{Type: zk.OpSetACL, Path: "/a", ACL: acl, Version: 2},
		{Type: zk.OpCheck, Path: "/a", Version: 2},
		{Type: zk.OpErrorResult, Err: zk.ErrBadVersion},
	}
	var out []*Txn
	for _, op := range ops {
		out = append(out, one(op))
	}
	multi := &Txn{Header: h, Ops: ops, Failed: true, Digest: &Digest{2, 99}}
	multi.Type = zk.OpMulti
	session := &Txn{Header: h, Timeout: 10000}
	session.Type = zk.OpCreateSession
	closed := &Txn{Header: h, Paths: []string{"/a", "/b"}, HasPaths: true, Digest: &Digest{2, 1}}
	closed.Type = zk.OpCloseSession
	old := &Txn{Header: h}
	old.Type = zk.OpCloseSession
	digestOnly := &Txn{Header: h, Digest: &Digest{2, 1}}
	digestOnly.Type = zk.OpCloseSession
	return append(out, multi, session, closed, old, digestOnly)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range samples() {
		got, err := Decode(want.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("type %v: %s", want.Type, diff)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tx, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(tx.Append(nil))
		if err != nil {
			t.Fatalf("%+v was written and not read: %v", tx, err)
		}
		if again.Zxid != tx.Zxid || len(again.Ops) != len(tx.Ops) {
			t.Fatalf("%+v became %+v", tx, again)
		}
	})
}
