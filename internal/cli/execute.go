package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// executeFlags are the flags of execute.
type executeFlags struct {
	command, name, resources, role, killAfter string
	dockerImage, containerizer                string
	shell, quiet                              bool
	instances                                 int
	env                                       []string
}

func newExecuteCommand() *cobra.Command {
	conn := &connection{}
	f := &executeFlags{}
	cmd := &cobra.Command{
		Use:   "execute [flags] [-- PROGRAM ARG…]",
		Short: "Run a command on the cluster, print what it prints, exit with its code",
		Long: `Run a command once on the cluster, or in several instances at the same time. What it prints is printed here; when all instances
have ended, this exits with 0, or with the code of the first one that failed. Ctrl-C ends them.`,
		Example: "  orchestrator execute --command 'echo hello from $(hostname)'\n" +
			"  orchestrator execute --instances 20 --resources 'cpus:0.5;mem:64' --command './crunch $MESOS_EXECUTOR_ID'\n" +
			"  orchestrator execute -- /usr/bin/env\n" +
			"  orchestrator execute --containerizer docker --docker-image busybox --command 'echo hello from an image'",
	}
	conn.bind(cmd)
	cmd.Flags().StringVar(&f.command, "command", "", "The command, run by a shell.")
	cmd.Flags().StringVar(&f.name, "name", "execute", "Its name in the cluster.")
	cmd.Flags().StringVar(&f.resources, "resources", "cpus:0.1;mem:32", "What each instance needs.")
	cmd.Flags().StringVar(&f.role, "role", "*", "The role that it runs under.")
	cmd.Flags().BoolVar(&f.shell, "shell", true, "Run the command with a shell.")
	cmd.Flags().StringVar(&f.dockerImage, "docker-image", "", "Docker image to run it in.")
	cmd.Flags().StringVar(&f.containerizer, "containerizer", "mesos", "What runs the image: mesos, or docker for a Docker Engine.")
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-")) // as mesos-execute spells them
	})
	cmd.Flags().IntVar(&f.instances, "instances", 1, "How many to run.")
	cmd.Flags().StringArrayVar(&f.env, "env", nil, "An environment variable, NAME=value. May be repeated.")
	cmd.Flags().StringVar(&f.killAfter, "kill-after", "", "End what still runs after this time, such as 5mins.")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "Print nothing but what the command prints.")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := conn.load(); err != nil {
			return err
		}
		e, err := newExecution(conn, f, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return e.run(cmd.Context())
	}
	return cmd
}

// execution is a scheduler that runs one command. Its fields belong to the goroutine that gets the events, except out and the
// followers' own.
type execution struct {
	cluster *cluster
	client  *wire.Client
	flags   *executeFlags
	stdout  io.Writer
	stderr  io.Writer
	command *mesosv1.CommandInfo
	// container is nil without an image.
	container *mesosv1.ContainerInfo
	need      resources.Resources
	killAt    time.Duration
	user      string
	prefix    string // of task ids

	framework *mesosv1.FrameworkID
	known     chan *mesosv1.FrameworkID // gets it once, for who ends the framework
	waiting   []string
	tasks     map[string]*execTask
	addresses map[string]string // of agents
	ended     int
	code      int
	launched  int

	out       sync.Mutex
	followers sync.WaitGroup
	slots     chan struct{} // bounds the requests for output
}

type execTask struct {
	id    string
	agent string
	state mesosv1.TaskState
	done  chan struct{} // closed when it has ended; nil before it runs
	over  bool
}

// errAllDone ends the subscription.
var errAllDone = errors.New("all done")

// errTooLong ends it when the time of --kill-after is over.
var errTooLong = errors.New("it takes too long")

// maxInstances bounds one execute: each has a follower of its output.
const maxInstances = 10_000

