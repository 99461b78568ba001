// Package sim holds simulated agents and frameworks that speak the real wire, and the loads that the benchmarks put on a
// master with them.
//
// The agents speak the agent link, one or many on a connection, and keep a few hundred bytes each: no containers, no
// sandboxes, no hidden sleeps. What their tasks do (how long they take to start, how long they run, how many fail) is a
// Script. The frameworks speak the v1 scheduler API in protobuf or JSON. Load is open-loop: each task has an intended
// time of launch, and latencies count from it, so that a master that stalls can't hide it by slowing the load down.
//
// It is used by the hidden command `orchestrator bench` and by tests. It knows nothing of the master but its wire.
//
// Times are the machine's clock: agents and frameworks may be processes of their own, on the same machine.
package sim
