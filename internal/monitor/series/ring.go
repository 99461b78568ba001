// Package series keeps the metrics of the estate: a ring of 15-second samples for the last hour in memory, and, when the
// monitor has a directory, a minute tier for a day on disk.
//
// A sample takes two bytes: 6 bits of exponent and 10 of mantissa hold every non-negative number that a metric can be to
// within 0.05 %. A hundred thousand series of an hour take 50 MB.
package series

import "math"

const (
	// Step is the resolution of the ring in seconds, Slots how many samples it holds: an hour and a little.
	Step  = 15
	Slots = 244
	// ShortSlots is the length of the ring of a process: a quarter of an hour.
	ShortSlots = 64

	missing     = 0xffff
	minExponent = -14
)

// pack writes a value in two bytes. Negative ones become 0.
func pack(v float64) uint16 {
	if math.IsNaN(v) {
		return missing
	}
	if v <= 0 {
		return 0
	}
	frac, exp := math.Frexp(v) // v = frac * 2^exp, frac in [0.5, 1)
	m := int(math.Round((frac*2 - 1) * 1024))
	e := exp - 1 - minExponent
	if m == 1024 {
		m, e = 0, e+1
	}
	switch {
	case e < 0:
		return 0
	case e > 62:
		return 62<<10 | 1023
	case e == 0 && m == 0:
		m = 1 // all zeroes is zero
	}
	return uint16(e)<<10 | uint16(m)
}

func unpack(p uint16) float64 {
	switch p {
	case 0:
		return 0
	case missing:
		return math.NaN()
	}
	return math.Ldexp(1+float64(p&1023)/1024, int(p>>10)+minExponent)
}

// Ring is the last hour of one metric of one entity. Its zero value is not usable; the owner guards it.
type Ring struct {
	last  int64 // slot number (seconds / Step) of the newest sample
	sum   float32
	count uint16
	slots []uint16
	now   float32
}

// NewRing makes an empty ring of so many slots.
func NewRing(slots int) *Ring {
	r := &Ring{slots: make([]uint16, slots)}
	for i := range r.slots {
		r.slots[i] = missing
	}
	return r
}

// Add takes a sample. Several in one slot are averaged; one for a slot that has passed (a spooled one) goes to its place.
func (r *Ring) Add(atMs int64, v float32) {
	slot := atMs / 1000 / Step
	n := int64(len(r.slots))
	switch {
	case r.last == 0 || slot-r.last >= n:
		for i := range r.slots {
			r.slots[i] = missing
		}
		r.last, r.sum, r.count = slot, 0, 0
	case slot > r.last:
		for s := r.last + 1; s < slot; s++ {
			r.slots[s%n] = missing
		}
		r.last, r.sum, r.count = slot, 0, 0
	case slot < r.last:
		if r.last-slot < n {
			r.slots[slot%n] = pack(float64(v))
		}
		return
	}
	r.now = v
	if r.count < math.MaxUint16 {
		r.sum += v
		r.count++
	}
	r.slots[slot%n] = pack(float64(r.sum) / float64(r.count))
}

// Now is the newest sample as it came.
func (r *Ring) Now() float32 { return r.now }

// LastMs is when the newest sample's slot ends.
func (r *Ring) LastMs() int64 { return (r.last + 1) * Step * 1000 }

// At gives the sample of the slot in which a time lies; NaN when there is none.
func (r *Ring) At(ms int64) float64 {
	slot := ms / 1000 / Step
	n := int64(len(r.slots))
	if slot > r.last || r.last-slot >= n || slot < 0 {
		return math.NaN()
	}
	return unpack(r.slots[slot%n])
}

// Range gives the samples from one time to another, oldest first, with the time of the first one. Gaps are NaN.
func (r *Ring) Range(fromMs, toMs int64) (startMs int64, out []float64) {
	n := int64(len(r.slots))
	first, last := max(fromMs/1000/Step, r.last-n+1), min(toMs/1000/Step, r.last)
	if r.last == 0 || first > last {
		return fromMs, nil
	}
	for s := first; s <= last; s++ {
		out = append(out, unpack(r.slots[s%n]))
	}
	return first * Step * 1000, out
}

// Minutes sums the samples of so many minutes from a time on into minimum, average and maximum of each; NaN where there are
// none.
func (r *Ring) Minutes(fromMs int64, count int) (low, avg, high []float64) {
	for m := range count {
		mn, mx, sum, k := math.NaN(), math.NaN(), 0.0, 0
		for s := range int64(60 / Step) {
			v := r.At(fromMs + int64(m)*60_000 + s*Step*1000)
			if math.IsNaN(v) {
				continue
			}
			if k == 0 || v < mn {
				mn = v
			}
			if k == 0 || v > mx {
				mx = v
			}
			sum += v
			k++
		}
		a := math.NaN()
		if k > 0 {
			a = sum / float64(k)
		}
		low, avg, high = append(low, mn), append(avg, a), append(high, mx)
	}
	return low, avg, high
}
