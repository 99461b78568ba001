package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/orchestrator/orchestrator/internal/sim"
)

// A full cluster: agents with room for 20 tasks of one cpu, half full, 100 frameworks, tasks that end and are replaced at
// about clusterChurn a second. An agent is offered whenever one of its tasks has ended. Each framework keeps twice its share of the
// offers, and declines what is more.
const (
	clusterRoom       = 20
	clusterFrameworks = 100
	clusterChurn      = 1000
	clusterPollers    = 20
	clusterPollEvery  = time.Second // each of them: a harder life than monitoring gives a master
	perConnection     = 10
)

// fullCluster measures rows 4, 13, 14 and 15.
func (b *Bench) fullCluster(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	master, address, err := b.startMaster(ctx)
	if err != nil {
		return err
	}
	defer master.stop()
	tasks := b.cfg.Agents * clusterRoom / 2
	life := time.Duration(float64(tasks) / clusterChurn * float64(time.Second))
	cfg := sim.AgentsConfig{
		Count: b.cfg.Agents / 2, PerConnection: perConnection, CPUs: clusterRoom, Mem: clusterRoom * 100,
		Script: sim.Script{Run: sim.Duration{Min: life / 2, Max: life * 3 / 2}},
	}
	// Two halves, so that what an agent costs is the difference that the second half makes.
	var memory [3]float64
	for half := range 2 {
		agents, err := b.start(ctx, "agents", agentsFlags(address, cfg)...)
		if err != nil {
			return err
		}
		defer agents.stop()
		cfg.First += cfg.Count
		if memory[half], err = resident(ctx, master.ready.PID); err != nil {
			return err
		}
	}
	load, err := b.startLoad(ctx, sim.LoadConfig{Master: address, Frameworks: clusterFrameworks, TaskCPUs: 1, TaskMem: 100, Hold: 2 * max(b.cfg.Agents/clusterFrameworks, 1)})
	if err != nil {
		return err
	}
	defer load.stop()
	load.Population(tasks)
	s := &load.Stats
	if err := within(ctx, 5*time.Minute, "tasks", func() bool { return s.Confirmed.Load() >= int64(tasks) }); err != nil {
		return fmt.Errorf("%d of %d tasks run: %w", s.Confirmed.Load(), tasks, err)
	}
	if memory[2], err = resident(ctx, master.ready.PID); err != nil {
		return err
	}
	if b.wants(15) {
		perAgent, perTask := (memory[1]-memory[0])/float64(cfg.Count), (memory[2]-memory[1])/float64(tasks)
		details := map[string]any{
			"agents": 2 * cfg.Count, "agents_per_connection": perConnection, "tasks": tasks, "rss_half_agents": memory[0], "rss_agents": memory[1], "rss_tasks": memory[2],
		}
		b.report.add(Figure{Row: 15, Name: "leader memory per agent", Value: perAgent / 1024, Unit: "KB", Must: 12, After: 6, Details: details})
		b.report.add(Figure{Row: 15, Name: "leader memory per running task", Value: perTask / 1024, Unit: "KB", Must: 1.5, After: 0.8, Details: details})
	}
	if b.wants(13) {
		if err := b.state(ctx, address, tasks); err != nil {
			return err
		}
	}
	if !b.wants(4) && !b.wants(14) {
		return nil
	}
	// The churn has to reach its level: the first tasks end after half of their mean life at the earliest.
	if err := within(ctx, 2*life, "tasks to end", func() bool { return s.Ended.Load() > clusterChurn }); err != nil {
		return err
	}
	quiet, err := b.offerLatency(ctx, load, master.ready.PID)
	if err != nil {
		return err
	}
	b.report.add(Figure{Row: 4, Name: "offer latency P95", Value: quiet.P95, Unit: "ms", Must: 10, After: 3, Details: map[string]any{"offer": quiet, "agents": b.cfg.Agents, "frameworks": clusterFrameworks, "tasks": tasks}})
	if !b.wants(14) {
		return nil
	}
	pollers, err := b.start(ctx, "pollers", "bench", "poll", "--url", "http://"+address+"/state", "--clients", strconv.Itoa(clusterPollers), "--every", clusterPollEvery.String())
	if err != nil {
		return err
	}
	defer pollers.stop()
	busy, err := b.offerLatency(ctx, load, master.ready.PID)
	if err != nil {
		return err
	}
	b.report.add(Figure{Row: 14, Name: "offer latency P99 while /state is polled, times that without", Value: busy.P99 / max(quiet.P99, 0.001), Unit: "x", Must: 1.5, After: 1.1, Details: map[string]any{"quiet": quiet, "polled": busy, "pollers": clusterPollers, "every": clusterPollEvery.String()}})
	return nil
}

