// Package view makes pictures out of the estate: nodes of one kind (or groups of them), the edges between them, and where each
// is drawn.
//
// A View is kept up to date by changes, not made anew: Update takes what a flush of the estate found and touches only the
// nodes and edges that it concerns. Emit then tells what is different from what was emitted last: one Diff for all who look
// at the same view. Frame gives the whole.
//
// A View is not safe for concurrent use: the hub that owns it guards it. Build and Update are called inside the estate's
// lock, Emit and Frame need only what the view itself holds.
package view
