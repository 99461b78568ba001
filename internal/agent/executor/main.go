package executor

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/agent/supervisor"
)

// Requested reports whether a command line (without the program's name) asks for the helper.
func Requested(args []string) bool {
	return len(args) == 2 && (args[0] == spec.Subcommand || args[0] == supervisor.ExecSubcommand)
}

// Main is the helper: it gives the exit code of the process.
func Main(args []string) int {
	if !Requested(args) {
		fmt.Fprintln(os.Stderr, "This program stands beside a container of `orchestrator agent`, which starts it; it is of no use by hand.")
		return 2
	}
	if args[0] == supervisor.ExecSubcommand {
		err := supervisor.Exec(args[1])
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	// A helper is idle nearly all its life: memory is worth more than time.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	if err := run(args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(dir string) error {
	c, err := supervisor.Open(dir)
	if err != nil {
		return err
	}
	if c.Spec.Docker != nil {
		return runDocker(c)
	}
	switch c.Spec.Mode {
	case spec.Supervise:
		return supervise(c)
	case spec.Command, spec.Default:
		if c.Spec.Link == nil {
			err := fmt.Errorf("%s: an executor without a link to the agent", c.Spec.ContainerID)
			c.Started(0, err)
			return err
		}
		return execute(c)
	default:
		err := fmt.Errorf("unknown mode %q", c.Spec.Mode)
		c.Started(0, err)
		return err
	}
}

// supervise starts one process and holds its end.
func supervise(c *supervisor.Container) error {
	proc, err := c.Start(&c.Spec.Process)
	if err != nil {
		c.Output.Complain("%v", err)
		c.Started(0, err)
		return err
	}
	c.Started(proc.PID, nil)
	var ws syscall.WaitStatus
	select {
	case ws = <-proc.Done:
	case <-c.Killed:
		c.KillAll()
		ws = <-proc.Done
	}
	c.Ended()
	c.KillAll() // a container ends with its first process
	return c.Finish(&ws)
}

// execute runs one of the built-in executors.
func execute(c *supervisor.Container) error {
	d := newDriver(c.Spec, c.Spec.Mode == spec.Command)
	var o *own
	if c.Spec.Mode == spec.Command {
		o = &own{c: c, d: d}
		d.back = o
	} else {
		d.back = newNested(d, c.Spec, c.Output.Sandbox())
	}
	c.Started(os.Getpid(), nil)
	d.run(context.Background(), c.Killed)
	c.KillAll()
	// The executor itself did what it had to: what became of its tasks has been said in updates.
	ws := syscall.WaitStatus(0)
	return c.Finish(&ws)
}
