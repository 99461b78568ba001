package config

import (
	"errors"
	"fmt"
)

// Problems collects what is wrong with a configuration, so that Validate reports all of it at once.
type Problems []error

// Addf notes that the setting of that name is wrong, and what to do about it.
func (p *Problems) Addf(name, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...)))
}

// Check notes err, if there is one, under the setting's name.
func (p *Problems) Check(name string, err error) {
	if err != nil {
		*p = append(*p, fmt.Errorf("%s: %w", name, err))
	}
}

// Err is all problems joined, nil when there is none.
func (p Problems) Err() error { return errors.Join(p...) }
