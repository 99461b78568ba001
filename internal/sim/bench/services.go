package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/marathon"
	"github.com/orchestrator/orchestrator/internal/sim"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

// Services: what is held, and how long a change of an app takes until its deployment is done.
const (
	servicesPerPut = 500 // apps that one request creates
	rolled         = 100 // instances of the app that is changed
	rolls          = 20
)

// services is Marathon as the benchmarks run it: in this process, its state in a file, its network in memory.
type services struct {
	client  *http.Client
	network *memnet.Network
	stop    func()
}

const servicesURL = "http://127.0.0.1:8080"

// servicesOn starts the services on a network where a master is found at port 5050.
func (b *Bench) servicesOn(ctx context.Context, network *memnet.Network) (*services, error) {
	dir, err := os.MkdirTemp(b.dir, "services")
	if err != nil {
		return nil, err
	}
	cfg := new(marathon.Config)
	fs := pflag.NewFlagSet("marathon", pflag.ContinueOnError)
	set := config.Bind(fs, cfg, marathon.BindOptions())
	if err := fs.Parse([]string{"--master=127.0.0.1:5050", "--http_address=127.0.0.1", "--hostname=127.0.0.1", "--data_dir=" + dir, "--event_stream_max_outstanding_messages=1000000"}); err != nil {
		return nil, err
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		return nil, err
	}
	m, err := marathon.New(*cfg, marathon.Deps{Log: slog.New(slog.DiscardHandler), Listener: network.Listen("127.0.0.1:8080"), Dial: network.DialContext})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	s := &services{network: network, client: &http.Client{Transport: &http.Transport{DialContext: network.DialContext, MaxIdleConnsPerHost: 16}}}
	s.stop = func() {
		_ = stop(cancel, ended)
		s.client.CloseIdleConnections()
	}
	select {
	case <-m.Ready():
		return s, nil
	case err := <-ended:
		cancel()
		return nil, err
	case <-ctx.Done():
		s.stop()
		return nil, context.Cause(ctx)
	}
}

// do sends a request and reads its answer, which must be a good one.
func (s *services) do(ctx context.Context, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, servicesURL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, b)
	}
	return b, err
}

// event is what a reader of the stream sees of one.
type event struct {
	EventType string `json:"eventType"`
	ID        string `json:"id"`
	TaskID    string `json:"taskId"`
	at        time.Time
}

// events reads the stream until stop is called.
func (s *services) events(ctx context.Context, types string, each func(event)) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, servicesURL+"/v2/events?"+types, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := s.client.Do(req) //nolint:bodyclose // the goroutine below closes it
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer resp.Body.Close()
		for r := bufio.NewReaderSize(resp.Body, 1<<20); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				e := event{at: time.Now()}
				if json.Unmarshal([]byte(data), &e) == nil {
					each(e)
				}
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

func serviceApp(id string, version, instances int) string {
	return fmt.Sprintf(`{"id":%q,"cmd":"serve %d --port $PORT0","cpus":0.1,"mem":32,"instances":%d,"labels":{"team":"t%d","HAPROXY_GROUP":"external"},"env":{"LEVEL":"info"},"portDefinitions":[]}`, id, version, instances, instances%7)
}

// services measures row 19.
func (b *Bench) services(ctx context.Context) error {
	if err := b.servicesHeld(ctx); err != nil {
		return err
	}
	return b.servicesRolled(ctx)
}