func newExecution(conn *connection, f *executeFlags, args []string, stdout, stderr io.Writer) (*execution, error) {
	e := &execution{
		flags: f, stdout: stdout, stderr: stderr, tasks: map[string]*execTask{}, addresses: map[string]string{},
		slots: make(chan struct{}, 32), known: make(chan *mesosv1.FrameworkID, 1), prefix: f.name,
	}
	e.cluster = &cluster{connection: conn}
	switch {
	case f.command == "" && len(args) == 0:
		return nil, usagef("give --command, or a program after --")
	case f.command != "" && len(args) > 0:
		return nil, usagef("give --command or a program after --, not both")
	case f.instances < 1 || f.instances > maxInstances:
		return nil, usagef("--instances: %d is not between 1 and %d", f.instances, maxInstances)
	case len(args) > 0:
		e.command = &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String(args[0]), Arguments: args}
	default:
		e.command = &mesosv1.CommandInfo{Shell: proto.Bool(f.shell), Value: proto.String(f.command)}
	}
	if err := ids.Validate(f.name); err != nil {
		return nil, usagef("--name: %w", err)
	}
	switch {
	case f.containerizer != "mesos" && f.containerizer != "docker":
		return nil, usagef("--containerizer: %q is neither mesos nor docker", f.containerizer)
	case f.dockerImage == "" && f.containerizer == "docker":
		return nil, usagef("--containerizer docker needs --docker-image")
	case f.dockerImage != "" && f.containerizer == "docker":
		e.container = &mesosv1.ContainerInfo{
			Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{Image: &f.dockerImage},
		}
		if len(args) > 0 {
			e.command.Arguments = args[1:] // to Docker the program is not among its arguments
		}
	case f.dockerImage != "":
		e.container = &mesosv1.ContainerInfo{
			Type: mesosv1.ContainerInfo_MESOS.Enum(), Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{
				Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: &f.dockerImage},
			}},
		}
	}
	if len(f.name) > ids.MaxLength-24 {
		return nil, usagef("--name: it is too long to number its instances")
	}
	if err := resources.ValidateRole(f.role); err != nil {
		return nil, usagef("--role: %w", err)
	}
	var err error
	if e.need, err = resources.Parse(f.resources, "*"); err != nil {
		return nil, usagef("--resources: %w", err)
	}
	if e.need.IsEmpty() {
		return nil, usagef("--resources: a task needs some")
	}
	e.need = e.need.Allocate(f.role)
	if f.killAfter != "" {
		if e.killAt, err = config.ParseDuration(f.killAfter); err != nil || e.killAt <= 0 {
			return nil, usagef("--kill-after: %q is not a duration such as 5mins", f.killAfter)
		}
	}
	if len(f.env) > 0 {
		e.command.Environment = &mesosv1.Environment{}
		for _, item := range f.env {
			name, value, ok := strings.Cut(item, "=")
			if !ok || name == "" {
				return nil, usagef("--env: %q is not NAME=value", item)
			}
			e.command.Environment.Variables = append(e.command.Environment.Variables, &mesosv1.Environment_Variable{
				Name: proto.String(name), Value: proto.String(value), Type: mesosv1.Environment_Variable_VALUE.Enum(),
			})
		}
	}
	e.user = "root"
	if u, err := user.Current(); err == nil {
		e.user = u.Username
	}
	run := uuid.NewString()[:8]
	for i := range f.instances {
		e.waiting = append(e.waiting, fmt.Sprintf("%s.%s.%d", e.prefix, run, i))
	}
	return e, nil
}

// exitStatus finds the code in what a command executor says.
var exitStatus = regexp.MustCompile(`exited with status (\d+)`)

