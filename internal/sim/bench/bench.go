package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"time"

	"github.com/orchestrator/orchestrator/internal/sim"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// Config says what to measure. Zero fields stand for the defaults.
type Config struct {
	Executable string        // this binary
	Rows       []int         // of the goals; empty: all that this package measures
	Duration   time.Duration // of a sustained load; default 60 s
	Agents     int           // in rows 4, 13, 14 and 15; default 10,000
	Links      int           // real connections in row 17; default 15,000
	Relayed    int           // agents behind them and relays in row 17; default 50,000
	Frameworks int           // in rows 5 to 7; default 10
	Apps       int           // in row 19; default 20,000
	Instances  int           // of them all; default 250,000
	JSON       bool          // frameworks speak JSON instead of protobuf
	Profile    string        // prefix of files for CPU profiles of the master, or of the one process
	Rate       float64       // launches a second in rows 5 and 6, instead of the highest that is kept up with
	Out        io.Writer     // JSON lines
	Table      io.Writer     // what a person reads
	Log        *slog.Logger  // progress
}

// Rows are the goals that this package measures.
var Rows = []int{4, 5, 6, 7, 13, 14, 15, 17, 19}

// Bench is one run of the benchmarks.
type Bench struct {
	cfg    Config
	dir    string
	report report
	runs   int

	ramp         []float64
	launchAgents int
}

// New checks the configuration.
func New(cfg Config) (*Bench, error) {
	for _, row := range cfg.Rows {
		if !slices.Contains(Rows, row) {
			return nil, fmt.Errorf("there is no benchmark of row %d here; there are %v", row, Rows)
		}
	}
	if len(cfg.Rows) == 0 {
		cfg.Rows = Rows
	}
	orDefault := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orDefault(&cfg.Agents, 10_000)
	orDefault(&cfg.Links, 15_000)
	orDefault(&cfg.Relayed, 50_000)
	orDefault(&cfg.Frameworks, 10)
	orDefault(&cfg.Apps, 20_000)
	orDefault(&cfg.Instances, 250_000)
	if cfg.Duration <= 0 {
		cfg.Duration = 60 * time.Second
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Table == nil {
		cfg.Table = io.Discard
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bench{cfg: cfg, report: report{out: cfg.Out}, ramp: ratesTried, launchAgents: launchAgents}
	if cfg.Rate > 0 {
		b.ramp = []float64{cfg.Rate}
	}
	return b, nil
}

// Run measures. What was measured before an error has been written.
func (b *Bench) Run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orchestrator-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	defer b.report.table(b.cfg.Table)
	for _, part := range []struct {
		rows []int
		run  func(context.Context) error
	}{
		{[]int{5, 7}, b.launchWire},
		{[]int{6}, b.launchOneProcess},
		{[]int{4, 13, 14, 15}, b.fullCluster},
		{[]int{17}, b.idleAgents},
		{[]int{19}, b.services},
	} {
		if !slices.ContainsFunc(part.rows, b.wants) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("rows %v: %w", part.rows, err)
		}
	}
	return b.report.err
}

func (b *Bench) wants(row int) bool { return slices.Contains(b.cfg.Rows, row) }

func (b *Bench) contentType() wire.ContentType {
	if b.cfg.JSON {
		return wire.JSON
	}
	return wire.Protobuf
}

// startMaster starts a master with an empty registry on disk.
func (b *Bench) startMaster(ctx context.Context) (*child, string, error) {
	work, err := os.MkdirTemp(b.dir, "registry")
	if err != nil {
		return nil, "", err
	}
	args := []string{"bench", "master", "--work-dir", work}
	if b.cfg.Profile != "" {
		b.runs++
		args = append(args, "--cpu-profile", b.cfg.Profile+"."+strconv.Itoa(b.runs))
	}
	c, err := b.start(ctx, "master", args...)
	if err != nil {
		return nil, "", err
	}
	u, err := url.Parse(c.ready.Master)
	if err != nil {
		c.stop()
		return nil, "", err
	}
	return c, u.Host, nil
}

// profile writes a CPU profile of this process until the function that it returns is called.
func (b *Bench) profile(name string) (stop func(), err error) {
	if b.cfg.Profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(b.cfg.Profile + "." + name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// agentsFlags are the flags of `bench agents`.
func agentsFlags(address string, c sim.AgentsConfig) []string {
	return []string{
		"bench", "agents", "--master", address, "--count", strconv.Itoa(c.Count), "--per-connection", strconv.Itoa(max(c.PerConnection, 1)),
		"--first", strconv.Itoa(c.First), "--cpus", fmt.Sprint(c.CPUs), "--mem", fmt.Sprint(c.Mem), "--run", c.Script.Run.String(), "--start", c.Script.Start.String(),
	}
}

// running is a load at work in this process.
type running struct {
	*sim.Load
	cancel context.CancelFunc
	ended  chan struct{}
}

func (b *Bench) startLoad(ctx context.Context, cfg sim.LoadConfig) (*running, error) {
	cfg.ContentType, cfg.Log = b.contentType(), b.cfg.Log
	l, err := sim.NewLoad(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &running{Load: l, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		_ = l.Run(ctx)
	}()
	const most = time.Minute
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-l.Ready():
		return r, nil
	case <-t.C:
		r.stop()
		return nil, fmt.Errorf("%d frameworks did not subscribe within %v", cfg.Frameworks, most)
	case <-ctx.Done():
		r.stop()
		return nil, context.Cause(ctx)
	}
}

func (r *running) stop() {
	r.cancel()
	<-r.ended
}

// within gives a condition so much time.
func within(ctx context.Context, d time.Duration, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("not within %v", d))
	defer cancel()
	return sim.Await(ctx, what, holds)
}
