package series

import "math/bits"

// Older samples lie packed: the first as it is, of each later one only how far it is from the one before. Neighbours are
// close, or the same, so most of these steps are small numbers. They are Rice codes: a step, zigzagged, is split in its low
// k bits, written as they are, and the rest, written as so many ones and a zero. Each block of steps has the k that makes it
// shortest; a block of nothing but zeros, which is what limits and idle things give, is its four bits of k alone.

const (
	blockSteps = 32
	// quietBlock is the k of a block in which nothing changes.
	quietBlock = 15
	maxRice    = 14
	// escapeOnes instead of a quotient say that the step follows in sixteen bits.
	escapeOnes = 12
)

func zigzag(step uint16) uint16 { return step<<1 ^ uint16(int16(step)>>15) }

func unzigzag(z uint16) uint16 { return z>>1 ^ -(z & 1) }

// packSamples packs samples, of which there is at least one, behind dst.
func packSamples(dst []byte, list []uint16) []byte {
	w := bitWriter{out: dst}
	w.put(uint32(list[0]), 16)
	var steps [blockSteps]uint16
	for i := 1; i < len(list); {
		n := min(blockSteps, len(list)-i)
		quiet := true
		for j := range n {
			steps[j] = zigzag(list[i+j] - list[i+j-1])
			quiet = quiet && steps[j] == 0
		}
		i += n
		if quiet {
			w.put(quietBlock, 4)
			continue
		}
		k := bestRice(steps[:n])
		w.put(k, 4)
		for _, z := range steps[:n] {
			if q := uint32(z) >> k; q < escapeOnes {
				w.put(1<<(q+1)-2, uint(q)+1)
				w.put(uint32(z)&(1<<k-1), uint(k))
			} else {
				w.put(1<<escapeOnes-1, escapeOnes)
				w.put(uint32(z), 16)
			}
		}
	}
	return w.end()
}

// bestRice finds the k that writes a block in the fewest bits.
func bestRice(steps []uint16) uint32 {
	best, fewest := uint32(0), ^uint32(0)
	for k := uint32(0); k <= maxRice; k++ {
		total := uint32(0)
		for _, z := range steps {
			if q := uint32(z) >> k; q < escapeOnes {
				total += q + 1 + k
			} else {
				total += escapeOnes + 16
			}
		}
		if total < fewest {
			best, fewest = k, total
		}
	}
	return best
}

// unpackSamples appends the n samples that were packed to dst.
func unpackSamples(dst []uint16, packed string, n int) []uint16 {
	if n == 0 {
		return dst
	}
	r := bitReader{in: packed}
	v := uint16(r.take(16))
	dst = append(dst, v)
	for i := 1; i < n; {
		block := min(blockSteps, n-i)
		i += block
		k := uint(r.take(4))
		for range block {
			if k != quietBlock {
				var z uint32
				if q := r.ones(escapeOnes); q < escapeOnes {
					z = q<<k | r.take(k)
				} else {
					z = r.take(16)
				}
				v += unzigzag(uint16(z))
			}
			dst = append(dst, v)
		}
	}
	return dst
}

// bitWriter writes bits, the highest first.
type bitWriter struct {
	out  []byte
	held uint64
	n    uint
}

func (w *bitWriter) put(v uint32, n uint) {
	w.held = w.held<<n | uint64(v)
	w.n += n
	for w.n >= 8 {
		w.n -= 8
		w.out = append(w.out, byte(w.held>>w.n))
	}
}

func (w *bitWriter) end() []byte {
	if w.n > 0 {
		w.out = append(w.out, byte(w.held<<(8-w.n)))
	}
	return w.out
}

// bitReader reads what a bitWriter wrote. Beyond the end it reads zeros.
type bitReader struct {
	in   string
	at   int
	held uint64 // the next bits, from the top
	n    uint
}

func (r *bitReader) fill() {
	for r.n <= 56 {
		if r.at < len(r.in) {
			r.held |= uint64(r.in[r.at]) << (56 - r.n)
			r.at++
		}
		r.n += 8
	}
}

// take reads up to 16 bits.
func (r *bitReader) take(n uint) uint32 {
	if r.n < n {
		r.fill()
	}
	v := uint32(r.held >> (64 - n))
	r.held <<= n
	r.n -= n
	return v
}

// ones reads ones up to a number of them, and the zero that ends fewer.
func (r *bitReader) ones(most uint32) uint32 {
	if r.n <= uint(most) {
		r.fill()
	}
	q := min(uint32(bits.LeadingZeros64(^r.held)), most)
	skip := uint(q)
	if q < most {
		skip++
	}
	r.held <<= skip
	r.n -= skip
	return q
}