func (e *execution) run(ctx context.Context) error {
	client, done, err := e.cluster.connection.client("/api/v1/scheduler")
	if err != nil {
		return err
	}
	defer done()
	e.client = client
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if e.killAt > 0 {
		timer := time.AfterFunc(e.killAt, func() { cancel(errTooLong) })
		defer timer.Stop()
	}
	// The framework is torn down while its stream is still there: the master takes that call from a subscribed one only.
	streaming, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ending := make(chan struct{})
	go func() {
		defer close(ending)
		<-ctx.Done()
		e.teardown()
		stop()
	}()
	failures := 0
	err = wire.Subscribe(streaming, client, wire.Subscription[schedulerv1.Event]{
		Call: e.subscribe,
		Event: func(ctx context.Context, ev *schedulerv1.Event) error {
			failures = 0
			err := e.event(ctx, ev)
			if err != nil {
				cancel(err)
				<-ending
			}
			return err
		},
		Disconnected: func(err error, retryIn time.Duration) {
			failures++
			if e.framework == nil && failures >= 3 {
				cancel(err)
			}
			if ctx.Err() != nil {
				return // the stream ends because this does
			}
			e.say("the master is away (%v); trying again in %s", err, retryIn.Round(time.Millisecond))
		},
	})
	cancel(err) // the first cause counts
	<-ending
	for _, t := range e.tasks {
		if t.done != nil && !t.over {
			close(t.done)
		}
	}
	e.followers.Wait()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errAllDone):
		if e.code != 0 {
			return exitCode(e.code)
		}
		return nil
	case errors.Is(cause, errTooLong) && e.launched == 0:
		return fmt.Errorf("nothing was started within %s (--kill-after): no node offered %s; `orchestrator node ls` shows what is free", e.flags.killAfter, e.flags.resources)
	case errors.Is(cause, errTooLong):
		return fmt.Errorf("still running after %s (--kill-after): what still ran was ended", e.flags.killAfter)
	case errors.Is(cause, context.Canceled):
		return errors.New("interrupted: what still ran was ended")
	default:
		return e.cluster.explain(context.Background(), cause)
	}
}

// teardown ends the framework with what still runs of it.
func (e *execution) teardown() {
	var id *mesosv1.FrameworkID
	select {
	case id = <-e.known:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := e.client.Call(ctx, &schedulerv1.Call{Type: schedulerv1.Call_TEARDOWN.Enum(), FrameworkId: id}); err != nil {
		e.say("the framework could not be ended: %v; `orchestrator framework teardown %s` does it", err, id.GetValue())
	}
}

func (e *execution) say(format string, args ...any) {
	if e.flags.quiet {
		return
	}
	e.out.Lock()
	defer e.out.Unlock()
	fmt.Fprintln(e.stderr, printable(fmt.Sprintf(format, args...)))
}

func (e *execution) subscribe() proto.Message {
	info := &mesosv1.FrameworkInfo{
		User: proto.String(e.user), Name: proto.String(e.flags.name), Roles: []string{e.flags.role}, Checkpoint: proto.Bool(true),
		FailoverTimeout: proto.Float64(60), Id: e.framework,
	}
	if e.cluster.Principal != "" {
		info.Principal = proto.String(e.cluster.Principal)
	}
	for _, c := range []mesosv1.FrameworkInfo_Capability_Type{
		mesosv1.FrameworkInfo_Capability_MULTI_ROLE, mesosv1.FrameworkInfo_Capability_PARTITION_AWARE,
		mesosv1.FrameworkInfo_Capability_RESERVATION_REFINEMENT, mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE,
	} {
		info.Capabilities = append(info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: c.Enum()})
	}
	return &schedulerv1.Call{
		Type: schedulerv1.Call_SUBSCRIBE.Enum(), FrameworkId: e.framework, Subscribe: &schedulerv1.Call_Subscribe{FrameworkInfo: info},
	}
}

// send makes a call; the cluster answers with events, and what is lost is asked for again after the next SUBSCRIBED.
func (e *execution) send(ctx context.Context, call *schedulerv1.Call) {
	call.FrameworkId = e.framework
	if err := e.client.Call(ctx, call); err != nil && ctx.Err() == nil {
		e.say("call %s: %v", call.GetType(), err)
	}
}

