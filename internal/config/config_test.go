package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

type inner struct {
	Cache Bytes `flag:"cache_size" default:"2GB" help:"Size of the cache."`
}

type sample struct {
	WorkDir string            `flag:"work_dir" default:"/var/lib/x" help:"Where state is kept."`
	Ping    time.Duration     `flag:"agent_ping_timeout" alias:"slave_ping_timeout" default:"15secs" help:"Ping."`
	Offer   time.Duration     `flag:"offer_timeout" help:"Unset: no timeout."`
	Port    uint16            `flag:"port" default:"5050" help:"Port."`
	Limit   int               `flag:"limit" short:"l" default:"3" help:"Limit."`
	Rate    float64           `flag:"rate" default:"0.5" help:"Rate."`
	Strict  bool              `flag:"strict" default:"true" help:"Strict."`
	Verbose bool              `flag:"verbose" default:"false" help:"Verbose."`
	Roles   []string          `flag:"roles" help:"Roles."`
	Labels  map[string]string `flag:"labels" help:"Labels."`
	Secret  string            `flag:"secret" env:"THE_SECRET" secret:"true" help:"Secret."`
	Creds   Path              `flag:"credentials" help:"Credentials."`
	ACLs    JSON              `flag:"acls" help:"ACLs."`
	Quorum  int               `flag:"quorum" ignored:"the store needs no quorum" help:"Quorum."`
	NoEnv   string            `flag:"noenv" env:"-" help:"Not from the environment."`
	Inner   inner
	Plain   string // not bound
	bad     error
}

func (s *sample) Validate() error { return s.bad }

