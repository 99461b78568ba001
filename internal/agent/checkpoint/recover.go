package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	checkpointv1 "github.com/orchestrator/orchestrator/api/checkpoint/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Recovered is all that an earlier agent process promised.
type Recovered struct {
	// BootID is the boot of the host in which that process ran; empty on the first start.
	BootID string
	// Agent is nil when the agent has no id yet, or left for good.
	Agent *mesosv1.AgentInfo
	// Resources is nil when no operation was ever applied and the agent never registered.
	Resources  *checkpointv1.Resources
	Drain      *mesosv1.DrainConfig
	Frameworks []Framework
	// Problems are records that could not be read, and were left out because strict is false.
	Problems []error
}

// Framework is a recovered framework.
type Framework struct {
	Info *mesosv1.FrameworkInfo
	Runs []RunState
}

// RunState is one recovered run of an executor.
type RunState struct {
	Run
	Executor *checkpointv1.Executor
	// Registered: the executor had subscribed.
	Registered bool
	// Completed: it had ended and all of its updates were acknowledged.
	Completed bool
	Tasks     []TaskState
}

// TaskState is one recovered task.
type TaskState struct {
	*checkpointv1.Task
	Updates []*checkpointv1.Update
}

type reader struct {
	fs     FS
	dir    string
	strict bool
	result *Recovered
}

// Recover reads the checkpoint below dir. When a record is corrupt it says which file and what to do; with strict false
// it goes on without the record and lists the problem.
func Recover(fsys FS, dir string, strict bool) (*Recovered, error) {
	r := &reader{fs: fsys, dir: dir, strict: strict, result: &Recovered{}}
	if err := r.all(); err != nil {
		return nil, err
	}
	return r.result, nil
}

func (r *reader) all() error {
	if data, err := r.fs.ReadFile(filepath.Join(r.dir, bootIDFile)); err == nil {
		r.result.BootID = string(bytes.TrimSpace(data))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the boot id: %w", err)
	}
	resources := &checkpointv1.Resources{}
	switch found, err := r.message(resourcesFile, resources); {
	case err != nil:
		return err
	case found:
		r.result.Resources = resources
	}
	target, err := r.fs.Readlink(filepath.Join(r.dir, latestLink))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the link to the agent's id: %w", err)
	}
	return r.agent(ids.Agent(filepath.Base(target)))
}

func (r *reader) agent(id ids.Agent) error {
	info := &mesosv1.AgentInfo{}
	switch found, err := r.message(AgentPath(id), info); {
	case err != nil:
		return err
	case !found:
		return nil // the link was made, the file never: nothing was promised under this id
	}
	r.result.Agent = info
	drain := &mesosv1.DrainConfig{}
	switch found, err := r.message(DrainPath(id), drain); {
	case err != nil:
		return err
	case found:
		r.result.Drain = drain
	}
	names, err := r.names(metaAgent(id) + "/frameworks")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.framework(id, ids.Framework(name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) framework(a ids.Agent, id ids.Framework) error {
	f := Framework{Info: &mesosv1.FrameworkInfo{}}
	found, err := r.message(FrameworkPath(a, id), f.Info)
	if err != nil || !found {
		return err
	}
	executors, err := r.names(FrameworkMeta(a, id) + "/executors")
	if err != nil {
		return err
	}
	for _, e := range executors {
		runs, err := r.names(ExecutorMeta(a, id, ids.Executor(e)) + "/runs")
		if err != nil {
			return err
		}
		for _, c := range runs {
			run := RunState{Run: Run{Agent: a, Framework: id, Executor: ids.Executor(e), Container: ids.Container(c)}}
			found, err := r.run(&run)
			if err != nil {
				return err
			}
			if found {
				f.Runs = append(f.Runs, run)
			}
		}
	}
	r.result.Frameworks = append(r.result.Frameworks, f)
	return nil
}

func (r *reader) run(run *RunState) (found bool, err error) {
	run.Executor = &checkpointv1.Executor{}
	if found, err = r.message(ExecutorPath(run.Run), run.Executor); err != nil || !found {
		return false, err
	}
	run.Completed = r.exists(SentinelPath(run.Run))
	run.Registered = r.exists(RegisteredPath(run.Run))
	tasks, err := r.names(RunMeta(run.Run) + "/tasks")
	if err != nil {
		return false, err
	}
	for _, t := range tasks {
		task := TaskState{Task: &checkpointv1.Task{}}
		found, err := r.message(TaskPath(run.Run, ids.Task(t)), task.Task)
		if err != nil {
			return false, err
		}
		if !found {
			continue
		}
		if task.Updates, err = r.updates(UpdatesPath(run.Run, ids.Task(t))); err != nil {
			return false, err
		}
		run.Tasks = append(run.Tasks, task)
	}
	return true, nil
}

func (r *reader) updates(path string) ([]*checkpointv1.Update, error) {
	data, err := r.fs.ReadFile(filepath.Join(r.dir, path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read status updates: %w", err)
	}
	var updates []*checkpointv1.Update
	for {
		u := &checkpointv1.Update{}
		rest, err := readRecord(data, u)
		switch {
		case errors.Is(err, io.EOF) && len(data) == 0:
			return updates, nil
		case errors.Is(err, errShort):
			return updates, nil // a torn tail: its batch was never promised
		case err != nil:
			return updates, r.problem(path, err)
		}
		updates, data = append(updates, u), rest
	}
}

// message reads a file that holds one message.
func (r *reader) message(path string, m proto.Message) (found bool, err error) {
	data, err := r.fs.ReadFile(filepath.Join(r.dir, path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the agent's checkpoint: %w", err)
	}
	if err := readOne(data, m); err != nil {
		return false, r.problem(path, err)
	}
	return true, nil
}

func (r *reader) problem(path string, err error) error {
	err = fmt.Errorf("%s is corrupt: %w", filepath.Join(r.dir, path), err)
	if r.strict {
		return fmt.Errorf("%w; start with --no-strict to go on without this record, or remove meta/slaves/latest to "+
			"begin as a new agent", err)
	}
	r.result.Problems = append(r.result.Problems, err)
	return nil
}

func (r *reader) exists(path string) bool {
	_, err := r.fs.ReadFile(filepath.Join(r.dir, path))
	return err == nil
}

// names lists the directories in a directory, without links such as "latest".
func (r *reader) names(path string) ([]string, error) {
	entries, err := r.fs.ReadDir(filepath.Join(r.dir, path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the agent's checkpoint: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
