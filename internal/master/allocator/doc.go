// Package allocator decides which framework is offered which resources: hierarchical weighted Dominant Resource Fairness
// with quota, reservations, filters and capabilities as Mesos frameworks see them, computed incrementally.
//
// The master's core calls it and nobody else. It is pure: time and the seed of a cycle's visiting order come as arguments,
// and equal calls in equal order give equal answers. It is not safe for concurrent use; the core is its one owner.
//
// Every call only notes what changed: an agent whose free resources grew is dirty, a framework and role that became able to
// take offers is fresh. Allocate then visits dirty agents, and the others for fresh clients only. What it answers is what a
// pass over every agent and every framework would answer; a full-pass allocator in the tests proves it.
//
// What holds:
//   - an agent's free resources are its total less what is offered or allocated; shared volumes are always free;
//   - a client (framework and role) that is not offered an agent's free resources when it is visited will not take any part of
//     them either, until the agent's free resources grow, a filter ends, the client becomes fresh, or quota eases;
//   - resources that were kept back for quota mark their agent as held back; held back agents are visited again when any
//     consumption falls, any quota changes or the free resources of the cluster grow over what guarantees require;
//   - nothing that callers pass can make it panic: unknown ids are ignored or reported as errors.
//
// Where it differs from Mesos on purpose: freed and declined resources are offered in the next cycle, not at the next tick;
// quota of a top-level role governs the whole subtree, guarantees included; an offer never consists of shared resources
// alone; resources of agents that can't be offered (deactivated, not whitelisted) don't count as headroom.
package allocator
