package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Reference renders the settings of cfg as a Markdown table, sorted by name, for docs/reference.
func Reference(cfg any, opts Options) string {
	s := Bind(pflag.NewFlagSet("", pflag.ContinueOnError), cfg, opts)
	settings := slices.Clone(s.Settings)
	slices.SortFunc(settings, func(a, b *Setting) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	b.WriteString("| flag | type | default | environment | what it does |\n|---|---|---|---|---|\n")
	for _, st := range settings {
		def := "–"
		if st.HasDefault {
			def = "`" + st.Default + "`"
			if st.Default == "" {
				def = "empty"
			}
		}
		env := make([]string, len(st.Env))
		for i, e := range st.Env {
			env[i] = "`" + e + "`"
		}
		name := "`--" + s.shown(st.Name) + "`"
		for _, a := range st.Aliases {
			name += ", `--" + s.shown(a) + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, st.Type, cell(def), strings.Join(env, ", "), cell(st.usage()))
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

// Table renders the effective values and who set each of them, for `config check`.
func (s *Set) Table() string {
	settings := slices.Clone(s.Settings)
	slices.SortFunc(settings, func(a, b *Setting) int { return strings.Compare(a.Name, b.Name) })
	width := 0
	for _, st := range settings {
		width = max(width, len(st.Name))
	}
	var b strings.Builder
	for _, st := range settings {
		if st.source != Unset {
			fmt.Fprintf(&b, "%-*s  %-11s  %s\n", width, st.Name, st.source, st.Text())
		}
	}
	return b.String()
}
