package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/orchestrator/orchestrator/internal/agent/osthread"
)

// maxOutput bounds what a plugin may say.
const maxOutput = 1 << 20

// runner executes plugins, each in a process group of its own that is killed as a whole when its time is over.
type runner struct {
	version.PluginDecoder
	// dies: the plugin is killed with the agent, because what it adds later would undo what the next agent process cleans up.
	// One that deletes is let go on: cut off half-way it may leave what no later deletion finds any more (the bridge plugin's
	// packet filter rules, once it has removed the interface whose addresses it looks them up by).
	dies bool
	mark string // "NAME=value" in the environment of plugins that die, and of what they start
}

var _ invoke.Exec = (*runner)(nil)

// FindInPath implements invoke.Exec.
func (r *runner) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec.
func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var out, errs limited
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = environ
	if r.dies && r.mark != "" {
		cmd.Env = append(cmd.Env, r.mark)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if r.dies {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var err error
	// The signal at the agent's death comes when the thread that started the plugin ends: it must live as long.
	osthread.Run(func() { err = cmd.Run() })
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it did not end in time and was killed: %w", ctx.Err())
	case err == nil && out.over:
		return nil, fmt.Errorf("it said more than %d bytes", maxOutput)
	case err != nil:
		return nil, pluginError(err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes(), nil
}

// pluginError takes a plugin's own words where it has any.
func pluginError(err error, out, errs []byte) error {
	var e types.Error
	if json.Unmarshal(out, &e) == nil && e.Msg != "" {
		return &e
	}
	for _, said := range [][]byte{errs, out} {
		if text := strings.TrimSpace(string(said)); text != "" {
			return fmt.Errorf("%w: %s", err, text[:min(len(text), 2000)])
		}
	}
	return err
}

// limited keeps the beginning of what is written.
type limited struct {
	bytes.Buffer
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); len(p) > room {
		l.over = true
		l.Buffer.Write(p[:room])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// checkPlugins says which plugins of a list can't be found.
func (n *Networks) checkPlugin(kind string) error {
	if _, err := invoke.FindInPath(kind, n.cfg.PluginDirs); err != nil {
		var perr *os.PathError
		if errors.As(err, &perr) {
			return err
		}
		return fmt.Errorf("plugin %q is not in %s", kind, strings.Join(n.cfg.PluginDirs, ":"))
	}
	return nil
}
