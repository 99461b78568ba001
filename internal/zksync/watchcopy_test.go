package zksync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gozk "github.com/go-zookeeper/zk"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/learner"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/txn"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// watchCopier is what people do today with go-zookeeper: read every node with a watch, and when it fires read it again, with a watch,
// and set the copy. It copies a flat directory of nodes that are there already.
type watchCopier struct {
	from, to *gozk.Conn
	src, dst string
	room     chan struct{} // reads and writes at once
	wg       sync.WaitGroup
	stop     chan struct{}
	failed   func(error)
}

func newWatchCopier(tb testing.TB, a, b *zktest.Ensemble, src, dst string) *watchCopier {
	tb.Helper()
	open := func(e *zktest.Ensemble) *gozk.Conn {
		c, _, err := gozk.Connect(e.Servers(), 10*time.Second, gozk.WithLogInfo(false))
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	return &watchCopier{
		from: open(a), to: open(b), src: src, dst: dst, room: make(chan struct{}, 64), stop: make(chan struct{}),
		failed: func(err error) { tb.Errorf("watch copy: %v", err) },
	}
}

// run copies everything once and goes on by watches; it returns when the first copy is complete.
func (w *watchCopier) run() error {
	names, _, err := w.from.Children(w.src)
	if err != nil {
		return err
	}
	if _, err := w.to.Create(w.dst, nil, 0, gozk.WorldACL(gozk.PermAll)); err != nil && !errors.Is(err, gozk.ErrNodeExists) {
		return err
	}
	var first sync.WaitGroup
	first.Add(len(names))
	for _, name := range names {
		w.wg.Go(func() { w.node(name, &first) })
	}
	first.Wait()
	return nil
}

func (w *watchCopier) node(name string, first *sync.WaitGroup) {
	once := sync.OnceFunc(first.Done)
	defer once()
	for {
		w.room <- struct{}{}
		data, _, fired, err := w.from.GetW(w.src + "/" + name)
		if err == nil {
			_, err = w.to.Set(w.dst+"/"+name, data, -1)
			if errors.Is(err, gozk.ErrNoNode) {
				_, err = w.to.Create(w.dst+"/"+name, data, 0, gozk.WorldACL(gozk.PermAll))
			}
		}
		<-w.room
		if err != nil {
			select {
			case <-w.stop:
			default:
				w.failed(err)
			}
			return
		}
		once()
		select {
		case <-fired:
		case <-w.stop:
			return
		}
	}
}

func (w *watchCopier) close() {
	close(w.stop)
	w.wg.Wait()
	w.from.Close()
	w.to.Close()
}

// sightings notes, as an observer of an ensemble that has no part in the copying, when each numbered value was committed there.
type sightings struct {
	under string
	mu    sync.Mutex
	at    map[uint64]time.Time
	live  chan struct{}
}

func observe(tb testing.TB, e *zktest.Ensemble, under string, id int64) *sightings {
	tb.Helper()
	s := &sightings{under: under + "/", at: map[uint64]time.Time{}, live: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = learner.Run(ctx, learner.Config{Addrs: quorum(e), Last: freshStart, ServerID: 1<<41 + id}, learner.Deps{}, s)
	}()
	tb.Cleanup(func() { cancel(); <-done })
	select {
	case <-s.live:
	case <-time.After(4 * time.Minute):
		tb.Fatal("the observer is not let in")
	}
	return s
}

func (s *sightings) Begin(*tree.Tree) error { return nil }
func (s *sightings) Live() error            { close(s.live); return nil }
func (s *sightings) Idle() error            { return nil }
func (s *sightings) Txn(x *txn.Txn) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range x.Ops {
		op := &x.Ops[i]
		if op.Type == zk.OpSet && !x.Failed && strings.HasPrefix(op.Path, s.under) && len(op.Data) >= 8 {
			if n := binary.BigEndian.Uint64(op.Data); n > 0 {
				if _, again := s.at[n]; !again {
					s.at[n] = now
				}
			}
		}
	}
	return nil
}

func (s *sightings) count() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.at) }

