package monitor

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A terminal whose page was closed ends a minute later, which is no failure: the audit log says why it ended.
func TestATerminalThatNobodyComesBackToEndsWell(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*terminal){
		"its page has gone":                           func(x *terminal) { x.detached = time.Now().Add(-2 * detachedFor) },
		"nobody has used it for a quarter of an hour": func(x *terminal) { x.out.take(); x.active = time.Now().Add(-2 * idleFor) },
	} {
		m, _ := routesUnderTest(t)
		m.fake(t, "vm1")
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/exec?id=container%3Bvm1%3Bweb&cmd=sh", nil)
		x, err := m.startTerminal(r, identity{name: "eve", role: RoleAdmin})
		check(t, err)
		x.mu.Lock()
		change(x)
		x.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = m.terms.run(ctx) }()
		<-x.over
		cancel()
		<-ended
		last := m.audit.before(1<<62, 1)
		if len(last) != 1 || last[0].Action != "exec.end" || last[0].Outcome != "ok" || last[0].Detail != want {
			t.Errorf("%s: %+v", want, last)
		}
	}
}
