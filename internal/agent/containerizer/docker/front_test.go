package docker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// front stands between a host and its Engine, and spoils calls of one kind.
type front struct {
	path  string
	to    string
	calls sync.WaitGroup

	mu       sync.Mutex
	call     string // part of the request's line; empty: nothing is spoilt
	how      string // "500", "cut", "stall"
	released chan struct{}
	spoilt   int
	open     map[net.Conn]bool
}

func frontOf(t *testing.T, h *host) *front {
	t.Helper()
	f := &front{path: filepath.Join(h.dir, "front"), to: h.e.Socket, released: make(chan struct{}), open: map[net.Conn]bool{}}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.calls.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.calls.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); f.spoil("", ""); f.breakOff(); f.calls.Wait() })
	return f
}

// spoil says what happens from now on to calls whose first line has call in it. Those that stall are let go.
func (f *front) spoil(call, how string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.call, f.how = call, how
	close(f.released)
	f.released = make(chan struct{})
}

func (f *front) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.spoilt
}

// breakOff ends what is under way.
func (f *front) breakOff() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.open {
		c.Close()
	}
}

// serve passes one connection on: its users make one call on each.
func (f *front) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	f.mu.Lock()
	how, released := "", f.released
	if f.call != "" && strings.Contains(line, f.call) {
		how = f.how
		f.spoilt++
	}
	f.mu.Unlock()
	switch how {
	case "500":
		const said = `{"message":"out of order"}`
		_, _ = fmt.Fprintf(c, "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(said), said)
		return
	case "cut":
		return
	case "stall":
		<-released
	}
	to, err := net.Dial("unix", f.to)
	if err != nil {
		return
	}
	defer to.Close()
	f.mu.Lock()
	f.open[to], f.open[c] = true, true
	f.mu.Unlock()
	defer func() { f.mu.Lock(); delete(f.open, to); delete(f.open, c); f.mu.Unlock() }()
	if _, err := io.WriteString(to, line); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, to)
		_ = c.(*net.UnixConn).CloseWrite()
		_ = c.(*net.UnixConn).SetReadDeadline(time.Now()) // there is nothing left to say
	})
	_, _ = io.Copy(to, r)
	_ = to.(*net.UnixConn).CloseWrite()
	back.Wait()
}