func (b *Bench) offerLatency(ctx context.Context, load *running, pid int) (sim.Summary, error) {
	load.Stats.Reset()
	ended, offers := load.Stats.Ended.Load(), load.Stats.Offers.Load()
	before, err := cpu(pid)
	if err != nil {
		return sim.Summary{}, err
	}
	if err := wait(ctx, b.cfg.Duration/2); err != nil {
		return sim.Summary{}, err
	}
	after, err := cpu(pid)
	if err != nil {
		return sim.Summary{}, err
	}
	sum := load.Stats.Offer.Summary()
	b.cfg.Log.Info("offers", "latency", sum, "offers", load.Stats.Offers.Load()-offers, "tasks_ended", load.Stats.Ended.Load()-ended, "master_cpu", after-before)
	if sum.Count == 0 {
		return sum, errors.New("no agent was offered after a task had ended")
	}
	return sum, nil
}

// state measures row 13: one client, the whole body, the median of several.
func (b *Bench) state(ctx context.Context, address string, tasks int) error {
	var times []float64
	size := int64(0)
	for range 7 {
		took, n, err := fetch(ctx, "http://"+address+"/state", false)
		if err != nil {
			return err
		}
		times, size = append(times, took.Seconds()*1000), n
	}
	first := times[0]
	slices.Sort(times)
	b.report.add(Figure{
		Row: 13, Name: fmt.Sprintf("/state with %d tasks, whole body", tasks), Value: times[len(times)/2], Unit: "ms", Must: 400, After: 120,
		Details: map[string]any{"bytes": size, "first_ms": first, "all_ms": times},
	})
	return nil
}

// fetch reads a whole body. A packed one is left compressed.
func fetch(ctx context.Context, url string, packed bool) (time.Duration, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	if packed {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return time.Since(start), n, err
}

// idleAgents measures row 17: what a master costs that only holds agents.
func (b *Bench) idleAgents(ctx context.Context) error {
	for _, c := range []struct {
		name  string
		count int
		per   int
		goal  float64
	}{
		{"idle CPU with one connection an agent", b.cfg.Links, 1, 0},
		{"idle CPU with ten agents a connection", b.cfg.Relayed, perConnection, 15},
	} {
		if err := b.idle(ctx, c.name, c.count, c.per, c.goal); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) idle(ctx context.Context, name string, count, per int, goal float64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	master, address, err := b.startMaster(ctx)
	if err != nil {
		return err
	}
	defer master.stop()
	empty, err := resident(ctx, master.ready.PID)
	if err != nil {
		return err
	}
	start := time.Now()
	agents, err := b.start(ctx, "agents", agentsFlags(address, sim.AgentsConfig{Count: count, PerConnection: per, CPUs: 8, Mem: 16384})...)
	if err != nil {
		return err
	}
	defer agents.stop()
	registered := time.Since(start)
	full, err := resident(ctx, master.ready.PID)
	if err != nil {
		return err
	}
	// Two rounds of pings.
	if err := wait(ctx, 2*time.Second); err != nil {
		return err
	}
	before, err := cpu(master.ready.PID)
	if err != nil {
		return err
	}
	const window = 30 * time.Second
	if err := wait(ctx, window); err != nil {
		return err
	}
	after, err := cpu(master.ready.PID)
	if err != nil {
		return err
	}
	select {
	case <-agents.ended:
		return errors.New("the agents ended")
	default:
	}
	b.report.add(Figure{
		Row: 17, Name: fmt.Sprintf("%s, %d agents", name, count), Value: (after - before).Seconds() / window.Seconds() * 100, Unit: "% of a core", After: goal,
		Details: map[string]any{"agents": count, "per_connection": per, "registered_after_s": registered.Seconds(), "rss_per_agent": (full - empty) / float64(count)},
	})
	return nil
}
