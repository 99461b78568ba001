package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/orchestrator/orchestrator/internal/leakcheck"
	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/store/storetest"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	storetest.Run(t, storetest.Fixture{Open: func(t testing.TB, name string) store.Store {
		dir := filepath.Join(base, strings.ReplaceAll(t.Name(), "/", "_"))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}})
}

func TestLockedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = Open(path)
	if err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("opening twice: %v", err)
	}
}

func filled(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registry.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		err := w.Txn(t.Context(), store.Txn{Puts: []store.Put{{Key: fmt.Sprintf("agents/%04d", i), Value: []byte(strings.Repeat("v", 300))}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDamagedFile overwrites every page in turn, and cuts the file: each time Open or List says that it is corrupt, or
// everything is there; nothing panics and nothing wrong is served.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(filled(t, 60))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, data []byte) (told bool) {
		path := filepath.Join(t.TempDir(), "registry.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", what, err)
			}
			return true
		}
		defer s.Close()
		entries, err := s.List(t.Context(), "")
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %v", what, err)
			}
			return true
		}
		for _, e := range entries {
			if string(e.Value) != strings.Repeat("v", 300) {
				t.Errorf("%s: key %s has a wrong value", what, e.Key)
			}
		}
		// A damaged list of free pages shows when pages are needed: an error, or it works.
		w, err := s.Claim(t.Context(), 0)
		if err == nil {
			err = w.Txn(t.Context(), store.Txn{Puts: []store.Put{{Key: "agents/0001", Value: make([]byte, 9000)}}})
		}
		return err != nil
	}
	told := 0
	page := os.Getpagesize()
	for at := 0; at < len(good); at += page {
		for _, fill := range []byte{0xff, 'x'} {
			bad := append([]byte(nil), good...)
			for i := at + 40; i < min(at+page, len(bad)); i++ {
				bad[i] = fill
			}
			if check(fmt.Sprintf("page %d filled with %#x", at/page, fill), bad) {
				told++
			}
		}
	}
	if told == 0 {
		t.Error("no damage was ever found: the test proves nothing")
	}
	if !check("cut", good[:len(good)/2]) {
		t.Error("half a file was opened and listed")
	}
	if !check("not a registry", []byte(strings.Repeat("hello", 5000))) {
		t.Error("a text file was opened")
	}
}

func TestUnknownFormat(t *testing.T) {
	t.Parallel()
	path := filled(t, 1)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte("orchestrator-9")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "orchestrator-9") {
		t.Error(err)
	}
}

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	if _, err := Open(filepath.Join(t.TempDir(), "none", "registry.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// BenchmarkSubmit shows what group commit gains: transactions per second with many in flight, and with one.
func BenchmarkSubmit(b *testing.B) {
	for _, inFlight := range []int{1, 1000} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "registry.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			w, err := s.Claim(b.Context(), 0)
			if err != nil {
				b.Fatal(err)
			}
			value := make([]byte, 400)
			tokens := make(chan struct{}, inFlight)
			var wg sync.WaitGroup
			for i := 0; b.Loop(); i++ {
				tokens <- struct{}{}
				wg.Add(1)
				w.Submit(store.Txn{Puts: []store.Put{{Key: fmt.Sprintf("agents/%06d", i%50000), Value: value}}}, func(err error) {
					if err != nil {
						b.Error(err)
					}
					<-tokens
					wg.Done()
				})
			}
			wg.Wait()
		})
	}
}
