package probe

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/probe/kubetest"
)

// before calls a function before each request is sent.
type before struct {
	over http.RoundTripper
	do   func(*http.Request)
}

func (b *before) RoundTrip(r *http.Request) (*http.Response, error) {
	b.do(r)
	return b.over.RoundTrip(r)
}

func (b *before) CloseIdleConnections() { b.over.(*http.Transport).CloseIdleConnections() }

func TestAKubernetesLeaseIsHeldByOne(t *testing.T) {
	t.Parallel()
	plan := kubetest.Plan{Name: "election", Rules: kubetest.Documented(t, documentation), Accounts: []string{"a", "b"}}
	plan.Run(t, func(t *testing.T, s *kubetest.Session) {
		// meanwhile, if not nil, is done once before the next request of this method is sent by a.
		var meanwhile func()
		method := ""
		contender := func(self string) *elector {
			return &elector{api: sessionAPI(t, s, self), namespace: "default", name: "l", self: self}
		}
		a, b := contender("a"), contender("b")
		a.api.http.Transport = &before{a.api.http.Transport, func(r *http.Request) {
			if do := meanwhile; do != nil && r.Method == method {
				meanwhile = nil
				do()
			}
		}}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		// b's clock is hours behind, and the API server's is another one still.
		clock := map[*elector]time.Duration{a: 0, b: -3 * time.Hour}
		down := false // then each try is an error
		step := func(e *elector, after time.Duration, want bool) {
			t.Helper()
			now = now.Add(after)
			mine, holder, err := e.try(t.Context(), now.Add(clock[e]))
			if mine != want || (err != nil) != down {
				t.Fatalf("%s holds it: %v, want %v (holder %q, %v)", e.self, mine, want, holder, err)
			}
		}
		// Both see that there is none: the one that makes it has it.
		method, meanwhile = http.MethodPost, func() { step(b, 0, true) }
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
		down = true
		step(a, leaseRenew, true)
		step(b, 0, false)
		step(a, leaseGive, false)
		s.Cut(false)
		down = false
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
		method, meanwhile = http.MethodPut, func() { step(b, 0, true) }
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
