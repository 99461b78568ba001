package spec

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"time"
)

// Spec is an app or a pod: what both have in common, for those who start, stop and place instances. It is immutable.
type Spec struct {
	ID       string
	App      *App // exactly one of App and Pod
	Pod      *Pod
	Version  Version
	ScaledAt Version // when the number of instances changed last
	ConfigAt Version // when anything else changed last; it decides which instances are old
	// RestartedAt is when a restart was asked for last: instances from before are old whatever they look like.
	RestartedAt Version
	strategy    Strategy
	hash        [32]byte // of everything but instances and times
	emitted     *emitted
}

// emitted is the JSON of a definition, made once when it is first asked for: lists of many thousands are put together of it.
type emitted struct {
	once sync.Once
	json []byte
}

// JSON is the definition as the API emits it. The bytes must not be changed.
func (s *Spec) JSON() []byte {
	s.emitted.once.Do(func() {
		if s.Pod != nil {
			s.emitted.json, _ = Encode(s.Pod)
		} else {
			s.emitted.json, _ = Encode(s.App)
		}
	})
	return s.emitted.json
}

// OfApp is the common view of an app.
func OfApp(a *App) *Spec {
	s := &Spec{ID: a.ID, App: a, Version: a.Version, ScaledAt: a.Version, ConfigAt: a.Version, emitted: &emitted{}}
	if a.VersionInfo != nil {
		s.ScaledAt, s.ConfigAt = a.VersionInfo.LastScalingAt, a.VersionInfo.LastConfigChangeAt
	}
	s.strategy, _ = ReadStrategy(a.Labels)
	s.hash = sha256.Sum256(s.definition())
	return s
}

// OfPod is the common view of a pod.
func OfPod(p *Pod) *Spec {
	s := &Spec{ID: p.ID, Pod: p, Version: p.Version, ScaledAt: p.Version, ConfigAt: p.Version, emitted: &emitted{}}
	s.strategy, _ = ReadStrategy(p.Labels)
	s.hash = sha256.Sum256(s.definition())
	return s
}

// Kind is "app" or "pod", as plans and queues call it.
func (s *Spec) Kind() string {
	if s.Pod != nil {
		return "pod"
	}
	return "app"
}

// Instances is how many there should be.
func (s *Spec) Instances() int {
	if s.Pod != nil {
		return s.Pod.Scaling.Instances
	}
	return s.App.Instances
}

// WithInstances is a copy with another number of instances and otherwise the same.
func (s *Spec) WithInstances(n int) *Spec {
	c := *s
	c.emitted = &emitted{}
	if s.Pod != nil {
		p := *s.Pod
		p.Scaling.Instances = n
		c.Pod = &p
		return &c
	}
	a := *s.App
	a.Instances = n
	c.App = &a
	return &c
}

// stamped is a copy that carries the three times.
func (s *Spec) stamped(version, scaled, config Version) *Spec {
	c := *s
	c.emitted = &emitted{}
	c.Version, c.ScaledAt, c.ConfigAt = version, scaled, config
	if s.Pod != nil {
		p := *s.Pod
		p.Version = version
		c.Pod = &p
		return &c
	}
	a := *s.App
	a.Version = version
	a.VersionInfo = &VersionInfo{LastScalingAt: scaled, LastConfigChangeAt: config}
	c.App = &a
	return &c
}

// definition is the emitted JSON without instances and times: what is compared to see whether anything else changed.
func (s *Spec) definition() []byte {
	var b []byte
	if s.Pod != nil {
		p := *s.Pod
		p.Version, p.Scaling.Instances = 0, 0
		b, _ = Encode(&p)
		return append([]byte("pod "), b...)
	}
	a := *s.App
	a.Version, a.VersionInfo, a.Instances = 0, nil, 0
	b, _ = Encode(&a)
	return b
}

// SameConfig reports whether the two differ at most in instances and times.
func (s *Spec) SameConfig(o *Spec) bool {
	return s.hash == o.hash
}

// Role is the role whose resources instances use.
func (s *Spec) Role() string {
	if s.Pod != nil {
		return s.Pod.Role
	}
	return s.App.Role
}

// AcceptedRoles are the roles of offered resources that may be used; nil is "*" and the own role.
func (s *Spec) AcceptedRoles() []string {
	if s.Pod != nil {
		return s.Pod.Scheduling.Placement.AcceptedResourceRoles
	}
	return s.App.AcceptedResourceRoles
}

// Upgrade bounds a rolling replacement.
func (s *Spec) Upgrade() UpgradeStrategy {
	if s.Pod != nil {
		return s.Pod.Scheduling.Upgrade
	}
	return s.App.UpgradeStrategy
}

// Unreachable says what happens to instances on agents that are gone.
func (s *Spec) Unreachable() UnreachableStrategy {
	if s.Pod != nil {
		return s.Pod.Scheduling.UnreachableStrategy
	}
	return s.App.UnreachableStrategy
}

// YoungestFirst is the order in which instances are killed.
func (s *Spec) YoungestFirst() bool {
	if s.Pod != nil {
		return s.Pod.Scheduling.KillSelection != OldestFirst
	}
	return s.App.KillSelection != OldestFirst
}

