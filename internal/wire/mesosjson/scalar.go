package mesosjson

import (
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"
)

// plainByte is true for the bytes that stand in a JSON string as they are.
var plainByte = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

const hexDigits = "0123456789ABCDEF"

// AppendString appends s as a JSON string with Mesos' escapes: only the quote, the backslash and control characters are
// escaped. What isn't UTF-8 becomes U+FFFD, so that the text stays valid JSON.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainByte[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += size
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// AppendFloat appends a double as Mesos writes it: the shortest digits that read back as v, always with a fraction
// ("1.0"), with an exponent outside 1e-6 <= |v| < 1e21 ("1e30", "1.5e-7"), and bare NaN, Infinity and -Infinity.
func AppendFloat(dst []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, "NaN"...)
	case math.IsInf(v, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(v, -1):
		return append(dst, "-Infinity"...)
	}
	// Most doubles on this wire are small whole numbers: cpus, megabytes, seconds.
	if n := int64(v); float64(n) == v && n > -1<<53 && n < 1<<53 && (n != 0 || !math.Signbit(v)) {
		return append(strconv.AppendInt(dst, n, 10), '.', '0')
	}
	abs := math.Abs(v)
	if abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		start := len(dst)
		dst = strconv.AppendFloat(dst, v, 'e', -1, 64)
		// Go writes e-07 and e+30, Mesos e-7 and e30.
		for i := len(dst) - 1; i > start; i-- {
			if dst[i] != 'e' {
				continue
			}
			digits := i + 2
			for digits < len(dst)-1 && dst[digits] == '0' {
				digits++
			}
			end := i + 1
			if dst[i+1] == '-' {
				end++
			}
			return append(dst[:end], dst[digits:]...)
		}
		return dst
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, v, 'f', -1, 64)
	for _, c := range dst[start:] {
		if c == '.' {
			return dst
		}
	}
	return append(dst, '.', '0')
}

// AppendBytes appends b as a quoted standard base64 text with padding.
func AppendBytes(dst []byte, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}
