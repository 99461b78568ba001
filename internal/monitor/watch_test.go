package monitor

import (
	"slices"
	"testing"
	"time"
)

// What a page looks at is told every second also when the probe that tells it connects again, or comes only after the page, as after a restart of
// the monitor: nobody says it anew.
func TestWhatIsWatchedIsAskedForAgain(t *testing.T) {
	t.Parallel()
	m, _ := routesUnderTest(t)
	page := &liveConn{}
	const early, late = "container;vm1;web", "container;vm2;web"
	one := m.fake(t, "vm1")
	m.setWatch(page, []string{early, late})
	expect := func(p *fakeProbe, want ...string) {
		t.Helper()
		select {
		case got := <-p.watched:
			if !slices.Equal(got, want) {
				t.Errorf("the probe is to watch %v, want %v", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("the probe is not asked to watch %v", want)
		}
	}
	expect(one, early)
	ctx, done := t.Context(), make(chan error)
	go func() { done <- m.keepWatching(ctx) }()
	t.Cleanup(func() { <-done })
	one.connect("vm1")
	expect(one, early)
	two := m.fake(t, "vm2")
	expect(two, late)
	m.setWatch(page, nil)
	expect(one)
	expect(two)
}
