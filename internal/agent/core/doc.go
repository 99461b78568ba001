// Package core is the agent's mind: what it knows of its frameworks, executors, tasks, updates, operations and its drain,
// and what follows from what happens. Package agent's owner goroutine is its only caller.
//
// Step takes one Event and gives the Effects that follow, in order. It is pure: time comes with the call, uuids are drawn
// from a key that Boot brings, and nothing here touches the network or the disk. The same history gives the same effects.
//
// Effects come in two sorts. Those of one step that persist are made durable together, all or none, before any other is
// carried out: that is how the agent promises nothing that it could forget. All others speak to the master, to executors, to the
// containerizer or to whoever asked.
//
// Invariants:
//   - Of each task one update is in flight to the master; the next leaves when it is acknowledged; the order is that in
//     which the agent took them. An update is counted once, whatever the number of times its executor sends it.
//   - A terminal state is final. A task is forgotten when its terminal update is acknowledged, not before.
//   - An executor is heard only about its own tasks.
//   - Protobuf messages that entered an event or left in an effect are never changed.
package core
