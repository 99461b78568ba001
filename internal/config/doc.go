// Package config binds one struct per component to everything that can set it: command-line flags, environment
// variables, a YAML or JSON file, and defaults. The struct's tags are the only place where a setting is described; flags,
// `/flags`, `config check` and docs/reference are all derived from them.
//
//	type Config struct {
//		WorkDir     string        `flag:"work_dir" default:"/var/lib/mesos" help:"Where state is kept."`
//		PingTimeout time.Duration `flag:"agent_ping_timeout" alias:"slave_ping_timeout" default:"15secs" help:"…"`
//		Secret      string        `flag:"secret" secret:"true" env:"MY_SECRET" help:"…"`
//		HTTP        HTTPConfig    // its fields are bound as if they stood here
//	}
//
// Tags: flag (the name; without it the field is ignored unless it is a struct), default, help, alias (comma list of further
// names), short (one letter), env (comma list of further environment variables; "-" means none at all), secret ("true": never shown), deprecated
// (what to use instead; the value is still honoured unless the field is ignored), ignored (why it has no effect here).
//
// Types: string, bool, ints, uints, float64, time.Duration (Mesos' grammar `15secs` and Go's `15s`), Bytes (`2GB`), Path,
// []string (comma separated), map[string]string (`k=v,k=v` or a JSON object), JSON, and whatever implements
// encoding.TextUnmarshaler.
//
// Rules, as Mesos has them: `-` and `_` are the same in names; a value `file:///path` is replaced by that file's content
// (except for Path, which is stripped of the scheme); `--flag`, `--flag=false` and `--no-flag` for bools. Flag wins over
// environment, which wins over the file, which wins over the default. Unknown flags and keys are errors that name the
// nearest known one. Environment variables that match no setting are ignored, as in Mesos: they may belong to a task.
//
// Callers: internal/cli binds and loads; components only see the filled struct, and render Values for their /flags.
package config
