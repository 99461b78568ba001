package probe

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/probe/kubetest"
)

// meanwhile does something before the next request of a method is sent.
type meanwhile struct {
	over   http.RoundTripper
	method string
	do     func()
}

func (m *meanwhile) RoundTrip(r *http.Request) (*http.Response, error) {
	if do := m.do; do != nil && r.Method == m.method {
		m.do = nil
		do()
	}
	return m.over.RoundTrip(r)
}

func (m *meanwhile) CloseIdleConnections() { m.over.(*http.Transport).CloseIdleConnections() }

func TestAKubernetesLeaseIsHeldByOne(t *testing.T) {
	t.Parallel()
	plan := kubetest.Plan{Name: "election", Rules: kubetest.Documented(t, documentation), Accounts: []string{"a", "b"}}
	plan.Run(t, func(t *testing.T, s *kubetest.Session) {
		between := &meanwhile{}
		contender := func(self string) *elector {
			return &elector{api: sessionAPI(t, s, self), namespace: "default", name: "l", self: self}
		}
		a, b := contender("a"), contender("b")
		between.over, a.api.http.Transport = a.api.http.Transport, between
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		// b's clock is hours behind, and the API server's is another one still.
		clock := map[*elector]time.Duration{a: 0, b: -3 * time.Hour}
		step := func(e *elector, after time.Duration, want bool) {
			t.Helper()
			now = now.Add(after)
			mine, holder, err := e.try(t.Context(), now.Add(clock[e]))
			if mine != want {
				t.Fatalf("%s holds it: %v, want %v (holder %q, %v)", e.self, mine, want, holder, err)
			}
		}
		// Both see that there is none: the one that makes it has it.
		between.method, between.do = http.MethodPost, func() { step(b, 0, true) }
		step(a, 0, false)
		b.release()
		step(a, 0, true)
		step(b, 0, false)
		step(a, leaseRenew, true)
		// The lease moves on: b's patience begins anew with every renewal that it sees.
		step(b, leaseTake-time.Second, false)
		step(b, leaseTake-time.Second, false)
		step(a, 0, true)
		step(b, 2*time.Second, false)
		// The network fails: a holds on for a while and then stops, before b may take it.
		s.Cut(true)
		step(a, leaseRenew, true)
		step(b, 0, false)
		step(a, leaseGive, false)
		s.Cut(false)
		step(b, time.Second, true)
		step(a, 0, false)
		// One that ends gives it back.
		b.release()
		step(a, 0, true)
		b.release()
		step(a, 0, true)
		step(b, 0, false)
		// Both see that it has run out: the one that takes it first has it.
		now = now.Add(leaseTake)
		between.method, between.do = http.MethodPut, func() { step(b, 0, true) }
		step(a, 0, false)
		step(b, leaseRenew, true)
		// Where it can't be is said.
		lost := contender("a")
		lost.namespace = "nowhere"
		if mine, _, err := lost.try(t.Context(), now); mine || err == nil || !strings.Contains(err.Error(), `namespaces "nowhere" not found`) {
			t.Errorf("%v, %v", mine, err)
		}
	})
}