func load(t *testing.T, env map[string]string, args ...string) (*sample, *Set, error) {
	t.Helper()
	cfg := &sample{}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	set := Bind(fs, cfg, Options{EnvPrefix: []string{"MESOS_"}})
	if err := fs.Parse(args); err != nil {
		return cfg, set, Explain(fs, err)
	}
	err := set.Load(func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	return cfg, set, err
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	cfg, set, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &sample{WorkDir: "/var/lib/x", Ping: 15 * time.Second, Port: 5050, Limit: 3, Rate: 0.5, Strict: true, Inner: inner{2 * Gigabyte}}
	if d := cmp.Diff(want, cfg, cmp.AllowUnexported(sample{})); d != "" {
		t.Error(d)
	}
	values := map[string]string{
		"work_dir": "/var/lib/x", "agent_ping_timeout": "15secs", "port": "5050", "limit": "3", "rate": "0.5",
		"strict": "true", "verbose": "false", "cache_size": "2GB",
	}
	if d := cmp.Diff(values, set.Values()); d != "" {
		t.Errorf("values: %s", d)
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := write(t, "work-dir: /file\nagent_ping_timeout: 1mins\nport: 1\nroles: [a, b]\nacls: {permissive: false}\nrate: 2\nlabels: {k: v}\n")
	cfg, set, err := load(t, map[string]string{"MESOS_SLAVE_PING_TIMEOUT": "2mins", "MESOS_PORT": "2", "MESOS_NOENV": "x", "THE_SECRET": "s"},
		"--port=3", "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	want := &sample{
		WorkDir: "/file", Ping: 2 * time.Minute, Port: 3, Limit: 3, Rate: 2, Strict: true, Inner: inner{2 * Gigabyte},
		Roles: []string{"a", "b"}, ACLs: `{"permissive":false}`, Labels: map[string]string{"k": "v"}, Secret: "s",
	}
	if d := cmp.Diff(want, cfg, cmp.AllowUnexported(sample{})); d != "" {
		t.Error(d)
	}
	for name, source := range map[string]Source{
		"work_dir": FromFile, "slave_ping_timeout": FromEnvironment, "port": FromFlag, "limit": FromDefault, "offer-timeout": Unset,
	} {
		if got := set.Lookup(name).Source(); got != source {
			t.Errorf("%s comes from %s, want %s", name, got, source)
		}
	}
	if got := set.Values()["secret"]; got != redacted {
		t.Errorf("the secret is shown as %q", got)
	}
	if table := set.Table(); !strings.Contains(table, "environment  <redacted>") || strings.Contains(table, "offer_timeout") {
		t.Errorf("table:\n%s", table)
	}
}

func TestFlagForms(t *testing.T) {
	t.Parallel()
	secret := write(t, "from-file\n")
	cfg, set, err := load(t, nil, "--work-dir", "/a", "--slave_ping_timeout=250ms", "--no-strict", "--verbose", "--roles=a,b", "--roles", "c",
		"--secret=file://"+secret, "--credentials=file:///etc/creds", "--labels", "a=b,c=", "--quorum=1", "--cache_size=10MB", "-l", "7")
	if err != nil {
		t.Fatal(err)
	}
	want := &sample{
		WorkDir: "/a", Ping: 250 * time.Millisecond, Port: 5050, Limit: 7, Rate: 0.5, Verbose: true, Roles: []string{"a", "b", "c"},
		Secret: "from-file", Creds: "/etc/creds", Labels: map[string]string{"a": "b", "c": ""}, Quorum: 1, Inner: inner{10 * Megabyte},
	}
	if d := cmp.Diff(want, cfg, cmp.AllowUnexported(sample{})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"--quorum has no effect here: the store needs no quorum"}, set.Notices()); d != "" {
		t.Error(d)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		want string
	}{
		"unknown flag":      {args: []string{"--wor_dir=/x"}, want: `did you mean "work_dir"?`},
		"unknown key":       {args: []string{"--config", write(t, "prot: 1")}, want: `unknown key "prot" (did you mean "port"?)`},
		"no suggestion":     {args: []string{"--config", write(t, "zzzzzzzz: 1")}, want: `unknown key "zzzzzzzz"`},
		"key twice":         {args: []string{"--config", write(t, "work-dir: a\nwork_dir: b")}, want: "which another key has set"},
		"null":              {args: []string{"--config", write(t, "port: ")}, want: "has no value"},
		"not yaml":          {args: []string{"--config", write(t, "{")}, want: "config: "},
		"missing file":      {args: []string{"--config", "/nonexistent"}, want: "no such file"},
		"missing value":     {args: []string{"--secret=file:///nonexistent"}, want: "reading the value"},
		"duration":          {args: []string{"--offer_timeout=5"}, want: "15secs"},
		"size":              {env: map[string]string{"MESOS_CACHE_SIZE": "5"}, want: "MESOS_CACHE_SIZE"},
		"port":              {args: []string{"--port=65536"}, want: "from 0 to 65535"},
		"bool":              {args: []string{"--strict=maybe"}, want: "write true or false"},
		"number":            {args: []string{"--rate=NaN"}, want: "finite"},
		"json":              {args: []string{"--acls={"}, want: "not valid JSON"},
		"map":               {args: []string{"--labels=x"}, want: "not key=value"},
		"two at once":       {env: map[string]string{"MESOS_PORT": "x", "MESOS_LIMIT": "y"}, want: "limit (environment variable MESOS_LIMIT)"},
		"file of wrong num": {args: []string{"--config", write(t, "limit: [1]")}, want: "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := load(t, c.env, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}

func TestValidateIsCalled(t *testing.T) {
	t.Parallel()
	var p Problems
	p.Addf("port", "%d is taken", 1)
	p.Check("zk", nil)
	p.Check("ip", errors.New("not an address"))
	cfg := &sample{bad: p.Err()}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	err := Bind(fs, cfg, Options{}).Load(os.LookupEnv)
	if err == nil || err.Error() != "port: 1 is taken\nip: not an address" {
		t.Error(err)
	}
}

func TestHyphens(t *testing.T) {
	t.Parallel()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg := &sample{}
	Bind(fs, cfg, Options{Hyphens: true})
	if err := fs.Parse([]string{"--work_dir=/x", "--no_strict"}); err != nil || cfg.WorkDir != "/x" || cfg.Strict {
		t.Error(err, cfg)
	}
	if usage := fs.FlagUsages(); !strings.Contains(usage, "--work-dir") || strings.Contains(usage, "--no-strict") || strings.Contains(usage, "--quorum") {
		t.Error(usage)
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	ref := Reference(&sample{}, Options{EnvPrefix: []string{"MESOS_"}})
	for _, want := range []string{
		"| `--agent_ping_timeout`, `--slave_ping_timeout` | duration | `15secs` | `MESOS_AGENT_PING_TIMEOUT`, `MESOS_SLAVE_PING_TIMEOUT` | Ping. |\n",
		"| `--noenv` | string | – |  | Not from the environment. |\n",
		"Has no effect here: the store needs no quorum",
	} {
		if !strings.Contains(ref, want) {
			t.Errorf("reference lacks %q:\n%s", want, ref)
		}
	}
}

func TestWrongTagsPanic(t *testing.T) {
	t.Parallel()
	for _, cfg := range []any{
		sample{},
		&struct {
			A chan int `flag:"a" help:"x"`
		}{},
		&struct {
			A string `flag:"a"`
		}{},
		&struct {
			A int `flag:"a" default:"x" help:"x"`
		}{},
		&struct {
			A string `flag:"a_b" help:"x"`
			B string `flag:"a-b" help:"x"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T was bound", cfg)
				}
			}()
			Bind(pflag.NewFlagSet("", pflag.ContinueOnError), cfg, Options{})
		}()
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"5secs": 5 * time.Second, "15mins": 15 * time.Minute, "2hrs": 2 * time.Hour, "10days": 240 * time.Hour, "1weeks": 168 * time.Hour,
		"1.5secs": 1500 * time.Millisecond, "250ms": 250 * time.Millisecond, "7us": 7 * time.Microsecond, "9ns": 9, "1m30s": 90 * time.Second,
		"-3secs": -3 * time.Second, "0ns": 0, " 1 secs ": time.Second,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "secs", "5 parsecs", "NaNsecs", "1e300weeks", "Infsecs", "--1secs"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
	for d, want := range map[time.Duration]string{
		5 * time.Second: "5secs", time.Minute: "1mins", 90 * time.Second: "90secs", 240 * time.Hour: "10days", 1500 * time.Millisecond: "1500ms",
		0: "0ns", -time.Second: "-1secs", 1234567 * time.Nanosecond: "1.234567ms", 168 * time.Hour: "1weeks",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestTextRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "d"))
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%v -> %q -> %v, %v", d, FormatDuration(d), got, err)
		}
		b := Bytes(rapid.Uint64().Draw(t, "b"))
		if got, err := ParseBytes(b.String()); err != nil || got != b {
			t.Fatalf("%d -> %q -> %v, %v", b, b, got, err)
		}
	})
}

func FuzzUnits(f *testing.F) {
	f.Add("5secs")
	f.Add("2GB")
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := ParseBytes(s); err == nil {
			if again, err := ParseBytes(b.String()); err != nil || again != b {
				t.Fatalf("%q: %d, then %d, %v", s, b, again, err)
			}
		}
		_, _ = ParseDuration(s)
	})
}

// FuzzFile reads settings from a file that anything may have written.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{"port: 1", "{\"port\": 5, \"list\": [1, 2]}", "a: &a [*a]", "work-dir: a\nwork_dir: b", "x: !!binary ????", "? [a]\n: b", "[[[[", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "settings.yaml")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var cfg sample
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		set := Bind(fs, &cfg, Options{})
		if err := fs.Parse([]string{"--config", path}); err != nil {
			t.Fatal(err)
		}
		_ = set.Load(func(string) (string, bool) { return "", false })
	})
}