func (e *execution) event(ctx context.Context, ev *schedulerv1.Event) error {
	switch ev.GetType() {
	case schedulerv1.Event_SUBSCRIBED:
		again := e.framework != nil
		e.framework = ev.GetSubscribed().GetFrameworkId()
		if again {
			e.send(ctx, &schedulerv1.Call{Type: schedulerv1.Call_RECONCILE.Enum(), Reconcile: e.unfinished()})
		} else {
			e.known <- e.framework
			e.say("subscribed as framework %s", e.framework.GetValue())
		}
	case schedulerv1.Event_OFFERS:
		for _, o := range ev.GetOffers().GetOffers() {
			e.offer(ctx, o)
		}
	case schedulerv1.Event_UPDATE:
		return e.update(ctx, ev.GetUpdate().GetStatus())
	case schedulerv1.Event_ERROR:
		return errors.New(ev.GetError().GetMessage())
	}
	return nil
}

func (e *execution) unfinished() *schedulerv1.Call_Reconcile {
	r := &schedulerv1.Call_Reconcile{}
	for id, t := range e.tasks {
		if !t.over {
			r.Tasks = append(r.Tasks, &schedulerv1.Call_Reconcile_Task{
				TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: &mesosv1.AgentID{Value: proto.String(t.agent)},
			})
		}
	}
	return r
}

// offer launches as many instances as fit.
func (e *execution) offer(ctx context.Context, o *mesosv1.Offer) {
	left, err := resources.FromProto(o.GetResources())
	if err != nil {
		left = resources.Resources{}
	}
	var launch []*mesosv1.TaskInfo
	for len(e.waiting) > 0 {
		rest, ok := left.Subtract(e.need)
		if !ok {
			break
		}
		left = rest
		id := e.waiting[0]
		e.waiting = e.waiting[1:]
		launch = append(launch, &mesosv1.TaskInfo{
			Name: proto.String(e.flags.name), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: o.GetAgentId(),
			Resources: e.need.Proto(), Command: e.command, Container: e.container,
		})
		e.tasks[id] = &execTask{id: id, agent: o.GetAgentId().GetValue(), state: mesosv1.TaskState_TASK_STAGING}
	}
	address := o.GetUrl().GetAddress()
	e.addresses[o.GetAgentId().GetValue()] = net.JoinHostPort(address.GetIp(), strconv.Itoa(int(address.GetPort())))
	if len(launch) == 0 {
		e.send(ctx, &schedulerv1.Call{Type: schedulerv1.Call_DECLINE.Enum(), Decline: &schedulerv1.Call_Decline{OfferIds: []*mesosv1.OfferID{o.GetId()}}})
	} else {
		e.send(ctx, &schedulerv1.Call{Type: schedulerv1.Call_ACCEPT.Enum(), Accept: &schedulerv1.Call_Accept{
			OfferIds: []*mesosv1.OfferID{o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
			Operations: []*mesosv1.Offer_Operation{{
				Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: launch},
			}},
		}})
		e.launched += len(launch)
	}
	if len(e.waiting) == 0 {
		e.send(ctx, &schedulerv1.Call{Type: schedulerv1.Call_SUPPRESS.Enum()})
	}
}

