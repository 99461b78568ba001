package master

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"strings"
	"time"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/master/owner"
	"github.com/orchestrator/orchestrator/internal/metrics"
	"github.com/orchestrator/orchestrator/internal/store"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// maxChannels bounds how many agents one connection (of a relay) may carry.
const maxChannels = 10000

// linkHandler takes agents on: redirected while another master leads, refused while there is none.
func (m *Master) linkHandler(auth wire.Authenticator) http.Handler {
	counters := link.NewMetrics(m.deps.Metrics.Registerer(), "master")
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l := m.Leadership()
		own := m.current.Load()
		switch {
		case !l.Leading && l.Leader != nil:
			wire.Redirect(w, r, l.Leader.Address)
			return
		case !l.Leading:
			wire.Error(w, http.StatusServiceUnavailable, "No leader elected")
			return
		case own == nil:
			wire.Error(w, http.StatusServiceUnavailable, "Master has not finished recovery")
			return
		}
		conn, err := link.Accept(w, r, link.Config{IdleTimeout: m.cfg.silence(), Metrics: counters})
		if err != nil {
			m.deps.Log.Debug("agent link refused", "peer", r.RemoteAddr, "error", err)
			return
		}
		// The handler returns meanwhile: what net/http keeps for a connection is more than a link needs.
		m.links.Add(1)
		go m.serveLink(own, conn)
	})
	if auth == nil {
		return serve
	}
	return wire.Authenticated(auth, "mesos-master-agent", serve)
}

// serveLink runs a connection until it ends or its owner stops.
func (m *Master) serveLink(own *owner.Owner, conn *link.Conn) {
	defer m.links.Done()
	life := own.Context()
	stop := context.AfterFunc(life, conn.Close)
	defer stop()
	channels := own.Connect(conn, maxChannels)
	err := conn.Run(context.WithoutCancel(life), func(ch uint64, msgs []*linkv1.Message, closed bool) error {
		return channels.Handle(life, ch, msgs, closed)
	})
	channels.Disconnected()
	m.deps.Log.Debug("agent link ended", "peer", conn.RemoteAddr().String(), "error", err)
}

// watchWhitelist reads the whitelist again when it changes.
func (m *Master) watchWhitelist(ctx context.Context) error {
	var last time.Time
	var told any // the owner that knows it
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if own := m.current.Load(); own != nil {
			if st, err := os.Stat(string(m.cfg.Whitelist)); err == nil && (st.ModTime() != last || told != own) {
				hosts, err := readWhitelist(string(m.cfg.Whitelist))
				if err == nil && own.Post(ctx, &core.Whitelist{Hostnames: hosts}) == nil {
					last, told = st.ModTime(), own
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// readWhitelist reads one hostname a line.
func readWhitelist(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hosts := []string{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if h := strings.TrimSpace(sc.Text()); h != "" {
			hosts = append(hosts, h)
		}
	}
	return hosts, sc.Err()
}

// masterMetrics are the measurements of the owner and the registry.
type masterMetrics struct {
	store, fetch *metrics.Timer
	events       *metrics.Counter
	batches      *metrics.Timer
}

func newMasterMetrics(r *metrics.Registry) masterMetrics {
	return masterMetrics{
		store: r.Timer(metrics.Name{Mesos: "registrar/state_store_ms", Prom: "orchestrator_master_registry_store_seconds", Help: "Time that a write to the registry takes."}),
		fetch: r.Timer(metrics.Name{Mesos: "registrar/state_fetch_ms", Prom: "orchestrator_master_registry_fetch_seconds", Help: "Time that claiming and reading the registry takes after an election."}),
		events: r.Counter(metrics.Name{
			Mesos: "master/event_queue_dispatches_total", Prom: "orchestrator_master_events_total", Help: "Events that the owner of the state has handled.",
		}),
		batches: r.Timer(metrics.Name{Prom: "orchestrator_master_batch_seconds", Help: "Time that the owner of the state takes for a batch of events, allocation included."}),
	}
}

func (m masterMetrics) batch(events int, took time.Duration) {
	m.events.Add(uint64(events))
	m.batches.Observe(took)
}

// timedStore measures writes.
type timedStore struct {
	writer store.Writer
	timer  *metrics.Timer
}

// Submit implements owner.Submitter.
func (t timedStore) Submit(txn store.Txn, done func(error)) {
	began := time.Now()
	t.writer.Submit(txn, func(err error) {
		t.timer.Observe(time.Since(began))
		done(err)
	})
}
