package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// maxFlagLength bounds the text of a --resources flag.
const maxFlagLength = 4 << 20

// Parse reads the --resources flag: "cpus:4;mem(role):1024;ports:[31000-32000];zones:{a,b}", or a JSON array of Resource
// messages. What names no role is reserved (statically) to defaultRole, or unreserved when that is "*" or "".
func Parse(text, defaultRole string) (Resources, error) {
	if len(text) > maxFlagLength {
		return Resources{}, fmt.Errorf("text of %d bytes is longer than the limit of %d", len(text), maxFlagLength)
	}
	if defaultRole == "" {
		defaultRole = AnyRole
	}
	if err := ValidateRole(defaultRole); err != nil {
		return Resources{}, fmt.Errorf("default role: %w", err)
	}
	text = strings.TrimSpace(text)
	var (
		list []*mesosv1.Resource
		err  error
	)
	if strings.HasPrefix(text, "[") {
		list, err = parseJSON(text)
	} else {
		list, err = parseText(text)
	}
	if err != nil {
		return Resources{}, err
	}
	for _, p := range list {
		if p.Role == nil && len(p.Reservations) == 0 && defaultRole != AnyRole {
			p.Role = &defaultRole
		}
		if p.AllocationInfo != nil {
			return Resources{}, fmt.Errorf("resource '%s' must not have allocation_info", p.GetName())
		}
	}
	return FromProto(list)
}

func parseJSON(text string) ([]*mesosv1.Resource, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, fmt.Errorf("resources are not a JSON array: %w", err)
	}
	if len(raw) > MaxEntries {
		return nil, fmt.Errorf("%d resources are more than the limit of %d", len(raw), MaxEntries)
	}
	list := make([]*mesosv1.Resource, 0, len(raw))
	for i, r := range raw {
		p := &mesosv1.Resource{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r, p); err != nil {
			return nil, fmt.Errorf("resource %d: %w", i, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func parseText(text string) ([]*mesosv1.Resource, error) {
	var list []*mesosv1.Resource
	for part := range strings.SplitSeq(text, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		p, err := parseOne(part)
		if err != nil {
			return nil, fmt.Errorf("resource '%s': %w", part, err)
		}
		if list = append(list, p); len(list) > MaxEntries {
			return nil, fmt.Errorf("more than %d resources", MaxEntries)
		}
	}
	return list, nil
}

func parseOne(part string) (*mesosv1.Resource, error) {
	head, value, ok := strings.Cut(part, ":")
	if !ok {
		return nil, errors.New("missing ':' between name and value")
	}
	head, value = strings.TrimSpace(head), strings.TrimSpace(value)
	p := &mesosv1.Resource{}
	name := head
	if open := strings.IndexByte(head, '('); open >= 0 {
		if !strings.HasSuffix(head, ")") {
			return nil, errors.New("the role must be written name(role)")
		}
		role := strings.TrimSpace(head[open+1 : len(head)-1])
		name = strings.TrimSpace(head[:open])
		p.Role = &role
	}
	p.Name = &name
	switch {
	case value == "":
		return nil, errors.New("missing value after ':'")
	case strings.HasPrefix(value, "["):
		ranges, err := parseRanges(value)
		if err != nil {
			return nil, err
		}
		p.Type, p.Ranges = mesosv1.Value_RANGES.Enum(), ranges
	case strings.HasPrefix(value, "{"):
		if !strings.HasSuffix(value, "}") {
			return nil, errors.New("a set ends with '}'")
		}
		set := &mesosv1.Value_Set{}
		for item := range strings.SplitSeq(value[1:len(value)-1], ",") {
			if item = strings.TrimSpace(item); item != "" {
				set.Item = append(set.Item, item)
			}
		}
		p.Type, p.Set = mesosv1.Value_SET.Enum(), set
	default:
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("value '%s' is neither a number, nor [ranges], nor a {set}", value)
		}
		p.Type, p.Scalar = mesosv1.Value_SCALAR.Enum(), &mesosv1.Value_Scalar{Value: &v}
	}
	return p, nil
}

func parseRanges(value string) (*mesosv1.Value_Ranges, error) {
	if !strings.HasSuffix(value, "]") {
		return nil, errors.New("ranges end with ']'")
	}
	out := &mesosv1.Value_Ranges{}
	for item := range strings.SplitSeq(value[1:len(value)-1], ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		from, to, ok := strings.Cut(item, "-")
		begin, err := strconv.ParseUint(strings.TrimSpace(from), 10, 64)
		if err != nil || !ok {
			return nil, fmt.Errorf("range '%s' must be written first-last", item)
		}
		end, err := strconv.ParseUint(strings.TrimSpace(to), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("range '%s' must be written first-last", item)
		}
		if len(out.Range) >= maxRanges {
			return nil, fmt.Errorf("more than %d ranges", maxRanges)
		}
		out.Range = append(out.Range, &mesosv1.Value_Range{Begin: &begin, End: &end})
	}
	return out, nil
}

// MustParse is Parse for constants in tests and defaults; it panics on an error.
func MustParse(text string) Resources {
	r, err := Parse(text, AnyRole)
	if err != nil {
		panic(err)
	}
	return r
}
