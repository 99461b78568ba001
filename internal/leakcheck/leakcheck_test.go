package leakcheck

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain looks at this package's own test, whose goroutine takes longer to end than goleak would wait.
func TestMain(m *testing.M) { Main(m) }

func TestWhoEndsLateIsWaitedFor(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	go func() { <-end }()
	time.AfterFunc(2*time.Second, func() { close(end) })
}

// run stands for the tests of a package.
type run func() int

func (r run) Run() int { return r() }

func TestWhoHasFailedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	stay := make(chan struct{})
	defer close(stay)
	go func() { <-stay }()
	if code := (settled{run(func() int { return 3 }), []goleak.Option{goleak.IgnoreCurrent()}}).Run(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}
