package resources

import (
	"fmt"
	"math"
	"strconv"
)

// Amount is a scalar quantity in thousandths of its unit (cpus, megabytes…), Mesos' precision.
type Amount int64

// Unit is the Amount of one whole unit.
const Unit Amount = 1000

// MaxAmount is the greatest scalar that one resource may carry (10^11 units: 100 PB when the unit is a megabyte). It keeps the
// sum of a cluster of 50,000 agents within 64 bits.
const MaxAmount Amount = 100_000_000_000 * Unit

// AmountOf rounds a double to an Amount as Mesos does (to the nearest thousandth) and refuses what is not a quantity.
func AmountOf(v float64) (Amount, error) {
	switch {
	case math.IsNaN(v):
		return 0, fmt.Errorf("scalar is not a number (NaN)")
	case math.IsInf(v, 0):
		return 0, fmt.Errorf("scalar is infinite")
	case v < 0:
		return 0, fmt.Errorf("scalar %v is negative", v)
	case v > MaxAmount.Float():
		return 0, fmt.Errorf("scalar %v is greater than the limit of %s", v, MaxAmount)
	}
	return Amount(math.Round(v * float64(Unit))), nil
}

// Float returns the amount as the double that travels on the wire.
func (a Amount) Float() float64 { return float64(a) / float64(Unit) }

// String prints the amount as Mesos does: at most three decimals and none that is not needed.
func (a Amount) String() string { return strconv.FormatFloat(a.Float(), 'f', -1, 64) }

// addAmounts adds and saturates: a sum that can't be represented stays at the greatest one instead of turning negative.
func addAmounts(a, b Amount) Amount {
	s := a + b
	if s < a && b > 0 {
		return math.MaxInt64
	}
	return s
}
