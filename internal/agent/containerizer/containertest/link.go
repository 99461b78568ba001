// Package containertest has what the tests of both containerizers need of an agent.
package containertest

import (
	"context"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/execlink"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Link serves the executor link of an agent process until the returned function, or the end of the test, ends that process's part: the
// link, then what over does.
func Link(t testing.TB, socket string, agent execlink.Handler, token func(ids.Container) (execlink.Peer, string, bool), over func()) (stop func()) {
	t.Helper()
	s, err := execlink.New(execlink.Config{Path: socket}, execlink.Deps{Handler: agent, Token: token, NotFound: containerizer.ErrNotFound})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		over()
	})
	t.Cleanup(stop)
	return stop
}
