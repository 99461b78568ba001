package spec

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Labels by which a definition asks for what Marathon didn't have. They are labels so that every old client stays valid.
const (
	LabelDeadline    = "ORCHESTRATOR_DEPLOYMENT_DEADLINE" // a duration; the deployment of this definition must be done by then
	LabelPolicy      = "ORCHESTRATOR_DEPLOYMENT_POLICY"   // pause, rollback or keep: what happens when it isn't
	LabelStrategy    = "ORCHESTRATOR_STRATEGY"            // rolling (default), canary or blue-green
	LabelSteps       = "ORCHESTRATOR_CANARY_STEPS"        // percentages, rising, the last is 100
	LabelHold        = "ORCHESTRATOR_CANARY_HOLD"         // a duration: how long a step must stay good
	LabelMaxFailures = "ORCHESTRATOR_CANARY_MAX_FAILURES" // failures of new instances that are borne before it is rolled back
	LabelAutoMin     = "ORCHESTRATOR_AUTOSCALE_MIN"       // instances
	LabelAutoMax     = "ORCHESTRATOR_AUTOSCALE_MAX"       // instances
	LabelAutoMetric  = "ORCHESTRATOR_AUTOSCALE_METRIC"    // cpu, mem, or a Prometheus query
	LabelAutoTarget  = "ORCHESTRATOR_AUTOSCALE_TARGET"    // the value that one instance should have: percent of its request, or the query's unit
	LabelAutoCool    = "ORCHESTRATOR_AUTOSCALE_COOLDOWN"  // a duration between two changes
	LabelQuery       = "ORCHESTRATOR_CANARY_QUERY"        // a Prometheus query that must give a non-zero value for a step to be good
)

// Policy says what happens to a deployment that is not done by its deadline.
type Policy string

// The policies.
const (
	PolicyNone     Policy = ""         // Marathon's: wait for ever
	PolicyPause    Policy = "pause"    // nothing more is started or stopped until somebody decides
	PolicyRollback Policy = "rollback" // what was there before comes back
	PolicyKeep     Policy = "keep"     // the deployment ends where it stands
)

// Strategy is what a definition's labels ask for.
type Strategy struct {
	Deadline    time.Duration
	Policy      Policy
	Steps       []int // percentages of new instances; nil for a rolling replacement
	Hold        time.Duration
	MaxFailures int
	Query       string
	BlueGreen   bool
}

// ReadStrategy reads the deployment labels. Those that are absent are zero.
func ReadStrategy(labels map[string]string) (Strategy, error) {
	s := Strategy{MaxFailures: 2}
	var err error
	if v := labels[LabelDeadline]; v != "" {
		if s.Deadline, err = time.ParseDuration(v); err != nil || s.Deadline <= 0 {
			return s, fmt.Errorf("%s must be a duration such as 10m, got %q", LabelDeadline, v)
		}
		s.Policy = PolicyPause
	}
	switch p := Policy(labels[LabelPolicy]); p {
	case PolicyNone:
	case PolicyPause, PolicyRollback, PolicyKeep:
		s.Policy = p
	default:
		return s, fmt.Errorf("%s must be pause, rollback or keep, got %q", LabelPolicy, p)
	}
	switch v := labels[LabelStrategy]; v {
	case "", "rolling":
		return s, nil
	case "canary":
		s.Steps = []int{10, 25, 50, 75, 100}
	case "blue-green":
		s.BlueGreen = true
		s.Steps = []int{100}
	default:
		return s, fmt.Errorf("%s must be rolling, canary or blue-green, got %q", LabelStrategy, v)
	}
	if labels[LabelPolicy] == "" {
		s.Policy = PolicyRollback
	}
	if v := labels[LabelSteps]; v != "" && !s.BlueGreen {
		s.Steps = nil
		last := 0
		for part := range strings.SplitSeq(v, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(part))
			if err != nil || n <= last || n > 100 {
				return s, fmt.Errorf("%s must be rising percentages such as 10,50,100, got %q", LabelSteps, v)
			}
			s.Steps = append(s.Steps, n)
			last = n
		}
		if last != 100 {
			s.Steps = append(s.Steps, 100)
		}
	}
	if v := labels[LabelHold]; v != "" {
		if s.Hold, err = time.ParseDuration(v); err != nil || s.Hold < 0 {
			return s, fmt.Errorf("%s must be a duration such as 30s, got %q", LabelHold, v)
		}
	}
	if v := labels[LabelMaxFailures]; v != "" {
		if s.MaxFailures, err = strconv.Atoi(v); err != nil || s.MaxFailures < 0 {
			return s, fmt.Errorf("%s must be a number, got %q", LabelMaxFailures, v)
		}
	}
	s.Query = labels[LabelQuery]
	return s, nil
}
