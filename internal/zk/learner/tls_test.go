package learner_test

import (
	"context"
	"errors"
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

type once struct {
	t    *tree.Tree
	done error
}

func (o *once) Begin(t *tree.Tree) error { o.t = t; return nil }
func (o *once) Txn(x *txn.Txn) error     { o.t.Apply(x); return nil }
func (o *once) Live() error              { return o.done }
func (o *once) Idle() error              { return nil }

// TLS at the client port and at the quorum port: who trusts the authority and presents a certificate is let in, others are not.
func TestTLS(t *testing.T) {
	t.Parallel()
	opts, files := zktest.TLSServer(t)
	e := zktest.Start(t, opts)
	cfg, err := zk.LoadTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	c := e.Client(t, zk.Config{Servers: []string{e.Nodes[0].Secure}, TLS: cfg})
	if _, err := c.Create(t.Context(), "/secret", []byte("x"), zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	addrs, err := learner.Discover(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	h := &once{done: errors.New("enough")}
	if err := learner.Run(t.Context(), learner.Config{Addrs: addrs, Last: -2}, learner.Deps{TLS: cfg}, h); !errors.Is(err, h.done) {
		t.Fatal(err)
	}
	if n := h.t.Get("/secret"); n == nil || string(n.Data) != "x" {
		t.Errorf("learnt %v", n)
	}
	// Without TLS, and without a certificate of one's own, nothing is told.
	none, err := zk.LoadTLS(files[:len(files)-len("x")])
	if err == nil || none != nil {
		t.Errorf("files that are not there: %v", err)
	}
	bare := cfg.Clone()
	bare.Certificates = nil
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, d := range []learner.Deps{{}, {TLS: bare}} {
		h := &once{done: errors.New("enough")}
		if err := learner.Run(ctx, learner.Config{Addrs: addrs, Last: -2}, d, h); errors.Is(err, h.done) || h.t != nil {
			t.Errorf("let in without a certificate: %v", err)
		}
	}
}
