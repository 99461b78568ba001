package scope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// jsonSource reads JSON token by token, so that what is nested too deep or too much is noticed before it is held.
type jsonSource struct {
	dec    *json.Decoder
	depth  int
	values int
	limits Limits
}

func newJSONSource(b []byte, l Limits) *jsonSource {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return &jsonSource{dec: dec, limits: l}
}

func (j *jsonSource) token() (json.Token, error) {
	if j.values++; j.values > j.limits.Values {
		return nil, limitError("values", j.limits.Values)
	}
	t, err := j.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if s, ok := t.(string); ok && len(s) > j.limits.Text {
		err = limitError("bytes of text", j.limits.Text)
	}
	return t, err
}

// end makes sure that nothing follows.
func (j *jsonSource) end() error {
	if _, err := j.dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the report")
	}
	return nil
}

func (j *jsonSource) enter() error {
	if j.depth++; j.depth > j.limits.Depth {
		return limitError("depth", j.limits.Depth)
	}
	return nil
}

// leave takes the closing bracket.
func (j *jsonSource) leave() error {
	j.depth--
	_, err := j.token()
	return err
}

func (j *jsonSource) object(member func(string) error) error {
	t, err := j.token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('{') {
		return wrong(t, "an object")
	}
	return j.members(member)
}

func (j *jsonSource) loose(member func(string) error) error {
	t, err := j.token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return j.rest(t)
	}
	return j.members(member)
}

func (j *jsonSource) members(member func(string) error) error {
	if err := j.enter(); err != nil {
		return err
	}
	for j.dec.More() {
		t, err := j.token()
		if err != nil {
			return err
		}
		key, _ := t.(string) // the decoder takes nothing else for a name
		if err := member(key); err != nil {
			return err
		}
	}
	return j.leave()
}

func (j *jsonSource) array(element func() error) error {
	t, err := j.token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return wrong(t, "an array")
	}
	if err := j.enter(); err != nil {
		return err
	}
	for j.dec.More() {
		if err := element(); err != nil {
			return err
		}
	}
	return j.leave()
}

func wrong(t json.Token, want string) error {
	switch t.(type) {
	case json.Delim:
		return fmt.Errorf("an object or array where %s is expected", want)
	case string:
		return fmt.Errorf("text where %s is expected", want)
	case json.Number:
		return fmt.Errorf("a number where %s is expected", want)
	}
	return fmt.Errorf("true or false where %s is expected", want)
}

func (j *jsonSource) text() (string, error) {
	t, err := j.token()
	if err != nil {
		return "", err
	}
	switch v := t.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	}
	return "", wrong(t, "text")
}

func (j *jsonSource) number() (float64, error) {
	t, err := j.token()
	if err != nil || t == nil {
		return 0, err
	}
	n, ok := t.(json.Number)
	if !ok {
		return 0, wrong(t, "a number")
	}
	return n.Float64()
}

func (j *jsonSource) truth() (bool, error) {
	t, err := j.token()
	if err != nil || t == nil {
		return false, err
	}
	b, ok := t.(bool)
	if !ok {
		return false, wrong(t, "true or false")
	}
	return b, nil
}

// when takes times as RFC 3339 has them. Plugins in other languages write all kinds of things: what is no time is none.
func (j *jsonSource) when() (time.Time, error) {
	t, err := j.token()
	if err != nil || t == nil {
		return time.Time{}, err
	}
	s, ok := t.(string)
	if !ok {
		if _, ok := t.(json.Number); ok {
			return time.Time{}, nil
		}
		return time.Time{}, wrong(t, "a time")
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // see above
	}
	return sane(at), nil
}

func (j *jsonSource) skip() error {
	t, err := j.token()
	if err != nil {
		return err
	}
	return j.rest(t)
}

// rest skips what a token begins.
func (j *jsonSource) rest(t json.Token) error {
	if _, ok := t.(json.Delim); !ok {
		return nil
	}
	if err := j.enter(); err != nil {
		return err
	}
	for j.dec.More() {
		// In an object names are values as well: both are skipped alike.
		if err := j.skip(); err != nil {
			return err
		}
	}
	return j.leave()
}
