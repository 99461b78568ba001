package monitor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// crowd tells of so many containers of host a, whose label and number are turned round, with some figures each.
func crowd(t *testing.T, m *Monitor, containers, figures int) {
	t.Helper()
	d := &probev1.Delta{Seq: 1, Snapshot: true, Entities: []*probev1.Entity{{Ref: 1, Id: "host;a", Kind: topology.KindHost, Label: "a"}}}
	x := &probev1.Metrics{AtMs: time.Now().UnixMilli()}
	for k := range figures {
		x.Names = append(x.Names, fmt.Sprint("m", k))
	}
	for i := range containers {
		ref := uint32(2 + i)
		d.Entities = append(d.Entities, &probev1.Entity{
			Ref: ref, Id: fmt.Sprintf("container;a;%06d", i), Kind: topology.KindContainer, Label: fmt.Sprintf("web-%06d", containers-1-i), State: topology.StateRunning, Parents: []string{"host;a"},
		})
		for k := range figures {
			x.Refs, x.NameIndex, x.Values = append(x.Refs, ref), append(x.NameIndex, uint32(k)), append(x.Values, 1)
		}
	}
	m.estate.Hello("a", "1", "a", 0, 0)
	if !m.estate.Apply("a", d, time.Now().UnixMilli()) {
		t.Fatal("refused")
	}
	m.estate.Metrics("a", x, time.Now().UnixMilli())
}

func getOK(t *testing.T, mux http.Handler, path string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://monitor:4040"+path, nil)
	r.Header.Set("Authorization", "Bearer omt_admin")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

// Of more than can be exported the same series are in every scrape, and how many are left out is right.
func TestWhatIsExportedIsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	const containers, figures = 5_200, 10
	crowd(t, m, containers, figures)
	scrape := func() (series map[string]bool, left string) {
		series = map[string]bool{}
		for line := range strings.Lines(getOK(t, mux, "/metrics?entities=container")) {
			switch {
			case strings.HasPrefix(line, "orchestrator_container_"):
				series[line] = true
			case strings.Contains(line, "left out"):
				left = line
			}
		}
		return series, left
	}
	first, left := scrape()
	if len(first) > maxExported || len(first) < maxExported-figures || left != fmt.Sprintf("# %d series are left out: name fewer kinds\n", containers*figures-len(first)) {
		t.Errorf("%d series, and %q", len(first), left)
	}
	again, _ := scrape()
	for line := range first {
		if !again[line] {
			t.Fatalf("%s is not in the next scrape", line)
		}
	}
}

// Of more hits than are shown those that come first are shown, however many there are.
func TestASearchShowsWhatComesFirst(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	const containers = 21_000
	crowd(t, m, containers, 0)
	var got struct {
		Total   int
		Results []struct{ Label string }
	}
	for _, limit := range []int{1, 50, 1000} {
		if err := json.Unmarshal([]byte(getOK(t, mux, fmt.Sprint("/api/v1/search?q=kind:container&limit=", limit))), &got); err != nil {
			t.Fatal(err)
		}
		if got.Total != containers || len(got.Results) != limit {
			t.Fatalf("%d results of %d", len(got.Results), got.Total)
		}
		for i, r := range got.Results {
			if want := fmt.Sprintf("web-%06d", i); r.Label != want {
				t.Fatalf("limit %d: result %d is %s, want %s", limit, i, r.Label, want)
			}
		}
	}
}
