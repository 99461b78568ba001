package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// readConfig reads --config into the text of each setting. Keys are flag names; a value may be a scalar, a list (comma
// joined), or an object for settings that are maps or JSON.
func (s *Set) readConfig() (map[*Setting]string, error) {
	if s.file == "" {
		return nil, nil
	}
	data, err := readFile(s.file)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil { // JSON is YAML
		return nil, fmt.Errorf("config: %s: %w", s.file, err)
	}
	keys := make([]string, 0, len(doc))
	for k := range doc {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := map[*Setting]string{}
	var problems []error
	for _, k := range keys {
		st := s.names[canonical(k)]
		if st == nil {
			problems = append(problems, fmt.Errorf("%s: unknown key %q%s", s.file, k, didYouMean(k, s.allNames())))
			continue
		}
		if _, twice := out[st]; twice {
			problems = append(problems, fmt.Errorf("%s: %q sets %s, which another key has set", s.file, k, st.Name))
			continue
		}
		text, err := fileText(doc[k], st)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: %w", s.file, k, err))
			continue
		}
		out[st] = text
	}
	return out, errors.Join(problems...)
}

func fileText(v any, st *Setting) (string, error) {
	switch x := v.(type) {
	case nil:
		return "", errors.New("has no value; leave the key out to keep the default")
	case string:
		return x, nil
	case bool:
		return strconv.FormatBool(x), nil
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64), nil
	case []any:
		if st.Type != "list" {
			break
		}
		items := make([]string, len(x))
		for i, e := range x {
			text, err := fileText(e, st)
			if err != nil {
				return "", fmt.Errorf("item %d: %w", i, err)
			}
			items[i] = text
		}
		return strings.Join(items, ","), nil
	case map[string]any:
	default:
		return fmt.Sprint(x), nil // the integer types
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("cannot be written as JSON: %w", err)
	}
	return string(text), nil
}

func (s *Set) allNames() []string {
	names := make([]string, 0, len(s.Settings))
	for _, st := range s.Settings {
		names = append(names, st.Name)
		names = append(names, st.Aliases...)
	}
	return names
}
