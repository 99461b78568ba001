package dockertest

import (
	"fmt"
	"os"
	"path/filepath"
)

// HeldRuntime is the name of a runtime that every Engine has beside its own: runc, which stands still when it has done what Hold
// names, until Release. What the Engine and its containerd make of a moment in the middle of a start is seen that way.
const HeldRuntime = "held"

// script is that runtime. It also goes on when the Engine's directory goes.
const script = `#!/bin/sh
dir=%q
for verb; do case $verb in create|start|kill|delete) break;; esac; done
hold=$(cat "$dir/hold" 2>/dev/null)
runc "$@"
code=$?
if [ "$verb" = "$hold" ]; then
	: >"$dir/held"
	while [ -e "$dir/hold" ]; do sleep 0.02; done
fi
exit $code
`

// heldRuntime writes the script and gives its path.
func (e *Engine) heldRuntime() string {
	e.t.Helper()
	path := filepath.Join(e.dir, "runtime")
	if err := os.WriteFile(path, fmt.Appendf(nil, script, e.dir), 0o755); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// Hold makes the held runtime stand still after the next call of this kind: create, start, kill or delete.
func (e *Engine) Hold(verb string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, "hold"), []byte(verb), 0o644); err != nil {
		e.t.Fatal(err)
	}
}

// WaitHeld waits until the runtime stands still.
func (e *Engine) WaitHeld() {
	e.t.Helper()
	e.waitFor("the held runtime", func() bool { _, err := os.Stat(filepath.Join(e.dir, "held")); return err == nil })
}

// Release lets the held runtime go on.
func (e *Engine) Release() {
	for _, name := range []string{"hold", "held"} {
		_ = os.Remove(filepath.Join(e.dir, name))
	}
}
