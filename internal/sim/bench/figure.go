package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
)

// Figure is one measurement.
type Figure struct {
	Row     int            `json:"row,omitempty"` // of the goals; 0: none of them
	Name    string         `json:"name"`
	Value   float64        `json:"value"`
	Unit    string         `json:"unit"`
	Must    float64        `json:"must,omitempty"`
	After   float64        `json:"after,omitempty"`
	Details map[string]any `json:"details,omitempty"`
	Commit  string         `json:"commit,omitempty"`
	CPUs    int            `json:"cpus"`
	Load    float64        `json:"load_average"` // of the machine during the last minute, this benchmark included
}

// report collects figures and writes each as it comes.
type report struct {
	mu      sync.Mutex
	out     io.Writer
	figures []Figure
	err     error
}

func (r *report) add(f Figure) {
	f.Commit, f.CPUs, f.Load = commit(), runtime.NumCPU(), loadAverage()
	line, err := json.Marshal(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.figures = append(r.figures, f)
	if err == nil {
		_, err = fmt.Fprintf(r.out, "%s\n", line)
	}
	if err != nil && r.err == nil {
		r.err = err
	}
}

// table writes what a person reads.
func (r *report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "row\tfigure\tvalue\tmust\tafter\tunit")
	goal := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return number(v)
	}
	for _, f := range r.figures {
		row := "-"
		if f.Row > 0 {
			row = strconv.Itoa(f.Row)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", row, f.Name, number(f.Value), goal(f.Must), goal(f.After), f.Unit)
	}
	_ = t.Flush()
}

func number(v float64) string {
	if v >= 100 || v == float64(int64(v)) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// commit is what the binary was built from, when it says so.
func commit() string {
	if c := os.Getenv("BENCH_COMMIT"); c != "" {
		return c
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
