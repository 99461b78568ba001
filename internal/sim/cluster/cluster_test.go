package cluster

import (
	"os"
	"reflect"
	"strconv"
	"testing"
	"time"
)

// report fails the test with what is needed to replay the run.
func report(t *testing.T, r Report) {
	t.Helper()
	t.Log(r)
	if len(r.Failures) == 0 {
		return
	}
	for _, line := range r.Trace {
		t.Log(line)
	}
	for _, f := range r.Failures {
		t.Error(f)
	}
	t.Errorf("replay with CLUSTER_SEED=%d", r.Seed)
}

func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	if s := os.Getenv("CLUSTER_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{v}
	}
	if s := os.Getenv("CLUSTER_SEEDS"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i + 1)
	}
	return out
}

func TestSmallClusters(t *testing.T) {
	t.Parallel()
	for _, seed := range seeds(t, 20) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			report(t, Run(Options{
				Seed: seed, Agents: 12, Frameworks: 4, Busy: 10 * time.Minute, Calm: 40 * time.Minute, Faults: 3 * time.Second, Trace: 200,
			}))
		})
	}
}

// TestLargeCluster has 1,000 agents and 100 frameworks; with the race detector, which slows it down tenfold and has nothing to
// find in one goroutine, a fifth of that.
func TestLargeCluster(t *testing.T) {
	t.Parallel()
	o := Options{Agents: 1000, Frameworks: 100, Busy: 30 * time.Second, Calm: 8 * time.Minute, Faults: 300 * time.Millisecond, Trace: 200}
	if raceEnabled {
		o.Agents, o.Frameworks = 200, 20
	}
	for _, seed := range seeds(t, 1) {
		o.Seed = seed
		report(t, Run(o))
	}
}

func TestWithoutFaultsEveryTaskRunsToItsOwnEnd(t *testing.T) {
	t.Parallel()
	r := Run(Options{Seed: 7, Agents: 5, Frameworks: 3, Busy: 5 * time.Minute, Calm: 20 * time.Minute, Trace: 100})
	report(t, r)
	if r.Resized == 0 {
		t.Errorf("no resized volume was ever offered: %v", r)
	}
	if r.Launched == 0 || r.States["LOST"]+r.States["UNREACHABLE"]+r.States["DROPPED"]+r.States["ERROR"] > 0 {
		t.Errorf("%v", r)
	}
}

func TestASeedReplaysExactly(t *testing.T) {
	t.Parallel()
	o := Options{Seed: 3, Agents: 10, Frameworks: 4, Busy: 3 * time.Minute, Calm: 10 * time.Minute, Faults: 2 * time.Second, Trace: 100000}
	a, b := Run(o), Run(o)
	if !reflect.DeepEqual(a, b) {
		for i := range min(len(a.Trace), len(b.Trace)) {
			if a.Trace[i] != b.Trace[i] {
				t.Fatalf("two runs of one seed differ at line %d:\n%s\n%s", i, a.Trace[i], b.Trace[i])
			}
		}
		t.Errorf("two runs of one seed differ:\n%v\n%v", a, b)
	}
}