// BenchmarkBesideWatchCopy runs the engine and a watch-based copier alternately on the same load, ZK_ROUNDS times for each of ZK_RATES
// sets a second: half of them on a hundred busy nodes, half on the others of ZK_NODES. An observer of each ensemble says when each value was
// committed there, so both are measured in the same way: lag from commit to commit, values that never reached the copy, nodes
// that differ in the end, and how long the copy was behind when the load ended.
func BenchmarkBesideWatchCopy(b *testing.B) {
	nodes, seconds, rounds := envInt("ZK_NODES", 10_000), envInt("ZK_SECONDS", 5), envInt("ZK_ROUNDS", 1)
	rates := os.Getenv("ZK_RATES")
	if rates == "" {
		rates = "1000,5000"
	}
	var src, dst *zktest.Ensemble
	var wg sync.WaitGroup
	opts := zktest.Options{HeapMB: 512, JVM: []string{"-XX:TieredStopAtLevel=4"}}
	wg.Go(func() { src = zktest.Start(b, opts) })
	dst = zktest.Start(b, opts)
	wg.Wait()
	c := src.Client(b, zk.Config{SessionTimeout: 30 * time.Second})
	w := c.NewWindow(500)
	_ = w.Send(b.Context(), zk.Create("/load", nil, zk.OpenACL(), zk.Persistent), nil)
	for i := range nodes {
		_ = w.Send(b.Context(), zk.Create(fmt.Sprintf("/load/n%d", i), make([]byte, 100), zk.OpenACL(), zk.Persistent), nil)
	}
	if err := w.Wait(b.Context()); err != nil {
		b.Fatal(err)
	}
	seq, run := uint64(0), 0
	for range rounds {
		for text := range strings.SplitSeq(rates, ",") {
			rate, err := strconv.Atoi(text)
			if err != nil {
				b.Fatal(err)
			}
			for _, how := range []string{"engine", "watches"} {
				run++
				target := fmt.Sprintf("/copy%d", run)
				b.Run(fmt.Sprintf("%s-%d", how, rate), func(b *testing.B) {
					var stop func()
					if how == "engine" {
						cfg := config(src, dst)
						cfg.Name, cfg.Scope = fmt.Sprint("run", run), Scope{Source: "/load", Target: target}
						e, end := start(b, cfg)
						ready(b, e)
						stop = func() { _ = end() }
					} else {
						w := newWatchCopier(b, src, dst, "/load", target)
						if err := w.run(); err != nil {
							b.Fatal(err)
						}
						stop = w.close
					}
					defer stop()
					from, to := observe(b, src, "/load", int64(2*run)), observe(b, dst, target, int64(2*run+1))
					self0, src0, dst0 := cpuTime(src.Nodes[0], dst.Nodes[0])
					b.ResetTimer()
					began, sent := time.Now(), 0
					load := c.NewWindow(50_000)
					for total := rate * seconds; sent < total; {
						for due := int(time.Since(began).Seconds() * float64(rate)); sent < min(due, total); sent++ {
							seq++
							i := sent / 2 % 100
							if sent%2 == 1 {
								i = sent / 2 % nodes
							}
							data := make([]byte, 100)
							binary.BigEndian.PutUint64(data, seq)
							if err := load.Send(b.Context(), zk.Set(fmt.Sprintf("/load/n%d", i), data, zk.AnyVersion), nil); err != nil {
								b.Fatal(err)
							}
						}
						time.Sleep(time.Millisecond) // open loop: the pace of the load
					}
					if err := load.Wait(b.Context()); err != nil {
						b.Fatal(err)
					}
					took := time.Since(began)
					// The copy is complete when nothing has come for two seconds.
					last, quiet := to.count(), time.Now()
					for time.Since(quiet) < 2*time.Second && to.count() < sent {
						time.Sleep(10 * time.Millisecond) // between looks at a count that another goroutine raises
						if n := to.count(); n != last {
							last, quiet = n, time.Now()
						}
					}
					behind := max(0, quiet.Sub(began)-took)
					self1, src1, dst1 := cpuTime(src.Nodes[0], dst.Nodes[0])
					b.StopTimer()
					var lags []float64
					from.mu.Lock()
					to.mu.Lock()
					for n, at := range to.at {
						lags = append(lags, float64(at.Sub(from.at[n]).Microseconds())/1000)
					}
					lost := len(from.at) - len(to.at)
					to.mu.Unlock()
					from.mu.Unlock()
					slices.Sort(lags)
					q := func(f float64) float64 {
						if len(lags) == 0 {
							return -1
						}
						return lags[min(int(f*float64(len(lags))), len(lags)-1)]
					}
					va, err := Side{Quorum: quorum(src)}.Read(b.Context(), "/load")
					if err != nil {
						b.Fatal(err)
					}
					vb, err := Side{Quorum: quorum(dst)}.Read(b.Context(), target)
					if err != nil {
						b.Fatal(err)
					}
					data, all := 0, map[string]bool{}
					diffs, err := Diff(va, vb, Scope{Source: "/load", Target: target}, 0)
					if err != nil {
						b.Fatal(err)
					}
					for _, d := range diffs {
						all[d.Path] = true
						if d.What == "data" || d.What == "missing" {
							data++
						}
					}
					b.ReportMetric(float64(sent)/took.Seconds(), "sets/s")
					b.ReportMetric(q(.5), "lag-p50-ms")
					b.ReportMetric(q(.95), "lag-p95-ms")
					b.ReportMetric(q(.99), "lag-p99-ms")
					b.ReportMetric(100*float64(lost)/float64(sent), "lost-%")
					b.ReportMetric(float64(data), "nodes-wrong-data")
					b.ReportMetric(float64(len(all)), "nodes-differing")
					b.ReportMetric(behind.Seconds()*1000, "behind-ms")
					n := float64(sent)
					b.ReportMetric((self1-self0).Seconds()*1e6/n, "cpu-us/set")
					b.ReportMetric((src1-src0).Seconds()*1e6/n, "cpu-source-us/set")
					b.ReportMetric((dst1-dst0).Seconds()*1e6/n, "cpu-target-us/set")
					b.ReportMetric(0, "ns/op")
				})
			}
		}
	}
}
