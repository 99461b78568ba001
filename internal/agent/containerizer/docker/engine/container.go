package engine

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"
)

// State is what the Engine says of a container.
type State struct {
	ID    string `json:"Id"`
	State struct {
		Status    string
		Running   bool
		OOMKilled bool
		Pid       int
		ExitCode  int
		Error     string
	}
	Config struct {
		StopSignal string
		Tty        bool
		OpenStdin  bool
	}
	NetworkSettings struct {
		IPAddress         string
		GlobalIPv6Address string
		Networks          map[string]struct {
			IPAddress         string
			GlobalIPv6Address string
		}
	}
}

// Inspect asks for a container's state; raw is the whole answer.
func (c *Client) Inspect(ctx context.Context, name string) (s *State, raw json.RawMessage, err error) {
	if err := c.Call(ctx, "GET", "/containers/"+url.PathEscape(name)+"/json", nil, &raw); err != nil {
		return nil, nil, err
	}
	s = new(State)
	return s, raw, json.Unmarshal(raw, s)
}

// Attach connects to a container's input and output, from now on.
func (c *Client) Attach(ctx context.Context, name string, stdin bool) (*Stream, error) {
	q := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}}
	if stdin {
		q.Set("stdin", "1")
	}
	return c.Open(ctx, "POST", "/containers/"+url.PathEscape(name)+"/attach?"+q.Encode(), nil, true)
}

// Logs follows what a container has written since a moment. Each frame begins with its time.
func (c *Client) Logs(ctx context.Context, name string, since time.Time) (*Stream, error) {
	q := url.Values{
		"follow": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "timestamps": {"1"},
		"since": {strconv.FormatInt(since.Unix(), 10) + "." + pad(since.Nanosecond())},
	}
	return c.Open(ctx, "GET", "/containers/"+url.PathEscape(name)+"/logs?"+q.Encode(), nil, false)
}

func pad(ns int) string {
	s := strconv.Itoa(ns)
	for len(s) < 9 {
		s = "0" + s
	}
	return s
}

// Start starts a container.
func (c *Client) Start(ctx context.Context, name string) error {
	return c.Call(ctx, "POST", "/containers/"+url.PathEscape(name)+"/start", nil, nil)
}

// Wait returns a container's exit code when it does not run any more.
func (c *Client) Wait(ctx context.Context, name string) (int, error) {
	var out struct {
		StatusCode *int
	}
	if err := c.Call(ctx, "POST", "/containers/"+url.PathEscape(name)+"/wait", nil, &out); err != nil {
		return 0, err
	}
	if out.StatusCode == nil {
		return 0, &Error{Status: 500, Message: "Docker ended the wait without an exit code"}
	}
	return *out.StatusCode, nil
}

// Kill sends a signal, by name or number, to a container's first process.
func (c *Client) Kill(ctx context.Context, name, signal string) error {
	return c.Call(ctx, "POST", "/containers/"+url.PathEscape(name)+"/kill?"+url.Values{"signal": {signal}}.Encode(), nil, nil)
}

// Resize sets the size of a container's terminal.
func (c *Client) Resize(ctx context.Context, name string, rows, columns uint16) error {
	return c.Call(ctx, "POST", "/containers/"+url.PathEscape(name)+"/resize?"+size(rows, columns), nil, nil)
}

func size(rows, columns uint16) string {
	return "h=" + strconv.Itoa(int(rows)) + "&w=" + strconv.Itoa(int(columns))
}

// Command is a process to run inside a container.
type Command struct {
	Cmd          []string
	Env          []string `json:",omitempty"`
	User         string   `json:",omitempty"`
	WorkingDir   string   `json:",omitempty"`
	Tty          bool
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	// ConsoleSize is the first size of the terminal, rows and columns; Engines before API 1.42 do not know it.
	ConsoleSize *[2]uint `json:",omitempty"`
}

// ExecCreate prepares a command in a container and gives its id.
func (c *Client) ExecCreate(ctx context.Context, name string, cmd Command) (string, error) {
	var out struct {
		ID string `json:"Id"`
	}
	err := c.Call(ctx, "POST", "/containers/"+url.PathEscape(name)+"/exec", cmd, &out)
	return out.ID, err
}

// ExecStart starts a prepared command and connects to its input and output.
func (c *Client) ExecStart(ctx context.Context, id string, cmd Command) (*Stream, error) {
	in := struct {
		Detach, Tty bool
		ConsoleSize *[2]uint `json:",omitempty"`
	}{Tty: cmd.Tty, ConsoleSize: cmd.ConsoleSize}
	return c.Open(ctx, "POST", "/exec/"+url.PathEscape(id)+"/start", in, true)
}

// ExecState is what the Engine says of a command.
type ExecState struct {
	Running     bool
	ExitCode    *int
	Pid         int
	ContainerID string
}

// ExecInspect asks for a command's state.
func (c *Client) ExecInspect(ctx context.Context, id string) (ExecState, error) {
	var s ExecState
	err := c.Call(ctx, "GET", "/exec/"+url.PathEscape(id)+"/json", nil, &s)
	return s, err
}

// ExecResize sets the size of a command's terminal.
func (c *Client) ExecResize(ctx context.Context, id string, rows, columns uint16) error {
	return c.Call(ctx, "POST", "/exec/"+url.PathEscape(id)+"/resize?"+size(rows, columns), nil, nil)
}
