package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/wire"
)

func newTaskExecCommand() *cobra.Command {
	var interactive, tty bool
	conn, runE := withCluster(func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error {
		p, err := c.place(ctx, args[0])
		if err != nil {
			return err
		}
		if p.container == nil || p.task.GetState().String() != "TASK_RUNNING" {
			return fmt.Errorf("task %s is %s, not running", p.task.GetTaskId().GetValue(), taskState(p.task.GetState()))
		}
		s := &execSession{c: c, p: p, in: cmd.InOrStdin(), out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), interactive: interactive || tty, tty: tty}
		return s.run(ctx, programOf(args))
	})
	cmd := &cobra.Command{
		Use: "exec [flags] TASK [--] PROGRAM [ARG…]", Short: "Run a program beside a task, in its container", RunE: runE,
		Example: "  orchestrator task exec web.1 -- ps aux\n  orchestrator task exec -it web.1 -- bash",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usagef("name a task and the program to run beside it")
			case len(programOf(args)) == 0:
				return usagef("name the program to run beside %s, such as: orchestrator task exec -it %s -- sh", printable(args[0]), printable(args[0]))
			}
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	conn.bind(cmd)
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "Send what is typed here to it.")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "Give it a terminal.")
	return cmd
}

// programOf is what to run of the arguments TASK [--] PROGRAM [ARG…]. Flags end at the task, so the dashes that people are used to
// write there arrive as an argument.
func programOf(args []string) []string {
	args = args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	return args
}

// execSession is one program in a task's container.
type execSession struct {
	c                *cluster
	p                *place
	in               io.Reader
	out, err         io.Writer
	interactive, tty bool
	id               *mesosv1.ContainerID
}

func (s *execSession) client(timeout time.Duration) (*wire.Client, string, error) {
	_, address, _ := strings.Cut(s.p.agent.GetPid(), "@")
	client, err := wire.NewClient(wire.ClientConfig{
		Masters: []string{address}, Path: "/api/v1", ContentType: wire.Protobuf, Principal: s.c.Principal, Secret: s.c.Secret, CallTimeout: timeout,
	})
	return client, address, err
}

func (s *execSession) run(ctx context.Context, args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, address, err := s.client(s.c.Timeout)
	if err != nil {
		return err
	}
	defer client.Close()
	s.id = &mesosv1.ContainerID{Value: proto.String(uuid.NewString()), Parent: s.p.container}
	call := &agentv1.Call{
		Type: agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(),
		LaunchNestedContainerSession: &agentv1.Call_LaunchNestedContainerSession{
			ContainerId: s.id, Command: &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String(args[0]), Arguments: args},
		},
	}
	if s.tty {
		info := &mesosv1.TTYInfo{}
		if w, h, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
			info.WindowSize = &mesosv1.TTYInfo_WindowSize{Rows: proto.Uint32(uint32(h)), Columns: proto.Uint32(uint32(w))}
		}
		call.LaunchNestedContainerSession.Container = &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: info}
	}
	session, err := client.Open(ctx, call)
	if err != nil {
		return fmt.Errorf("node %s: %w", s.p.agent.GetAgentInfo().GetHostname(), err)
	}
	defer session.Close()
	waited := make(chan exitResult, 1)
	go s.wait(ctx, waited)
	if s.interactive {
		restore, err := s.raw()
		if err != nil {
			return err
		}
		defer restore()
		go func() {
			if err := s.input(ctx, address); err != nil && ctx.Err() == nil {
				fmt.Fprintf(s.err, "input is lost: %v\r\n", err)
			}
		}()
	}
	var event agentv1.ProcessIO
	for {
		err := session.Next(&event)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the session was lost: %w", err)
		}
		if event.GetType() != agentv1.ProcessIO_DATA {
			continue
		}
		out := s.out
		if event.GetData().GetType() == agentv1.ProcessIO_Data_STDERR {
			out = s.err
		}
		if _, err := out.Write(event.GetData().GetData()); err != nil {
			return err
		}
	}
	select {
	case r := <-waited:
		return r.error()
	case <-time.After(s.c.Timeout):
		return errors.New("the program has ended, but the node does not say how")
	}
}

// exitResult is how a container ended.
type exitResult struct {
	status int32
	known  bool
	err    error
}

