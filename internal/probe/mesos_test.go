package probe

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// A container that the agent has not told of has it asked at once, not in a few seconds, and a few times only: it may be another agent's.
func TestANewContainerHasTheFakeAgentAsked(t *testing.T) {
	t.Parallel()
	var container atomic.Value
	container.Store("first")
	var asked atomic.Int32
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprintf(w, `{"id":"S1","frameworks":[{"id":"F1","name":"marathon","executors":[{"id":"e","container":%q,"tasks":[{"id":"web.1","name":"web"}]}]}]}`, container.Load())
	}))
	defer agent.Close()
	poked := make(chan struct{}, 100)
	m := newMesosWatch([]string{agent.URL}, func() { poked <- struct{}{} })
	m.every = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.run(ctx) }()
	defer func() { cancel(); <-done }()
	<-poked
	p := &Probe{mesos: m}
	named := func(id string) bool { return p.mesosTask(&box{ref: containerRef{runtime: "mesos", id: id}}) != nil }
	if !named("first") || named("second") {
		t.Fatalf("at first: %v", *m.tasks.Load())
	}
	container.Store("second") // as many as before, and others
	for !named("second") {
		<-poked
	}
	// One that is never told of, over and over.
	was := asked.Load()
	for range 10 * mesosTries {
		named("stranger")
		for len(m.unknown) > 0 {
			time.Sleep(10 * time.Millisecond) // until it is on its way
		}
	}
	if p.mesosTask(&box{ref: containerRef{runtime: "docker", id: "x"}}) != nil || len(m.unknown) > 0 {
		t.Error("asked for what Mesos does not run")
	}
	if n := asked.Load() - was; n == 0 || n > mesosTries {
		t.Errorf("asked %d times for a container that is another agent's", n)
	}
}
