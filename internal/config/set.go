package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Source says who set a value.
type Source string

// Sources, weakest first. Unset means that there is no default either: the field holds its zero value.
const (
	Unset           Source = "unset"
	FromDefault     Source = "default"
	FromFile        Source = "file"
	FromEnvironment Source = "environment"
	FromFlag        Source = "flag"
)

// redacted stands for the value of a secret.
const redacted = "<redacted>"

// Options say how a component's names look.
type Options struct {
	// EnvPrefix precedes the upper-case flag name in the environment: "MESOS_" gives MESOS_WORK_DIR. Several are tried in
	// order. None: the environment is read only for env tags.
	EnvPrefix []string
	// Hyphens shows names as `--data-dir` rather than `--data_dir`. Both are always accepted.
	Hyphens bool
	// NoFile leaves out --config.
	NoFile bool
}

// Setting is one field of a bound struct.
type Setting struct {
	Name       string // as in the flag tag
	Type       string
	Help       string
	Default    string
	HasDefault bool
	Aliases    []string
	Env        []string // variables that set it, first wins
	Secret     bool
	Deprecated string
	Ignored    string
	Short      string // one letter for the command line
	Group      string // the name of the struct that it stands in, for the reference

	value  reflect.Value
	source Source
	text   string // what was given, for flags that repeat
}

// Source says who set the value.
func (st *Setting) Source() Source { return st.source }

// Text is the effective value as text; secrets are redacted.
func (st *Setting) Text() string {
	if st.Secret && !st.value.IsZero() {
		return redacted
	}
	return format(st.value)
}

// Set is a struct bound to a flag set. It is used by one goroutine.
type Set struct {
	Settings []*Setting
	opts     Options
	file     string
	cfg      any
	names    map[string]*Setting
}

// Validator is what a configuration implements to be checked after loading. All problems are joined, each begins with the
// name of the setting.
type Validator interface{ Validate() error }

// Bind declares every tagged field of cfg, a pointer to a struct, on fs and sets it to its default. A wrong tag is a
// programmer's error and panics: binding any configuration once in a test proves its tags.
func Bind(fs *pflag.FlagSet, cfg any, opts Options) *Set {
	s := &Set{opts: opts, cfg: cfg, names: map[string]*Setting{}}
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: %T is not a pointer to a struct", cfg))
	}
	s.collect(v.Elem(), "")
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(s.shown(name))
	})
	for _, f := range s.Settings {
		s.declare(fs, f)
	}
	if !opts.NoFile {
		fs.StringVar(&s.file, "config", "", "Read settings from this YAML or JSON file; flags and environment win over it.")
	}
	return s
}

// canonical is the name under which a setting is looked up.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func (s *Set) shown(name string) string {
	if s.opts.Hyphens {
		return strings.ReplaceAll(name, "_", "-")
	}
	return canonical(name)
}

func (s *Set) collect(v reflect.Value, group string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, tagged := f.Tag.Lookup("flag")
		if !tagged {
			if f.Type.Kind() == reflect.Struct && f.IsExported() && !isLeaf(f.Type) {
				g := group
				if !f.Anonymous {
					g = f.Name
				}
				s.collect(v.Field(i), g)
			}
			continue
		}
		if name == "" || !f.IsExported() || !isLeaf(f.Type) {
			panic(fmt.Sprintf("config: %s.%s: cannot bind flag %q of type %s", v.Type(), f.Name, name, f.Type))
		}
		st := &Setting{
			Name: name, Type: typeName(f.Type), Help: f.Tag.Get("help"), Secret: f.Tag.Get("secret") == "true",
			Deprecated: f.Tag.Get("deprecated"), Ignored: f.Tag.Get("ignored"), Group: group, Short: f.Tag.Get("short"),
			value: v.Field(i), source: Unset,
		}
		st.Aliases = splitTag(f.Tag.Get("alias"))
		env := splitTag(f.Tag.Get("env"))
		if !slices.Contains(env, "-") {
			for _, p := range s.opts.EnvPrefix {
				for _, n := range append([]string{name}, st.Aliases...) {
					st.Env = append(st.Env, p+strings.ToUpper(canonical(n)))
				}
			}
			st.Env = append(st.Env, env...)
		}
		if st.Help == "" {
			panic(fmt.Sprintf("config: %s.%s has no help", v.Type(), f.Name))
		}
		if st.Default, st.HasDefault = f.Tag.Lookup("default"); st.HasDefault {
			if err := parse(st.value, st.Default); err != nil {
				panic(fmt.Sprintf("config: %s.%s: default: %v", v.Type(), f.Name, err))
			}
			st.source = FromDefault
		}
		for _, n := range append([]string{name}, st.Aliases...) {
			if s.names[canonical(n)] != nil {
				panic(fmt.Sprintf("config: %s.%s: %q is bound twice", v.Type(), f.Name, n))
			}
			s.names[canonical(n)] = st
		}
		s.Settings = append(s.Settings, st)
	}
}