func (r exitResult) error() error {
	ws := syscall.WaitStatus(uint32(r.status))
	switch {
	case r.err != nil:
		return fmt.Errorf("the program's exit code is not known: %w", r.err)
	case !r.known || ws.Exited() && ws.ExitStatus() == 0:
		return nil
	case ws.Exited():
		return exitCode(ws.ExitStatus())
	}
	return exitCode(128 + int(ws.Signal()))
}

// wait asks how the program ends. The node answers when it has.
func (s *execSession) wait(ctx context.Context, out chan<- exitResult) {
	const forever = 365 * 24 * time.Hour
	client, _, err := s.client(forever)
	if err != nil {
		out <- exitResult{err: err}
		return
	}
	defer client.Close()
	answer := &agentv1.Response{}
	err = client.Do(ctx, &agentv1.Call{Type: agentv1.Call_WAIT_CONTAINER.Enum(), WaitContainer: &agentv1.Call_WaitContainer{ContainerId: s.id}}, answer)
	w := answer.GetWaitContainer()
	out <- exitResult{status: w.GetExitStatus(), known: w != nil && w.ExitStatus != nil, err: err}
}

// raw hands the terminal over to the program: what is typed goes there as it is.
func (s *execSession) raw() (restore func(), err error) {
	f, ok := s.in.(*os.File)
	if !s.tty || !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), old) }, nil
}

// input sends what is typed, and the size of the terminal when it changes.
func (s *execSession) input(ctx context.Context, address string) error {
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/api/v1", pr)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", wire.MediaRecordIO)
	req.Header.Set("Message-Content-Type", wire.MediaProtobuf)
	req.Header.Set("Accept", wire.MediaProtobuf)
	if s.c.Principal != "" {
		req.SetBasicAuth(s.c.Principal, s.c.Secret)
	}
	records := make(chan *agentv1.Call, 16)
	go func() {
		defer close(records)
		s.read(ctx, records)
	}()
	go func() {
		send := func(call *agentv1.Call) bool {
			body, err := call.MarshalVT()
			if err == nil {
				_, err = pw.Write(wire.AppendRecord(nil, body))
			}
			return err == nil
		}
		if !send(attachInput(&agentv1.Call_AttachContainerInput{Type: agentv1.Call_AttachContainerInput_CONTAINER_ID.Enum(), ContainerId: s.id})) {
			return
		}
		for r := range records {
			if !send(r) {
				return
			}
		}
		pw.Close()
	}()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("%s: %s", resp.Status, printable(string(text)))
	}
	return nil
}

func attachInput(m *agentv1.Call_AttachContainerInput) *agentv1.Call {
	return &agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_INPUT.Enum(), AttachContainerInput: m}
}

func processIO(io *agentv1.ProcessIO) *agentv1.Call {
	return attachInput(&agentv1.Call_AttachContainerInput{Type: agentv1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: io})
}

// read turns what is typed into records until the end of the input or of ctx.
func (s *execSession) read(ctx context.Context, out chan<- *agentv1.Call) {
	typed := make(chan []byte)
	go func() { // ends with the process: a read of a terminal can't be called off
		defer close(typed)
		for {
			buf := make([]byte, 4096)
			n, err := s.in.Read(buf)
			if n > 0 {
				select {
				case typed <- buf[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	resized := make(chan os.Signal, 1)
	if s.tty {
		signal.Notify(resized, syscall.SIGWINCH)
		defer signal.Stop(resized)
	}
	send := func(io *agentv1.ProcessIO) bool {
		select {
		case out <- processIO(io):
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case data, more := <-typed:
			if !send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{
				Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: append([]byte{}, data...), // empty: the end of the input
			}}) || !more {
				return
			}
		case <-resized:
			w, h, err := term.GetSize(int(os.Stdout.Fd()))
			if err == nil && !send(&agentv1.ProcessIO{Type: agentv1.ProcessIO_CONTROL.Enum(), Control: &agentv1.ProcessIO_Control{
				Type: agentv1.ProcessIO_Control_TTY_INFO.Enum(), TtyInfo: &mesosv1.TTYInfo{
					WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: proto.Uint32(uint32(h)), Columns: proto.Uint32(uint32(w))},
				},
			}}) {
				return
			}
		}
	}
}
