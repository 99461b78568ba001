package monitor

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/monitor/console"
)

// Points of a series of minutes are at whole minutes, whatever step was asked for, and stand for the step that is named.
func TestSeriesOfMinutesBeginAtMinutes(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	m.fake(t, "vm1")
	now := time.Now().UnixMilli()
	for at := now - 3000_000; at < now; at += 15_000 {
		m.estate.Metrics("vm1", &probev1.Metrics{AtMs: at, Names: []string{"cpu"}, Refs: []uint32{2}, NameIndex: []uint32{0}, Values: []float32{7}}, now)
	}
	for step, want := range map[int]int64{60: 60_000, 75: 60_000, 90: 60_000, 119: 60_000, 120: 120_000, 150: 120_000, 3599: 3540_000} {
		var got struct {
			Series []struct {
				FromMs int64 `json:"from_ms"`
				StepMs int64 `json:"step_ms"`
				V      []*float64
			}
		}
		if err := json.Unmarshal([]byte(getOK(t, mux, fmt.Sprint("/api/v1/nodes/container%3Bvm1%3Bweb/series?since=3600&step=", step))), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Series) != 1 || got.Series[0].StepMs != want || got.Series[0].FromMs%want != 0 || len(got.Series[0].V) < int(3600_000/want) {
			t.Errorf("step %d: %+v", step, got.Series)
		}
	}
}

// A disk that hangs holds up who asks for what is on it, and nobody else: the estate goes on.
func TestASlowDiskHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := New(Config{Listen: "127.0.0.1:0", AdminToken: "omt_admin", DataDir: dir}, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.listener.Close(); m.audit.close() })
	mux := m.routes(console.Handler())
	m.fake(t, "vm1")
	now := time.Now().UnixMilli()
	m.estate.Metrics("vm1", &probev1.Metrics{AtMs: now, Names: []string{"cpu"}, Refs: []uint32{2}, NameIndex: []uint32{0}, Values: []float32{7}}, now)
	// Two hours in the middle of the last day are files whose opening waits for the other side.
	var slow []string
	for _, ago := range []int64{10, 9} {
		name := filepath.Join(dir, "series", fmt.Sprintf("%d.min", now/3600_000-ago))
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, name)
	}
	release := func(name string) {
		for {
			f, err := os.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0) // refused until somebody opens it for reading
			if err == nil {
				f.Close()
				return
			}
			if t.Context().Err() != nil {
				return
			}
		}
	}
	answered := make(chan int, 1)
	go func() {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://monitor:4040/api/v1/nodes/container%3Bvm1%3Bweb/series?since=86400", nil)
		r.Header.Set("Authorization", "Bearer omt_admin")
		answered <- answer(mux, r)
	}()
	release(slow[0]) // now it is on its way to the second
	applied := make(chan bool, 1)
	go func() { applied <- m.estate.Apply("vm1", &probev1.Delta{Seq: 2}, now) }()
	select {
	case ok := <-applied:
		if !ok {
			t.Error("the delta is refused")
		}
	case <-time.After(20 * time.Second):
		t.Error("a probe waits for the disk")
	}
	release(slow[1])
	if got := <-answered; got != http.StatusOK {
		t.Errorf("answered %d", got)
	}
}
