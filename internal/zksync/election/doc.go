// Package election lets one leader election have its contenders in two ensembles at once, with at most one leader at any time.
//
// A contender is an ephemeral sequential child of a group's node; the lowest number leads. Here every contender of one side is shown
// on the other side as a mirror: a persistent node of the same name and content. One side of every group is senior: its contenders
// elect among themselves as always. The junior side always shows at least one mirror that sorts before all of its own contenders, so
// that none of them can lead. Seniority moves when the senior side has no contender left before the junior side's first.
//
// Rules, each safe however old the view is that it was decided on, because numbers only grow, a name never comes back, and
// mirrors are changed by the fenced engine alone:
//
//   - A mirror goes when its contender was seen gone in a list read from its own side, never because of time or silence.
//   - The last mirror on the junior side that sorts before its contenders stays, even when its contender is gone.
//   - Seniority goes from S to J only for a contender Y of J whose mirror is on S, when S has given out numbers above Y and one and
//     the same list of S shows no contender before Y. S can then never have one before Y's mirror. Only after that was
//     recorded do the mirrors of S on J go that kept Y from leading.
//   - Counters are pushed ahead (children made and removed in one transaction), so that new contenders of the junior side
//     sort behind those of the senior side. That is for the contenders' order; safety does not rest on it alone.
//
// When the sides can't reach each other, the senior side goes on and the junior side waits: no leader there, never a second
// one. Every write checks a fence node on the side it goes to; an engine that takes over raises both fences before it reads.
//
// plan.go is pure; mirror.go runs it. zksync's Pair starts it for the groups that it was told of.
package election
