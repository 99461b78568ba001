package spec

import (
	"strings"
	"testing"
)

// TestCompose is Mesos' whole table: shell, value, arguments x entry point, cmd.
func TestCompose(t *testing.T) {
	t.Parallel()
	roots := []Root{{}, {Cmd: []string{"c", "1"}}, {Entrypoint: []string{"e", "2"}}, {Entrypoint: []string{"e", "2"}, Cmd: []string{"c", "1"}}}
	for _, c := range []struct {
		shell bool
		value string
		args  []string
		want  [4]string // by root: program: argv; empty: an error
	}{
		{false, "", nil, [4]string{"", "c: c 1", "e: e 2", "e: e 2 c 1"}},
		{false, "", []string{"a"}, [4]string{"", "c: c a", "e: e 2 a", "e: e 2 a"}},
		{false, "v", nil, [4]string{"v: v", "v: v", "v: v", "v: v"}},
		{false, "v", []string{"x", "a"}, [4]string{"v: x a", "v: x a", "v: x a", "v: x a"}},
		{true, "", nil, [4]string{}},
		{true, "", []string{"a"}, [4]string{}},
		{true, "v w", nil, [4]string{"/bin/sh: sh -c v w", "/bin/sh: sh -c v w", "/bin/sh: sh -c v w", "/bin/sh: sh -c v w"}},
		{true, "v", []string{"a"}, [4]string{"/bin/sh: sh -c v", "/bin/sh: sh -c v", "/bin/sh: sh -c v", "/bin/sh: sh -c v"}},
	} {
		for i, r := range roots {
			path, argv, err := r.Compose(c.shell, c.value, c.args)
			got := path + ": " + strings.Join(argv, " ")
			if err != nil {
				got = ""
			}
			if got != c.want[i] {
				t.Errorf("shell=%v value=%q args=%q root=%+v: %q (%v), want %q", c.shell, c.value, c.args, r, got, err, c.want[i])
			}
		}
	}
}
