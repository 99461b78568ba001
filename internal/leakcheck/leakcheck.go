// Package leakcheck looks for goroutines that tests leave, with the patience that a busy machine needs: goleak itself gives those that are about to end
// less than a second. TestMain calls it.
package leakcheck

import (
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines may take to end that do end. Only those that never do make a run wait for it.
const patience = time.Minute

// Main runs the tests, and fails when goroutines of theirs do not end.
func Main(m goleak.TestingM, options ...goleak.Option) {
	goleak.VerifyTestMain(settled{m, options}, options...)
}

type settled struct {
	goleak.TestingM
	options []goleak.Option
}

func (s settled) Run() int {
	code := s.TestingM.Run()
	for deadline := time.Now().Add(patience); code == 0 && goleak.Find(s.options...) != nil && time.Now().Before(deadline); {
	}
	return code
}
