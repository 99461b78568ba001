package monitor

import (
	"net/http"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
)

// A container that is given five minutes to end is not given up after one.
func TestAControlWaitsForWhatAContainerIsGiven(t *testing.T) {
	t.Parallel()
	m, _ := routesUnderTest(t)
	p := m.fake(t, "vm1")
	got := make(chan *probev1.Request, 1)
	p.mu.Lock()
	p.answer = func(r *probev1.Request) { got <- r; p.conn.answer(&probev1.Response{Id: r.Id}) }
	p.mu.Unlock()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	check(t, err)
	for arg, least := range map[string]time.Duration{"": 50 * time.Second, "300": 350 * time.Second, "soon": 50 * time.Second} {
		began, skew := time.Now(), p.conn.clockSkew()
		if _, _, err := m.act(r, identity{name: "eve", role: RoleAdmin}, "container;vm1;web", "stop", map[string]string{"timeout": arg}, false); err != nil {
			t.Fatal(err)
		}
		if req := <-got; req.DeadlineMs < began.Add(least).UnixMilli()+skew {
			t.Errorf("%q: %v", arg, req)
		}
	}
}
