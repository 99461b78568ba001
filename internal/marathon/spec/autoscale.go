package spec

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Autoscale is what a definition's labels ask for: a number of instances that follows a measurement.
type Autoscale struct {
	Min, Max int
	Metric   string  // cpu, mem, or a Prometheus query
	Target   float64 // cpu, mem: percent of what an instance asked for; a query: its unit for each instance
	Cooldown time.Duration
}

// Autoscaling by cpu or mem measures the instances; anything else is a query.
const (
	MetricCPU = "cpu"
	MetricMem = "mem"
)

// ReadAutoscale reads the autoscaling labels; ok is false when there are none.
func ReadAutoscale(labels map[string]string) (a Autoscale, ok bool, err error) {
	if labels[LabelAutoMax] == "" && labels[LabelAutoMin] == "" {
		return a, false, nil
	}
	if a.Max, err = strconv.Atoi(labels[LabelAutoMax]); err != nil || a.Max < 1 || a.Max > maxInstances {
		return a, false, fmt.Errorf("%s must be a number of instances, got %q", LabelAutoMax, labels[LabelAutoMax])
	}
	a.Min = 1
	if v := labels[LabelAutoMin]; v != "" {
		if a.Min, err = strconv.Atoi(v); err != nil || a.Min < 0 || a.Min > a.Max {
			return a, false, fmt.Errorf("%s must be a number between 0 and %s, got %q", LabelAutoMin, LabelAutoMax, v)
		}
	}
	if a.Metric = labels[LabelAutoMetric]; a.Metric == "" {
		a.Metric = MetricCPU
	}
	a.Target = 75
	if v := labels[LabelAutoTarget]; v != "" {
		if a.Target, err = strconv.ParseFloat(v, 64); err != nil || !(a.Target > 0) || math.IsInf(a.Target, 0) {
			return a, false, fmt.Errorf("%s must be a positive number, got %q", LabelAutoTarget, v)
		}
	} else if a.Metric != MetricCPU && a.Metric != MetricMem {
		return a, false, fmt.Errorf("%s is needed for a query: the value that one instance should have", LabelAutoTarget)
	}
	a.Cooldown = time.Minute
	if v := labels[LabelAutoCool]; v != "" {
		if a.Cooldown, err = time.ParseDuration(v); err != nil || a.Cooldown < time.Second {
			return a, false, fmt.Errorf("%s must be a duration of at least a second, got %q", LabelAutoCool, v)
		}
	}
	return a, true, nil
}

// autoTolerance is how far a measurement may be from its target before anything is done about it.
const autoTolerance = 0.1

// Want is the number of instances for a measurement: the sum over all instances in the unit of Target. Within a tenth of the
// target nothing changes, so that the number doesn't swing; a single step at most doubles or halves it.
func (a Autoscale) Want(now int, sum float64) int {
	n := now
	if now > 0 && !math.IsNaN(sum) && sum >= 0 {
		each := sum / float64(now)
		if math.Abs(each-a.Target) > autoTolerance*a.Target {
			n = int(math.Ceil(math.Min(sum/a.Target, float64(maxInstances))))
			n = min(max(n, now/2), 2*now)
		}
	} else if now == 0 && sum > 0 {
		n = 1
	}
	return min(max(n, a.Min), a.Max)
}
