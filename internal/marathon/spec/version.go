package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Version is a point in time in milliseconds since 1970, and at once the identity of a definition: two versions of one
// definition never share a millisecond. Its text form always has three fractional digits (Marathon's Timestamp).
type Version int64

const versionLayout = "2006-01-02T15:04:05.000Z"

// VersionOf cuts a time to its millisecond.
func VersionOf(t time.Time) Version { return Version(t.UnixMilli()) }

// ParseVersion reads an ISO-8601 time; printing the result again gives the same text when it had three fractional digits.
func ParseVersion(s string) (Version, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, fmt.Errorf("Invalid timestamp provided '%s'. Expecting ISO-8601 datetime string.", s)
	}
	return VersionOf(t), nil
}

// Time is the point in time.
func (v Version) Time() time.Time { return time.UnixMilli(int64(v)).UTC() }

func (v Version) String() string { return v.Time().Format(versionLayout) }

// MarshalJSON emits the text form.
func (v Version) MarshalJSON() ([]byte, error) { return []byte(`"` + v.String() + `"`), nil }

// UnmarshalJSON reads the text form.
func (v *Version) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	p, err := ParseVersion(s)
	*v = p
	return err
}

// Encode is json.Marshal without the escapes that only matter inside HTML: `&&` in a command stays as it was written.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}
