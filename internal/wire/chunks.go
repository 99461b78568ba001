package wire

import "iter"

// Chunks cuts the elements of a repeated payload into runs whose sizes add up to at most limit bytes (0 stands for
// MaxEvent, less some room for the event around them), so that a run fits into an event that every reader takes. An
// element larger than the limit is a run of its own. Runs keep the order and share the slice.
func Chunks[T any](items []T, limit int, size func(T) int) iter.Seq[[]T] {
	if limit <= 0 {
		const room = 4 << 10
		limit = MaxEvent - room
	}
	return func(yield func([]T) bool) {
		start, total := 0, 0
		for i, item := range items {
			n := size(item)
			if i > start && total+n > limit {
				if !yield(items[start:i:i]) {
					return
				}
				start, total = i, 0
			}
			total += n
		}
		if start < len(items) {
			yield(items[start:])
		}
	}
}
