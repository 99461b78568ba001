package bench

import (
	"context"
	"os"
	"time"

	"github.com/orchestrator/orchestrator/internal/heapfloor"
	"github.com/orchestrator/orchestrator/internal/sim"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

// Launching: agents large enough never to be full, tasks that run for a second and then finish, so that the number of
// tasks stays level. Each task costs the master a launch, two updates and two acknowledgements, as POSTs of their own.
const (
	launchAgents  = 1000
	launchTaskRun = time.Second
	rampStep      = 5 * time.Second
	warmUp        = 2 * time.Second
)

// ratesTried climb; the highest that is sustained is the result.
var ratesTried = []float64{1000, 2000, 4000, 6000, 8000, 10_000, 12_500, 15_000, 20_000, 25_000, 30_000, 40_000, 50_000, 75_000, 100_000, 150_000}

// launchWire measures rows 5 and 7: master, agents and frameworks in three processes on loopback.
func (b *Bench) launchWire(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	master, address, err := b.startMaster(ctx)
	if err != nil {
		return err
	}
	defer master.stop()
	agents, err := b.start(ctx, "agents", agentsFlags(address, b.launchAgentsConfig())...)
	if err != nil {
		return err
	}
	defer agents.stop()
	load, err := b.startLoad(ctx, sim.LoadConfig{Master: address, Frameworks: b.cfg.Frameworks})
	if err != nil {
		return err
	}
	defer load.stop()
	rate, sustained, err := b.sustained(ctx, load, master.ready.PID)
	if err != nil {
		return err
	}
	sustained["processes"] = 3
	b.report.add(Figure{Row: 5, Name: "launch to acknowledged TASK_RUNNING, whole wire", Value: rate, Unit: "tasks/s", Must: 10_000, After: 25_000, Details: sustained})
	if !b.wants(7) {
		return nil
	}
	half, err := b.measure(ctx, load, master.ready.PID, rate/2, b.cfg.Duration/2)
	if err != nil {
		return err
	}
	b.report.add(Figure{Row: 7, Name: "launch latency P99 at half of that rate", Value: load.Stats.Launch.Summary().P99, Unit: "ms", Must: 25, After: 8, Details: half.details})
	return nil
}

func (b *Bench) launchAgentsConfig() sim.AgentsConfig {
	return sim.AgentsConfig{Count: b.launchAgents, CPUs: 10_000, Mem: 1_000_000, Script: sim.Script{Run: sim.Fixed(launchTaskRun)}}
}

// launchOneProcess measures row 6: the same in one process over an in-memory network, with the registry in memory. All of
// it shares the processors: the figure is what the machine can do, not what the master alone could.
func (b *Bench) launchOneProcess(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer heapfloor.Set(heapfloor.ForHost())()
	network := new(memnet.Network)
	const address = "127.0.0.1:5050"
	m, err := NewMaster(MasterOptions{Listener: network.Listen(address)})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	masterCtx, stopMaster := context.WithCancel(ctx)
	go func() { ended <- m.Run(masterCtx) }()
	defer func() { _ = stop(stopMaster, ended) }()
	select {
	case <-m.Ready():
	case err := <-ended:
		ended <- err
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	cfg := b.launchAgentsConfig()
	cfg.Master, cfg.Dial, cfg.PerConnection = address, network.DialContext, 100
	agents, err := sim.NewAgents(cfg)
	if err != nil {
		return err
	}
	agentsCtx, stopAgents := context.WithCancel(ctx)
	agentsEnded := make(chan error, 1)
	go func() { agentsEnded <- agents.Run(agentsCtx) }()
	defer func() { _ = stop(stopAgents, agentsEnded) }()
	if err := within(ctx, time.Minute, "agents", func() bool { return agents.Stats.Registered.Load() == int64(b.launchAgents) }); err != nil {
		return err
	}
	load, err := b.startLoad(ctx, sim.LoadConfig{Master: address, Frameworks: b.cfg.Frameworks, Dial: network.DialContext})
	if err != nil {
		return err
	}
	defer load.stop()
	stopProfile, err := b.profile("one-process")
	if err != nil {
		return err
	}
	rate, details, err := b.sustained(ctx, load, os.Getpid())
	stopProfile()
	if err != nil {
		return err
	}
	b.report.add(Figure{Row: 6, Name: "the same in one process", Value: rate, Unit: "tasks/s", Must: 50_000, After: 100_000, Details: details})
	return nil
}

// sustained climbs the ramp, then holds the highest rate that stood for the whole duration, going back a step when it
// does not.
func (b *Bench) sustained(ctx context.Context, load *running, pid int) (float64, map[string]any, error) {
	// Warm: connections, caches, the heap's size.
	if _, err := b.measure(ctx, load, pid, b.ramp[0], min(warmUp, b.cfg.Duration)); err != nil {
		return 0, nil, err
	}
	i := 0
	for ; i < len(b.ramp); i++ {
		step, err := b.measure(ctx, load, pid, b.ramp[i], min(rampStep, b.cfg.Duration))
		if err != nil {
			return 0, nil, err
		}
		b.cfg.Log.Info("ramp", "rate", b.ramp[i], "confirmed", int(step.rate), "p99_ms", step.p99, "kept", step.kept, "cpu_us_per_task", step.details["cpu_us_per_task"])
		if !step.kept {
			break
		}
	}
	for i = max(i-1, 0); ; i-- {
		held, err := b.measure(ctx, load, pid, b.ramp[i], b.cfg.Duration)
		if err != nil {
			return 0, nil, err
		}
		b.cfg.Log.Info("sustained", "rate", b.ramp[i], "confirmed", int(held.rate), "p99_ms", held.p99, "kept", held.kept)
		if held.kept || i == 0 {
			return held.rate, held.details, nil
		}
	}
}

type measurement struct {
	rate    float64 // tasks confirmed a second
	p99     float64 // of launches, ms
	kept    bool    // the rate was kept up with
	details map[string]any
}

// measure launches at a rate for a while, and then waits until what was launched has been confirmed.
func (b *Bench) measure(ctx context.Context, load *running, pid int, rate float64, d time.Duration) (measurement, error) {
	s := &load.Stats
	s.Reset()
	launched, confirmed, lost, refused := s.Launched.Load(), s.Confirmed.Load(), s.Lost.Load(), s.Refused.Load()
	var before time.Duration
	if pid != 0 {
		var err error
		if before, err = cpu(pid); err != nil {
			return measurement{}, err
		}
	}
	start := time.Now()
	load.Rate(rate)
	if err := wait(ctx, d); err != nil {
		return measurement{}, err
	}
	elapsed := time.Since(start)
	inTime := s.Confirmed.Load() - confirmed
	load.Rate(0)
	m := measurement{rate: float64(inTime) / elapsed.Seconds(), details: map[string]any{}}
	if pid != 0 {
		after, err := cpu(pid)
		if err != nil {
			return measurement{}, err
		}
		m.details["cpu_us_per_task"] = float64((after - before).Microseconds()) / float64(max(inTime, 1))
		m.details["cores"] = (after - before).Seconds() / elapsed.Seconds()
	}
	// What is still under way counts for the latencies, and must not fall into the next measurement.
	drained := within(ctx, 30*time.Second, "confirmations", func() bool { return s.Confirmed.Load()-confirmed >= s.Launched.Load()-launched-(s.Lost.Load()-lost) })
	if ctx.Err() != nil {
		return measurement{}, context.Cause(ctx)
	}
	m.p99 = s.Launch.Summary().P99
	// A rate is kept when what was wanted was confirmed in time, but for a twentieth of a second's worth, and nothing got
	// lost.
	m.kept = drained == nil && m.rate >= 0.98*rate && s.Lost.Load() == lost && s.Refused.Load() == refused
	for name, h := range map[string]*sim.Histogram{
		"launch": &s.Launch, "whole": &s.Whole, "late": &s.Late, "to_agent": &s.ToAgent, "at_agent": &s.AtAgent, "to_framework": &s.ToClient, "acknowledge": &s.Ack,
	} {
		m.details[name] = h.Summary()
	}
	m.details["intended_rate"], m.details["seconds"], m.details["kept"] = rate, elapsed.Seconds(), m.kept
	m.details["drained"] = drained == nil
	m.details["lost"], m.details["refused_calls"] = s.Lost.Load()-lost, s.Refused.Load()-refused
	m.details["frameworks"], m.details["encoding"] = b.cfg.Frameworks, b.contentType().String()
	m.details["agents"], m.details["task_run"] = b.launchAgents, launchTaskRun.String()
	return m, nil
}
