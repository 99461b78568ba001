// Package metrics keeps a daemon's measurements once and shows them twice: under Mesos' names at /metrics/snapshot (and in
// GET_METRICS), and as Prometheus text at /metrics.
//
// Each component makes one Registry, builds a struct of counters, gauges and timers from it, and registers whatever
// else collects for Prometheus with Registerer. There is no global registry.
//
// Invariants:
//   - Counting is one atomic addition, setting a gauge one atomic store; neither takes a lock. A timer takes a short one.
//   - A snapshot calls the functions given to GaugeFunc and Source in the goroutine that asked, so these read published
//     snapshots and never wait for a state's owner.
//   - What Prometheus sees has no unbounded labels. Measurements per framework have only a Mesos name and end with their Group.
package metrics
