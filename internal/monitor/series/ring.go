// Package series keeps the metrics of the estate: a ring of 15-second samples for the last hour in memory, and, when the
// monitor has a directory, a minute tier for a day on disk.
//
// A sample is two bytes: 6 bits of exponent and 10 of mantissa hold every non-negative number that a metric can be to
// within 0.05 %. All but the newest are packed without loss, to about one byte when a metric moves all the time and to next to
// nothing when it stands still.
package series

import (
	"math"
	"unsafe"
)

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

// headSlots is how many of the newest samples of a ring lie as they are.
const headSlots = 16

// Ring is the last hour of one metric of one entity. MakeRing makes it; the owner guards it.
//
// The newest samples are in head, each in its place; when it is full they join the older ones in old, which are packed
// (packed.go) and cost a fraction. A hundred thousand series are mostly this.
type Ring struct {
	last     uint32 // slot number (seconds / Step) of the newest sample
	sum, now float32
	count    uint16 // of the samples in sum, which make the newest slot
	length   uint16 // slots that can be asked for
	packed   uint16 // samples in old: those of the slots before head's
	filled   uint16 // samples in head
	head     [headSlots]uint16
	old      string
}

// MakeRing makes an empty ring of so many slots.
func MakeRing(slots int) Ring { return Ring{length: uint16(slots)} }

// Add takes a sample. Several in one slot are averaged; one for a slot that has passed (a spooled one) goes to its place.
func (r *Ring) Add(atMs int64, v float32) {
	slot64 := atMs / 1000 / Step
	if slot64 < 0 || slot64 > math.MaxUint32 {
		return // no time that a clock shows
	}
	slot := uint32(slot64)
	switch {
	case r.filled == 0 || slot > r.last && slot-r.last >= uint32(r.length):
		r.old, r.packed, r.filled = "", 0, 0
		r.push(missing)
		r.last, r.sum, r.count = slot, 0, 0
	case slot > r.last:
		for range slot - r.last {
			r.push(missing)
		}
		r.last, r.sum, r.count = slot, 0, 0
	case slot < r.last:
		if r.last-slot < uint32(r.length) {
			r.amend(r.last-slot, pack(float64(v)))
		}
		return
	}
	r.now = v
	if r.count < math.MaxUint16 {
		r.sum += v
		r.count++
	}
	r.head[r.filled-1] = pack(float64(r.sum) / float64(r.count))
}

// push begins a slot.
func (r *Ring) push(p uint16) {
	if r.filled == headSlots {
		var buf [Slots + headSlots]uint16
		r.keep(append(unpackSamples(buf[:0], r.old, int(r.packed)), r.head[:]...))
		r.filled = 0
	}
	r.head[r.filled] = p
	r.filled++
}

// keep packs the samples before head's, but for those that are out of reach.
func (r *Ring) keep(list []uint16) {
	list = list[max(0, len(list)-int(r.length)+1):]
	r.packed = uint16(len(list))
	var buf [2*Slots + 2*headSlots]byte
	r.old = string(packSamples(buf[:0], list))
}

// amend changes the sample of a slot that has passed, so many before the newest.
func (r *Ring) amend(ago uint32, p uint16) {
	if ago < uint32(r.filled) {
		r.head[uint32(r.filled)-1-ago] = p
		return
	}
	back := int(ago) - int(r.filled) // before head's first: 0 is the last that is packed
	var buf, older [Slots + headSlots]uint16
	list := buf[:0]
	for range back + 1 - int(r.packed) {
		list = append(list, missing) // from before the ring's first sample
	}
	list = append(list, unpackSamples(older[:0], r.old, int(r.packed))...)
	list[len(list)-1-back] = p
	r.keep(list)
}

// samples appends the newest samples to buf, oldest first, and tells the slot of the first one.
func (r *Ring) samples(buf []uint16) (first int64, list []uint16) {
	list = append(unpackSamples(buf, r.old, int(r.packed)), r.head[:r.filled]...)
	list = list[max(0, len(list)-int(r.length)):]
	return int64(r.last) - int64(len(list)) + 1, list
}

// Size is how many bytes it takes.
func (r *Ring) Size() int { return int(unsafe.Sizeof(*r)) + len(r.old) }

// Now is the newest sample as it came.
func (r *Ring) Now() float32 { return r.now }

// LastMs is when the newest sample's slot ends.
func (r *Ring) LastMs() int64 { return (int64(r.last) + 1) * Step * 1000 }

// At gives the sample of the slot in which a time lies; NaN when there is none.
func (r *Ring) At(ms int64) float64 {
	ago := int64(r.last) - ms/1000/Step
	switch {
	case ago < 0 || ago >= int64(r.length):
		return math.NaN()
	case ago < int64(r.filled):
		return unpack(r.head[int64(r.filled)-1-ago])
	}
	var buf [Slots + headSlots]uint16
	_, list := r.samples(buf[:0])
	if ago >= int64(len(list)) {
		return math.NaN()
	}
	return unpack(list[int64(len(list))-1-ago])
}

// Range gives the samples from one time to another, oldest first, with the time of the first one. Gaps are NaN.
func (r *Ring) Range(fromMs, toMs int64) (startMs int64, out []float64) {
	first, last := max(fromMs/1000/Step, int64(r.last)-int64(r.length)+1), min(toMs/1000/Step, int64(r.last))
	if r.filled == 0 || first > last {
		return fromMs, nil
	}
	var buf [Slots + headSlots]uint16
	from, list := r.samples(buf[:0])
	for s := first; s <= last; s++ {
		out = append(out, sampleAt(from, list, s))
	}
	return first * Step * 1000, out
}

func sampleAt(first int64, list []uint16, slot int64) float64 {
	if slot < first || slot >= first+int64(len(list)) {
		return math.NaN()
	}
	return unpack(list[slot-first])
}

// Minutes sums the samples of so many minutes from a time on into minimum, average and maximum of each; NaN where there are
// none.
func (r *Ring) Minutes(fromMs int64, count int) (low, avg, high []float64) {
	var buf [Slots + headSlots]uint16
	first, list := r.samples(buf[:0])
	out := make([]float64, 3*count)
	low, avg, high = out[:0:count], out[count:count:2*count], out[2*count:2*count]
	for m := range count {
		mn, mx, sum, k := math.NaN(), math.NaN(), 0.0, 0
		for s := range int64(60 / Step) {
			v := sampleAt(first, list, (fromMs+int64(m)*60_000)/1000/Step+s)
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