func splitTag(tag string) []string {
	if tag == "" {
		return nil
	}
	return strings.Split(tag, ",")
}

// declare puts the setting, its aliases and for bools its negations on fs.
func (s *Set) declare(fs *pflag.FlagSet, st *Setting) {
	for i, name := range append([]string{st.Name}, st.Aliases...) {
		short := st.Short
		if i > 0 {
			short = ""
		}
		f := fs.VarPF(&flagValue{st: st}, name, short, st.usage())
		f.Hidden = i > 0 || st.Ignored != ""
		if st.HasDefault {
			f.DefValue = st.Default
		}
		if st.value.Kind() == reflect.Bool {
			f.NoOptDefVal = "true"
			no := fs.VarPF(&flagValue{st: st, negate: true}, "no-"+name, "", "The same as --"+name+"=false.")
			no.NoOptDefVal = "true"
			no.Hidden = true
		}
	}
}

func (st *Setting) usage() string {
	help := st.Help
	if st.Deprecated != "" {
		help += " Deprecated: " + st.Deprecated
	}
	if st.Ignored != "" {
		help += " Has no effect here: " + st.Ignored
	}
	return help
}

// set gives the setting a value from text, reading a `file://` value first.
func (st *Setting) set(text string, from Source) error {
	resolved, err := resolve(text, st.value.Type())
	if err != nil {
		return err
	}
	if err := parse(st.value, resolved); err != nil {
		return err
	}
	st.source = from
	return nil
}

// resolve replaces a `file://` value by the content of the file.
func resolve(text string, t reflect.Type) (string, error) {
	path, ok := strings.CutPrefix(text, "file://")
	if !ok {
		return text, nil
	}
	if t == pathType {
		return path, nil
	}
	data, err := readFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the value: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %s", path, Bytes(maxFile))
	}
	return data, nil
}

// Load completes the settings that no flag gave from the environment (as os.LookupEnv) and from --config, then validates.
// It returns all problems joined. Call it after the flags were parsed.
func (s *Set) Load(lookup func(string) (string, bool)) error {
	var problems []error
	file, err := s.readConfig()
	if err != nil {
		problems = append(problems, err)
	}
	for _, st := range s.Settings {
		if st.source == FromFlag {
			continue
		}
		if name, text, ok := st.fromEnv(lookup); ok {
			if err := st.set(text, FromEnvironment); err != nil {
				problems = append(problems, fmt.Errorf("%s (environment variable %s): %w", st.Name, name, err))
			}
			continue
		}
		if text, ok := file[st]; ok {
			if err := st.set(text, FromFile); err != nil {
				problems = append(problems, fmt.Errorf("%s (in %s): %w", st.Name, s.file, err))
			}
		}
	}
	if len(problems) == 0 {
		if v, ok := s.cfg.(Validator); ok {
			if err := v.Validate(); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return errors.Join(problems...)
}

func (st *Setting) fromEnv(lookup func(string) (string, bool)) (name, text string, ok bool) {
	for _, name := range st.Env {
		if text, ok := lookup(name); ok {
			return name, text, true
		}
	}
	return "", "", false
}

// Values are the effective values of all settings that have one, by name, as Mesos' /flags shows them.
func (s *Set) Values() map[string]string {
	out := make(map[string]string, len(s.Settings))
	for _, st := range s.Settings {
		if st.source != Unset {
			out[st.Name] = st.Text()
		}
	}
	return out
}

// Lookup finds a setting by any of its names, nil when there is none.
func (s *Set) Lookup(name string) *Setting { return s.names[canonical(name)] }

// Notices are sentences about settings that were given though they are deprecated or have no effect here.
func (s *Set) Notices() []string {
	var out []string
	for _, st := range s.Settings {
		if st.source == Unset || st.source == FromDefault {
			continue
		}
		if st.Deprecated != "" {
			out = append(out, fmt.Sprintf("--%s is deprecated: %s", st.Name, st.Deprecated))
		}
		if st.Ignored != "" {
			out = append(out, fmt.Sprintf("--%s has no effect here: %s", st.Name, st.Ignored))
		}
	}
	return out
}

// flagValue is a setting as pflag sees it.
type flagValue struct {
	st     *Setting
	negate bool
}

// String implements pflag.Value.
func (f *flagValue) String() string {
	if f == nil || f.st == nil || !f.st.value.IsValid() {
		return ""
	}
	return f.st.Text()
}

// Type implements pflag.Value.
func (f *flagValue) Type() string { return f.st.Type }

// Set implements pflag.Value. Lists grow when the flag is repeated; of anything else the last one counts.
func (f *flagValue) Set(text string) error {
	if f.negate {
		switch text {
		case "true":
			text = "false"
		case "false":
			text = "true"
		}
	}
	if k := f.st.value.Kind(); f.st.source == FromFlag && k == reflect.Slice && f.st.Type == "list" {
		text = f.st.text + "," + text
	}
	if err := f.st.set(text, FromFlag); err != nil {
		return err
	}
	f.st.text = text
	return nil
}