func (e *execution) update(ctx context.Context, st *mesosv1.TaskStatus) error {
	if len(st.GetUuid()) > 0 {
		e.send(ctx, &schedulerv1.Call{Type: schedulerv1.Call_ACKNOWLEDGE.Enum(), Acknowledge: &schedulerv1.Call_Acknowledge{
			AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
		}})
	}
	t := e.tasks[st.GetTaskId().GetValue()]
	if t == nil || t.over || t.state == st.GetState() && st.GetState() != mesosv1.TaskState_TASK_RUNNING {
		return nil
	}
	was := t.state
	t.state = st.GetState()
	if was != t.state && e.flags.instances <= 10 {
		text := ""
		if st.GetMessage() != "" {
			text = ": " + st.GetMessage()
		}
		e.say("task %s is %s%s", t.id, taskState(t.state), text)
	}
	switch st.GetState() {
	case mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING:
		e.follow(ctx, t)
	case mesosv1.TaskState_TASK_FINISHED:
		e.follow(ctx, t)
		return e.end(t, 0)
	case mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_ERROR:
		code := exitFailed
		if m := exitStatus.FindStringSubmatch(st.GetMessage()); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && n < 256 {
				code = n
			}
		}
		if st.GetState() != mesosv1.TaskState_TASK_ERROR {
			e.follow(ctx, t)
		}
		if e.flags.instances > 10 {
			e.say("task %s is %s: %s", t.id, taskState(t.state), st.GetMessage())
		}
		return e.end(t, code)
	case mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_LOST:
		if t.done == nil {
			// It never began: another offer will do.
			delete(e.tasks, t.id)
			e.waiting = append(e.waiting, t.id)
			e.send(ctx, &schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum()})
			return nil
		}
		return e.end(t, exitFailed)
	case mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return e.end(t, exitFailed)
	}
	return nil
}

// end notes that a task has ended.
func (e *execution) end(t *execTask, code int) error {
	t.over = true
	if t.done != nil {
		close(t.done)
	}
	e.ended++
	if e.code == 0 {
		e.code = code
	}
	if e.ended == e.flags.instances {
		return errAllDone
	}
	return nil
}

// follow begins to print what the task prints.
func (e *execution) follow(ctx context.Context, t *execTask) {
	if t.done != nil {
		return
	}
	t.done = make(chan struct{})
	address := e.addresses[t.agent]
	sandbox := "/frameworks/" + e.framework.GetValue() + "/executors/" + t.id + "/runs/latest/"
	for name, out := range map[string]io.Writer{"stdout": e.stdout, "stderr": e.stderr} {
		e.followers.Add(1)
		go func() {
			defer e.followers.Done()
			e.print(ctx, &remoteFile{c: e.cluster, address: address, path: sandbox + name}, out, t.done)
		}()
	}
}

// print copies a file line by line until its task has ended and all was read.
func (e *execution) print(ctx context.Context, r *remoteFile, out io.Writer, done <-chan struct{}) {
	lines := &lineWriter{mu: &e.out, out: out}
	defer lines.flush()
	// What a task printed is read even after Ctrl-C, for a short while.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	at := int64(0)
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	misses := 0
	for last := false; ; {
		e.slots <- struct{}{}
		request, stop := context.WithTimeout(ctx, e.cluster.Timeout)
		n, err := r.piece(request, lines, at)
		stop()
		<-e.slots
		at += n
		if err != nil {
			if misses++; misses >= 20 || last && misses >= 3 {
				e.say("output is missing: %v", err)
				return
			}
		}
		if n > 0 {
			continue
		}
		if last && err == nil {
			return
		}
		select {
		case <-done:
			if last && err != nil {
				<-tick.C
			}
			last = true
		case <-tick.C:
		}
	}
}

// lineWriter writes whole lines, so that those of several tasks don't mix.
type lineWriter struct {
	mu   *sync.Mutex
	out  io.Writer
	rest []byte
}

// maxLine is the longest line that is kept together.
const maxLine = 64 << 10

// Write implements io.Writer.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	if end == 0 && len(l.rest) > maxLine {
		end = len(l.rest)
	}
	if end > 0 {
		l.mu.Lock()
		_, err := l.out.Write(l.rest[:end])
		l.mu.Unlock()
		if err != nil {
			return 0, err
		}
		l.rest = append(l.rest[:0], l.rest[end:]...)
	}
	return len(p), nil
}

// flush writes a last line that has no end.
func (l *lineWriter) flush() {
	if len(l.rest) > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, _ = l.out.Write(l.rest)
		l.rest = nil
	}
}
