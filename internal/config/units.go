package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// durationUnits are Mesos' units, largest first (stout/duration.hpp).
var durationUnits = []struct {
	name string
	unit time.Duration
}{
	{"weeks", 7 * 24 * time.Hour},
	{"days", 24 * time.Hour},
	{"hrs", time.Hour},
	{"mins", time.Minute},
	{"secs", time.Second},
	{"ms", time.Millisecond},
	{"us", time.Microsecond},
	{"ns", time.Nanosecond},
}

// ParseDuration reads a duration in Mesos' grammar (a decimal number and one of ns, us, ms, secs, mins, hrs, days, weeks) or in Go's
// ("1m30s").
func ParseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	for _, u := range durationUnits {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil {
			break // "5ms" ends in "ms" and parses; "1s5ms" is Go's
		}
		ns := value * float64(u.unit)
		if math.IsNaN(ns) || ns >= math.MaxInt64 || ns <= math.MinInt64 {
			return 0, fmt.Errorf("duration %q is out of range (±292 years)", s)
		}
		return time.Duration(math.Round(ns)), nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return d, nil
	}
	return 0, fmt.Errorf("%q is not a duration: write a number and one of ns, us, ms, secs, mins, hrs, days, weeks, for example 15secs", s)
}

// FormatDuration writes a duration as Mesos does ("15secs", "1mins", "10days"): in the unit of its magnitude, or in the
// next smaller one when only that gives a whole number.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "0ns"
	}
	if d < 0 {
		if d == math.MinInt64 {
			d++
		}
		return "-" + FormatDuration(-d)
	}
	for i, u := range durationUnits {
		if d < u.unit {
			continue
		}
		if d%u.unit != 0 && i+1 < len(durationUnits) && d%durationUnits[i+1].unit == 0 {
			u = durationUnits[i+1]
		}
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
		text := strconv.FormatFloat(float64(d)/float64(u.unit), 'g', 15, 64) + u.name
		if back, err := ParseDuration(text); err != nil || back != d {
			break // where Mesos would lose digits we write nanoseconds
		}
		return text
	}
	return strconv.FormatInt(int64(d), 10) + "ns"
}

// Bytes is a size in bytes. Its text form is a whole number and one of B, KB, MB, GB, TB, each 1024 times the one before
// (stout/bytes.hpp).
type Bytes uint64

// Sizes.
const (
	Byte     Bytes = 1
	Kilobyte       = 1024 * Byte
	Megabyte       = 1024 * Kilobyte
	Gigabyte       = 1024 * Megabyte
	Terabyte       = 1024 * Gigabyte
)

var byteUnits = []struct {
	name string
	unit Bytes
}{{"TB", Terabyte}, {"GB", Gigabyte}, {"MB", Megabyte}, {"KB", Kilobyte}, {"B", Byte}}

// ParseBytes reads a size such as "2GB".
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSpace(s)
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		value, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		if err != nil {
			break
		}
		if value > math.MaxUint64/uint64(u.unit) {
			return 0, fmt.Errorf("size %q is out of range", s)
		}
		return Bytes(value) * u.unit, nil
	}
	return 0, fmt.Errorf("%q is not a size: write a whole number and one of B, KB, MB, GB, TB, for example 2GB", s)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// String writes the size in the largest unit that gives a whole number.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b >= u.unit && b%u.unit == 0 {
			return strconv.FormatUint(uint64(b/u.unit), 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(b), 10) + "B"
}

// Path is a path in the file system. A `file://` prefix is stripped instead of reading the file.
type Path string

// JSON is a value that is a JSON document: given inline, as a file:// value, or as an object in the configuration file.
// Whoever uses it decodes it.
type JSON string
