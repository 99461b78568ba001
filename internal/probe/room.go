package probe

import "maps"

// A probe lives for months, and what happens once (ten thousand connections in a second) must not cost memory for ever: lists and maps that are
// used again from round to round give back what they have grown to.

// idleRoom is for how many items of a list or map room is kept while there are none.
const idleRoom = 1024

// emptied is an empty list in the same room, which holds on to nothing that stood in it; a list without room when it had grown large.
func emptied[T any](list []T) []T {
	if cap(list) > idleRoom {
		return nil
	}
	clear(list[:cap(list)])
	return list[:0]
}

// slim gives a map in which there is little left anew, because a map's room never shrinks. most is how many it held at most since it was made.
func slim[K comparable, V any](m map[K]V, most *int) map[K]V {
	*most = max(*most, len(m))
	if *most <= idleRoom || len(m) > *most/4 {
		return m
	}
	*most = len(m)
	out := make(map[K]V, len(m))
	maps.Copy(out, m)
	return out
}
