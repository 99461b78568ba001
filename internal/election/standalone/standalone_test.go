package standalone

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/orchestrator/orchestrator/internal/election"
)

func TestAlwaysLeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var e Election
		self := election.Leader{ID: "m1", Address: "127.0.0.1:5050"}
		ctx, cancel := context.WithCancel(t.Context())
		terms := 0
		done := make(chan error)
		go func() {
			done <- e.Contend(ctx, self, func(ctx context.Context, epoch uint64) error {
				terms++
				if epoch != 0 {
					t.Errorf("epoch is %d", epoch)
				}
				if terms == 1 {
					return nil // gives up; leads again
				}
				<-ctx.Done()
				return nil
			})
		}()
		leader, err := e.Detect(t.Context(), nil)
		if err != nil || !election.Same(leader, &self) {
			t.Errorf("detected %v, %v", leader, err)
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || terms != 2 {
			t.Errorf("%v after %d terms", err, terms)
		}
		if leader, err := e.Detect(t.Context(), leader); err != nil || leader != nil {
			t.Errorf("detected %v, %v after the end", leader, err)
		}
	})
}

func TestErrorEndsContending(t *testing.T) {
	t.Parallel()
	var e Election
	boom := errors.New("boom")
	err := e.Contend(t.Context(), election.Leader{}, func(context.Context, uint64) error { return boom })
	if !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	leader, err := At("a:5050").Detect(t.Context(), nil)
	if err != nil || leader.Address != "a:5050" {
		t.Error(leader, err)
	}
}