// servicesHeld fills the services with apps whose tasks a fake master runs, and measures what reading and changing costs then.
func (b *Bench) servicesHeld(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	network := new(memnet.Network)
	var stamps sync.Map // task id -> when its status was sent
	fake := &fakeMaster{status: func(task string, at time.Time) { stamps.Store(task, at) }}
	server := &http.Server{Handler: fake, ReadHeaderTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	l := network.Listen("127.0.0.1:5050")
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	s, err := b.servicesOn(ctx, network)
	if err != nil {
		return err
	}
	defer s.stop()
	stopProfile, err := b.profile("held")
	if err != nil {
		return err
	}
	err = s.fill(ctx, b.cfg.Apps, b.cfg.Instances, b.cfg.Log)
	stopProfile()
	if err != nil {
		return err
	}
	stamps.Clear()
	held := heap()
	b.report.add(Figure{Row: 19, Name: fmt.Sprintf("services: heap with %d apps and %d instances", b.cfg.Apps, b.cfg.Instances), Value: held / (1 << 20), Unit: "MB", Details: map[string]any{
		"apps": b.cfg.Apps, "instances": b.cfg.Instances, "bytes_per_instance": held / float64(max(b.cfg.Instances, 1)),
	}})
	if err := b.servicesRead(ctx, s); err != nil {
		return err
	}
	var latency []time.Duration
	var mu sync.Mutex
	stopEvents, err := s.events(ctx, "event_type=status_update_event", func(e event) {
		if at, ok := stamps.LoadAndDelete(e.TaskID); ok {
			mu.Lock()
			latency = append(latency, e.at.Sub(at.(time.Time)))
			mu.Unlock()
		}
	})
	if err != nil {
		return err
	}
	err = b.roll(ctx, s, "services: PUT of a 100-instance app to deployment done, fake master, everything held")
	stopEvents()
	if err != nil {
		return err
	}
	slices.Sort(latency)
	if len(latency) == 0 {
		return errors.New("no event came")
	}
	at := func(q float64) float64 { return latency[int(q*float64(len(latency)-1))].Seconds() * 1000 }
	b.report.add(Figure{Row: 19, Name: "services: status update to event at a subscriber, P95 while that is done", Value: at(0.95), Unit: "ms", Must: 10, Details: map[string]any{
		"count": len(latency), "p50": at(0.5), "p99": at(0.99), "max": at(1),
	}})
	return nil
}

// fill creates apps with so many instances in all and waits until all run.
func (s *services) fill(ctx context.Context, apps, instances int, log *slog.Logger) error {
	start := time.Now()
	for from := 0; from < apps; from += servicesPerPut {
		var list []string
		for n := from; n < min(apps, from+servicesPerPut); n++ {
			list = append(list, serviceApp(fmt.Sprintf("/team-%d/app-%d", n%100, n), 1, (n+1)*instances/apps-n*instances/apps))
		}
		if _, err := s.do(ctx, http.MethodPut, "/v2/apps", "["+strings.Join(list, ",")+"]"); err != nil {
			return err
		}
		if err := within(ctx, 5*time.Minute, "deployments", func() bool {
			d, err := s.do(ctx, http.MethodGet, "/v2/deployments", "")
			return err == nil && len(d) <= 3
		}); err != nil {
			return err
		}
		if from/servicesPerPut%10 == 9 {
			log.Info("services filled", "apps", from+servicesPerPut, "after", time.Since(start).Round(time.Millisecond))
		}
	}
	return nil
}

// servicesRead measures the list of all apps, and single apps while others read that list all the time.
func (b *Bench) servicesRead(ctx context.Context, s *services) error {
	one := fmt.Sprintf("/v2/apps/team-%d/app-%d", b.cfg.Apps/2%100, b.cfg.Apps/2)
	times := func(n int, path string) ([]float64, int, error) {
		var out []float64
		size := 0
		for range n {
			start := time.Now()
			body, err := s.do(ctx, http.MethodGet, path, "")
			if err != nil {
				return nil, 0, err
			}
			out, size = append(out, time.Since(start).Seconds()*1000), len(body)
		}
		slices.Sort(out)
		return out, size, nil
	}
	list, size, err := times(5, "/v2/apps")
	if err != nil {
		return err
	}
	b.report.add(Figure{Row: 19, Name: "services: GET /v2/apps, whole body", Value: list[len(list)/2], Unit: "ms", Details: map[string]any{"bytes": size, "all_ms": list}})
	quiet, _, err := times(500, one)
	if err != nil {
		return err
	}
	reading, stopReading := context.WithCancel(ctx)
	ended := make(chan int, 1)
	go func() {
		n := 0
		for ; reading.Err() == nil; n++ {
			_, _ = s.do(reading, http.MethodGet, "/v2/apps", "")
		}
		ended <- n
	}()
	busy, _, err := times(500, one)
	stopReading()
	lists := <-ended
	if err != nil {
		return err
	}
	for name, l := range map[string][]float64{"alone": quiet, "while the list is read all the time": busy} {
		b.report.add(Figure{Row: 19, Name: "services: GET of one app, P95, " + name, Value: l[len(l)*95/100], Unit: "ms", Details: map[string]any{"p50": l[len(l)/2], "p99": l[len(l)*99/100], "lists": lists}})
	}
	return nil
}

// servicesRolled measures a change of an app on a real master with simulated agents.
func (b *Bench) servicesRolled(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	network := new(memnet.Network)
	m, err := NewMaster(MasterOptions{Listener: network.Listen("127.0.0.1:5050")})
	if err != nil {
		return err
	}
	masterCtx, stopMaster := context.WithCancel(ctx)
	masterEnded := make(chan error, 1)
	go func() { masterEnded <- m.Run(masterCtx) }()
	defer func() { _ = stop(stopMaster, masterEnded) }()
	const count = 50
	agents, err := sim.NewAgents(sim.AgentsConfig{Master: "127.0.0.1:5050", Count: count, PerConnection: 10, CPUs: 16, Mem: 64 << 10, Ports: true, Dial: network.DialContext})
	if err != nil {
		return err
	}
	agentsCtx, stopAgents := context.WithCancel(ctx)
	agentsEnded := make(chan error, 1)
	go func() { agentsEnded <- agents.Run(agentsCtx) }()
	defer func() { _ = stop(stopAgents, agentsEnded) }()
	if err := within(ctx, time.Minute, "agents", func() bool { return agents.Stats.Registered.Load() == count }); err != nil {
		return err
	}
	s, err := b.servicesOn(ctx, network)
	if err != nil {
		return err
	}
	defer s.stop()
	stopProfile, err := b.profile("rolled")
	if err != nil {
		return err
	}
	defer stopProfile()
	return b.roll(ctx, s, "services: PUT of a 100-instance app to deployment done, simulated agents")
}

// roll changes an app again and again and takes the time to the event that says that its deployment succeeded.
func (b *Bench) roll(ctx context.Context, s *services, name string) error {
	succeeded := make(chan string, 1000)
	stopEvents, err := s.events(ctx, "event_type=deployment_success", func(e event) { succeeded <- e.ID })
	if err != nil {
		return err
	}
	defer stopEvents()
	var all []float64
	for n := range rolls + 1 {
		start := time.Now()
		body, err := s.do(ctx, http.MethodPut, "/v2/apps/rolled", serviceApp("/rolled", n, rolled))
		if err != nil {
			return err
		}
		var res struct{ DeploymentID string }
		if err := json.Unmarshal(body, &res); err != nil || res.DeploymentID == "" {
			return fmt.Errorf("no deployment in %s: %w", body, err)
		}
		for done := false; !done; {
			select {
			case id := <-succeeded:
				done = id == res.DeploymentID
			case <-time.After(time.Minute):
				return errors.New("a deployment did not end within a minute")
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if n > 0 {
			all = append(all, time.Since(start).Seconds()*1000)
		}
	}
	slices.Sort(all)
	b.report.add(Figure{Row: 19, Name: name, Value: all[len(all)/2], Unit: "ms", After: 250, Details: map[string]any{"all_ms": all}})
	return nil
}

// heap is what lives on this process' heap.
func heap() float64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
