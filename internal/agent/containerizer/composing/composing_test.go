package composing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// fake is a containerizer that takes what it is told to and remembers it.
type fake struct {
	containerizer.Containerizer // what a test does not use is nil
	refuse                      error
	known                       []ids.Container
	held                        map[ids.Container]bool
}

func (f *fake) Supports(containerizer.Config) error { return f.refuse }

func (f *fake) Launch(_ context.Context, c containerizer.Config) error {
	if f.held == nil {
		f.held = map[ids.Container]bool{}
	}
	f.held[c.ID] = true
	return nil
}

func (f *fake) Status(id ids.Container) (*mesosv1.ContainerStatus, error) {
	if !f.held[id] {
		return nil, containerizer.ErrNotFound
	}
	return &mesosv1.ContainerStatus{}, nil
}

func (f *fake) Recover(_ context.Context, known []containerizer.Config) ([]ids.Container, error) {
	for _, k := range known {
		f.known = append(f.known, k.ID)
	}
	return []ids.Container{"orphan"}, nil
}

func (f *fake) Destroy(_ context.Context, id ids.Container) error {
	delete(f.held, id)
	return nil
}

func TestComposing(t *testing.T) {
	t.Parallel()
	a, b := &fake{}, &fake{}
	claims := func(prefix string) func(containerizer.Config) bool {
		return func(c containerizer.Config) bool { return strings.HasPrefix(string(c.ID), prefix) }
	}
	c := New(Member{"a", a, claims("a")}, Member{"b", b, claims("b")})
	orphans, err := c.Recover(t.Context(), []containerizer.Config{{ID: "a1"}, {ID: "b1"}, {ID: "z"}})
	if err != nil || len(orphans) != 2 || !slices.Equal(a.known, []ids.Container{"a1"}) || !slices.Equal(b.known, []ids.Container{"b1", "z"}) {
		t.Errorf("%v %v: a got %v, b %v; what nobody claims is the last one's to bury", orphans, err, a.known, b.known)
	}
	launch := func(id ids.Container) error { return c.Launch(t.Context(), containerizer.Config{ID: id}) }
	if err := launch("x"); err != nil || !a.held["x"] {
		t.Errorf("the first one takes it: %v", err)
	}
	a.refuse = errors.New("not mine")
	if err := launch("y"); err != nil || !b.held["y"] {
		t.Errorf("the next one takes what the first can't: %v", err)
	}
	if err := launch("y.child"); err != nil || !b.held["y.child"] {
		t.Errorf("a nested container goes with its parent: %v", err)
	}
	if err := launch("x.child"); err == nil || a.held["x.child"] || b.held["x.child"] {
		t.Errorf("a nested container goes nowhere else: %v", err)
	}
	b.refuse = errors.New("nor mine")
	var le *containerizer.LaunchError
	if err := launch("q"); !errors.As(err, &le) || !strings.Contains(err.Error(), "a: not mine; b: nor mine") {
		t.Errorf("%v", err)
	}
	if err := c.Destroy(t.Context(), "y"); err != nil || b.held["y"] {
		t.Errorf("%v", err)
	}
	if err := c.Destroy(t.Context(), "nobody"); !errors.Is(err, containerizer.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