// Backoff gives the first delay after a failure, the factor and the greatest delay.
func (s *Spec) Backoff() (first time.Duration, factor float64, most time.Duration) {
	if s.Pod != nil {
		b := s.Pod.Scheduling.Backoff
		return seconds(b.Backoff), b.BackoffFactor, seconds(b.MaxLaunchDelay)
	}
	return seconds(s.App.BackoffSeconds), s.App.BackoffFactor, seconds(s.App.MaxLaunchDelaySeconds)
}

func seconds(f float64) time.Duration {
	return time.Duration(math.Min(f, math.MaxInt32) * float64(time.Second))
}

// Labels are the user's.
func (s *Spec) Labels() map[string]string {
	if s.Pod != nil {
		return s.Pod.Labels
	}
	return s.App.Labels
}

// Strategy is what the labels ask for beyond Marathon.
func (s *Spec) Strategy() Strategy { return s.strategy }

// Constraints in the app form: field, operator, optional value.
func (s *Spec) Constraints() [][]string {
	if s.Pod == nil {
		return s.App.Constraints
	}
	var out [][]string
	for _, c := range s.Pod.Scheduling.Placement.Constraints {
		if c.Value != "" {
			out = append(out, []string{c.FieldName, c.Operator, c.Value})
		} else {
			out = append(out, []string{c.FieldName, c.Operator})
		}
	}
	return out
}

// Dependencies are ids of apps, pods and groups; pods have none.
func (s *Spec) Dependencies() []string {
	if s.Pod != nil {
		return nil
	}
	return s.App.Dependencies
}

// Resident reports whether instances have persistent volumes.
func (s *Spec) Resident() bool {
	if s.Pod != nil {
		return s.Pod.Resident()
	}
	return s.App.Resident()
}

// HasHealthChecks reports whether an instance must be found healthy, or whether running is enough.
func (s *Spec) HasHealthChecks() bool {
	if s.Pod != nil {
		for i := range s.Pod.Containers {
			if s.Pod.Containers[i].HealthCheck != nil {
				return true
			}
		}
		return false
	}
	return len(s.App.HealthChecks) > 0
}

// HasReadiness reports whether an instance must become ready during a deployment.
func (s *Spec) HasReadiness() bool { return s.App != nil && len(s.App.ReadinessChecks) > 0 }

// Total is what one instance takes of an agent.
func (s *Spec) Total() Resources {
	if s.Pod == nil {
		return Resources{CPUs: s.App.CPUs, Mem: s.App.Mem, Disk: s.App.Disk, GPUs: s.App.GPUs}
	}
	t := s.Pod.ExecutorResources
	for i := range s.Pod.Containers {
		r := s.Pod.Containers[i].Resources
		t.CPUs, t.Mem, t.Disk, t.GPUs = t.CPUs+r.CPUs, t.Mem+r.Mem, t.Disk+r.Disk, t.GPUs+r.GPUs
	}
	return t
}

// stored is how a definition lies in the store.
type stored struct {
	App       *App    `json:"app,omitempty"`
	Pod       *Pod    `json:"pod,omitempty"`
	ScaledAt  Version `json:"scaledAt"`
	ConfigAt  Version `json:"configAt"`
	Restarted Version `json:"restartedAt,omitzero"`
}

// Marshal is the stored form of a definition.
func (s *Spec) Marshal() ([]byte, error) {
	return Encode(stored{App: s.App, Pod: s.Pod, ScaledAt: s.ScaledAt, ConfigAt: s.ConfigAt, Restarted: s.RestartedAt})
}

// Unmarshal reads what Marshal wrote. A definition that is stored was valid when it was written, with the defaults of that
// time, so it is read with every feature enabled and nothing is refused for a rule that came later.
func Unmarshal(b []byte) (*Spec, error) {
	v, err := Decode(b)
	if err != nil {
		return nil, err
	}
	var p problems
	r, _ := newReader("", v, &p)
	var times struct {
		ScaledAt  Version `json:"scaledAt"`
		ConfigAt  Version `json:"configAt"`
		Restarted Version `json:"restartedAt"`
	}
	if err := json.Unmarshal(b, &times); err != nil {
		return nil, fmt.Errorf("stored definition: %w", err)
	}
	all := &Settings{}
	var s *Spec
	if pr, ok := r.sub("pod"); ok {
		pod := readPod(pr, RootID)
		podDefaults(pod, pr, all)
		s = OfPod(pod)
	} else if ar, ok := r.sub("app"); ok {
		app := readApp(ar, RootID)
		appDefaults(app, ar, all)
		s = OfApp(app)
	}
	if err := p.err(MessageInvalidJSON); err != nil || s == nil {
		return nil, fmt.Errorf("stored definition: %w", err)
	}
	s = s.stamped(s.Version, times.ScaledAt, times.ConfigAt)
	s.RestartedAt = times.Restarted
	return s, nil
}

// Replaces reports whether an instance that runs other must be replaced for s to be in effect: what it runs differs, or a
// restart was asked for since. Going back to an earlier definition therefore leaves its instances alone.
func (s *Spec) Replaces(other *Spec) bool {
	return other == nil || other.Version < s.ConfigAt && (s.hash != other.hash || other.Version < s.RestartedAt)
}