// TestEngineAnswersBadly: an Engine that answers with an error, breaks off or stands still, at every call that a task needs.
// The task ends in a state that says so, or runs as if nothing had been, and nothing of it is left.
func TestEngineAnswersBadly(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t, dockertest.Options{})
	e.Import(box, nil)
	waits := func(code int) func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
		return func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
			d.launch(cfg)
			if u := d.untilState(cfg.ID, mesosv1.TaskState_TASK_FAILED); u.GetMessage() != fmt.Sprintf("Container exited with status %d", code) {
				t.Errorf("%v", u)
			}
			d.wait(cfg.ID)
		}
	}
	fails := func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
		err := d.Launch(t.Context(), cfg)
		var le *containerizer.LaunchError
		if !errors.As(err, &le) || le.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED {
			t.Errorf("launched: %v", err)
		}
	}
	// A launch that stands still is given up by the agent, which destroys the container.
	givenUp := func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
		done := make(chan error, 1)
		go func() { done <- d.Launch(t.Context(), cfg) }()
		eventually(t, "the call stands still", func() bool { return f.count() > 0 })
		if err := d.Destroy(t.Context(), cfg.ID); err != nil {
			t.Error(err)
		}
		if strings.Contains(f.call, "create") {
			f.spoil("", "") // what is being made has to be seen
		}
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), errDestroyed.Error()) {
				t.Errorf("%v", err)
			}
		case <-time.After(patience):
			t.Error("the launch is not given up")
		}
	}
	// A kill by the framework, whatever the Engine does.
	killed := func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
		cfg.Task.Command = shell("sleep 1000")
		cfg.Command = cfg.Task.Command
		d.launch(cfg)
		d.untilState(cfg.ID, mesosv1.TaskState_TASK_RUNNING)
		d.kill(cfg.ID, 0)
		d.untilState(cfg.ID, mesosv1.TaskState_TASK_KILLED)
		d.wait(cfg.ID)
	}
	for name, c := range map[string]struct {
		call, how string
		do        func(t *testing.T, d *daemon, f *front, cfg containerizer.Config)
	}{
		"image-500":    {"/images/", "500", fails},
		"image-cut":    {"/images/", "cut", fails},
		"image-stall":  {"/images/", "stall", givenUp},
		"create-500":   {"/containers/create", "500", fails},
		"create-cut":   {"/containers/create", "cut", fails},
		"create-stall": {"/containers/create", "stall", givenUp},
		"attach-500":   {"/attach?", "500", fails},
		"attach-cut":   {"/attach?", "cut", fails},
		"attach-stall": {"/attach?", "stall", givenUp},
		"start-500":    {"/start ", "500", fails},
		"start-cut":    {"/start ", "cut", fails},
		"start-stall":  {"/start ", "stall", givenUp},
		"look-500":     {"/json HTTP/1.0", "500", fails}, // the helper's
		"look-cut":     {"/json HTTP/1.0", "cut", fails},
		"look-stall":   {"/json HTTP/1.0", "stall", givenUp},
		"wait-500":     {"/wait", "500", waits(7)},
		"wait-cut":     {"/wait", "cut", waits(7)},
		"kill-500":     {"/kill?", "500", killed},
		"kill-cut":     {"/kill?", "cut", killed},
		"kill-stall":   {"/kill?", "stall", killed},
		"killed-while-nothing-answers": {"", "", func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
			cfg.Task.Command = shell("sleep 1000")
			cfg.Command = cfg.Task.Command
			d.launch(cfg)
			d.untilState(cfg.ID, mesosv1.TaskState_TASK_RUNNING)
			f.spoil(" ", "stall")
			f.breakOff() // also what is under way
			d.kill(cfg.ID, 0)
			d.untilState(cfg.ID, mesosv1.TaskState_TASK_KILLED)
		}},
		"remove-500": {"DELETE ", "500", func(t *testing.T, d *daemon, f *front, cfg containerizer.Config) {
			d.launch(cfg)
			eventually(t, "the removal is refused", func() bool { return f.count() > 2 })
			f.spoil("", "")
			d.wait(cfg.ID)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hostOn(t, e)
			f := frontOf(t, h)
			d := h.start(nil, func(c *Config) { c.Socket = f.path })
			f.spoil(c.call, c.how)
			c.do(t, d, f, d.task(ids.Container(name), &mesosv1.TaskInfo{Command: shell("sleep 0.2; exit 7")}))
			f.spoil("", "")
			eventually(t, "nothing is left of it", func() bool {
				return e.Docker("ps", "-aq", "--filter", "label="+labelAgent+"="+d.mark) == "" && len(helpers(h.dir)) == 0
			})
			d.end()
		})
	}
}

// TestStrangersName: a container of the name that ours would have, which is not ours, is left alone whatever the Engine answers, or
// does not.
func TestStrangersName(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t, dockertest.Options{})
	e.Import(box, nil)
	h := hostOn(t, e)
	f := frontOf(t, h)
	d := h.start(nil, func(c *Config) { c.Socket = f.path })
	defer d.end()
	e.Docker("run", "-d", "--name", namePrefix+"x", box, "sleep", "1000")
	for name, c := range map[string]struct{ call, how, want string }{
		"nothing goes wrong":               {"", "", "somebody else has a container of the name " + namePrefix + "x"},
		"the answer is lost":               {"/containers/create", "cut", "create the container"},
		"it can't be asked whose it is":    {"/" + namePrefix + "x/json HTTP/1.1", "500", "out of order"},
		"it is not answered whose that is": {"/" + namePrefix + "x/json HTTP/1.1", "cut", "look for the container"},
	} {
		before := f.count()
		f.spoil(c.call, c.how)
		done := make(chan error, 1)
		go func() { done <- d.Launch(t.Context(), d.executor("x", "true")) }()
		if c.call != "" {
			eventually(t, "it goes wrong", func() bool { return f.count() > before })
			f.spoil("", "")
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if s := e.Docker("inspect", "-f", "{{.State.Running}}", namePrefix+"x"); s != "true" {
			t.Fatalf("%s: the stranger's container runs: %s", name, s)
		}
	}
	e.Docker("rm", "-f", namePrefix+"x")
}
