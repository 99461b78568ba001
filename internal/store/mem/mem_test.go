package mem

import (
	"errors"
	"sync"
	"testing"

	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	stores := map[string]*Store{}
	storetest.Run(t, storetest.Fixture{Open: func(t testing.TB, name string) store.Store {
		mu.Lock()
		defer mu.Unlock()
		name = t.Name() + "/" + name
		if stores[name] == nil {
			stores[name] = New()
		}
		stores[name].Reopen()
		return stores[name]
	}})
}

func TestFault(t *testing.T) {
	t.Parallel()
	s := New()
	w, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("disk is full")
	s.SetFault(func(store.Txn) error { return boom })
	if err := w.Txn(t.Context(), store.Txn{Puts: []store.Put{{Key: "k"}}}); !errors.Is(err, boom) {
		t.Error(err)
	}
	s.SetFault(nil)
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the failed transaction was kept: %v", err)
	}
}
