package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Script is what simulated tasks do.
type Script struct {
	Start   Duration // from the task's arrival at the agent to TASK_RUNNING
	Run     Duration // from TASK_RUNNING to the end; zero: for ever
	Failing float64  // share of the tasks that end with TASK_FAILED instead of TASK_FINISHED
}

// Duration is a distribution of durations: uniform between Min and Max.
type Duration struct {
	Min, Max time.Duration
}

// Fixed is the distribution of one duration.
func Fixed(d time.Duration) Duration { return Duration{d, d} }

// ParseDuration reads "2s", or "1s..3s" for anything between.
func ParseDuration(s string) (Duration, error) {
	from, to, ranged := strings.Cut(s, "..")
	lo, err := time.ParseDuration(from)
	if err != nil {
		return Duration{}, err
	}
	hi := lo
	if ranged {
		if hi, err = time.ParseDuration(to); err != nil {
			return Duration{}, err
		}
	}
	if lo < 0 || hi < lo {
		return Duration{}, fmt.Errorf("%q is not a range of durations", s)
	}
	return Duration{lo, hi}, nil
}

// String is the text that ParseDuration reads.
func (d Duration) String() string {
	if d.Min == d.Max {
		return d.Min.String()
	}
	return d.Min.String() + ".." + d.Max.String()
}

func (d Duration) pick(rng *rand.Rand) time.Duration {
	if d.Max <= d.Min {
		return d.Min
	}
	return d.Min + time.Duration(rng.Int64N(int64(d.Max-d.Min)+1))
}
