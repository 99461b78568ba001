// Command tcpstats is an example of a plugin that reports: it gives every host how many TCP segments it sends again, an attribute,
// and a table of the kernel's TCP counters.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orchestrator/orchestrator/api/plugin"
)

func main() {
	dir := flag.String("dir", plugin.DefaultDir, "directory of the probe's plugins")
	host := flag.String("host", "", "name of this host on the map; what the system says by default")
	flag.Parse()
	if *host == "" {
		*host, _ = os.Hostname()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &stats{host: *host}
	p := &plugin.Plugin{ID: "tcpstats", Label: "TCP counters", Description: "The kernel's TCP counters of each host", Report: s.report}
	if err := p.Run(ctx, *dir); err != nil {
		log.Fatal(err) //nolint:gocritic // stop only undoes the signal handler
	}
}

// stats remembers the last reading, for the rate.
type stats struct {
	host string

	mu   sync.Mutex
	sent uint64
	at   time.Time
}

var counters = plugin.TableTemplate{
	ID: "counters", Label: "TCP counters", Prefix: "counter-", Type: plugin.TypeColumns,
	Columns: []plugin.Column{{ID: "name", Label: "Counter"}, {ID: "value", Label: "Value", DataType: plugin.TypeNumber}},
}

func (s *stats) report(context.Context) (*plugin.Report, error) {
	b, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	values, order := parse(string(b))
	if len(values) == 0 {
		return nil, fmt.Errorf("the kernel has no TCP counters")
	}
	node := plugin.Node{
		Metrics: map[string]plugin.Metric{
			"retransmits": plugin.Gauge(s.rate(values["RetransSegs"], time.Now()), 0),
			"open":        plugin.Gauge(float64(values["CurrEstab"]), 0),
		},
		Latest: map[string]plugin.Latest{"resets": plugin.Value(strconv.FormatUint(values["EstabResets"], 10))},
	}
	for i, name := range order {
		row := fmt.Sprintf("%02d", i)
		node.Latest[plugin.Cell(counters, row, "name")] = plugin.Value(name)
		node.Latest[plugin.Cell(counters, row, "value")] = plugin.Value(strconv.FormatUint(values[name], 10))
	}
	return &plugin.Report{Host: &plugin.Topology{
		Nodes: map[string]plugin.Node{plugin.HostID(s.host): node},
		MetricTemplates: map[string]plugin.MetricTemplate{
			"retransmits": {ID: "retransmits", Label: "TCP segments sent again per second", Priority: 1},
			"open":        {ID: "open", Label: "Open TCP connections", Format: plugin.FormatInteger, Priority: 2},
		},
		MetadataTemplates: map[string]plugin.MetadataTemplate{
			"resets": {ID: "resets", Label: "TCP resets since boot", DataType: plugin.TypeNumber, From: "latest", Priority: 1},
		},
		TableTemplates: map[string]plugin.TableTemplate{counters.ID: counters},
	}}, nil
}

// rate is how many per second there were since the last report.
func (s *stats) rate(sent uint64, now time.Time) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, at := s.sent, s.at
	s.sent, s.at = sent, now
	if at.IsZero() || sent < last || !now.After(at) {
		return 0
	}
	return float64(sent-last) / now.Sub(at).Seconds()
}

// parse reads the two lines of TCP: names and values.
func parse(snmp string) (values map[string]uint64, order []string) {
	values = map[string]uint64{}
	for line := range strings.Lines(snmp) {
		rest, ok := strings.CutPrefix(line, "Tcp: ")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if order == nil {
			order = fields
			continue
		}
		for i, f := range fields[:min(len(fields), len(order))] {
			if n, err := strconv.ParseUint(f, 10, 64); err == nil {
				values[order[i]] = n
			}
		}
	}
	return values, order
}
