package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// Simulated agents and frameworks against the real master, in one process: every launch is confirmed, nothing is lost. How
// fast it is proves nothing here.
func TestLaunchInOneProcess(t *testing.T) {
	t.Parallel()
	for _, json := range []bool{false, true} {
		var out, table bytes.Buffer
		b, err := New(Config{Rows: []int{6}, Duration: 200 * time.Millisecond, Frameworks: 3, JSON: json, Out: &out, Table: &table})
		if err != nil {
			t.Fatal(err)
		}
		b.ramp, b.launchAgents = []float64{50}, 20
		if err := b.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		f := figureOf(t, out.Bytes())
		// Of what was launched everything is confirmed in the end, however long that took on this machine.
		whole, _ := f.Details["whole"].(map[string]any)
		if n, _ := whole["count"].(float64); f.Row != 6 || n == 0 || f.Details["drained"] != true || f.Details["lost"] != 0.0 || f.Details["refused_calls"] != 0.0 {
			t.Errorf("figure %+v", f)
		}
		if !strings.Contains(table.String(), "the same in one process") {
			t.Errorf("table:\n%s", table.String())
		}
	}
}

// Services on a fake master, then on the real one: every figure of the row comes, and every deployment ends.
func TestServices(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	b, err := New(Config{Rows: []int{19}, Apps: 30, Instances: 100, Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	if len(lines) != 7 {
		t.Fatalf("%d figures:\n%s", len(lines), out.Bytes())
	}
	for _, l := range lines {
		if f := figureOf(t, l); f.Row != 19 || f.Value <= 0 {
			t.Errorf("figure %+v", f)
		}
	}
}

func figureOf(t *testing.T, line []byte) Figure {
	t.Helper()
	var f Figure
	if err := json.Unmarshal(line, &f); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return f
}

func TestRowsThatDoNotExist(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{Rows: []int{5, 99}}); err == nil || !strings.Contains(err.Error(), "row 99") {
		t.Errorf("error %v", err)
	}
}
