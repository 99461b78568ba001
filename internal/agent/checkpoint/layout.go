package checkpoint

import (
	"path/filepath"

	"github.com/orchestrator/orchestrator/internal/ids"
)

// Layout gives the paths below an agent's work directory (facts of Mesos' src/slave/paths.hpp). Sandbox paths are
// absolute; meta paths are relative to the meta directory, as the Ops want them.
type Layout struct {
	// WorkDir is the absolute path of --work_dir.
	WorkDir string
}

// Run identifies one run of an executor: its sandbox and its meta directory.
type Run struct {
	Agent     ids.Agent
	Framework ids.Framework
	Executor  ids.Executor
	Container ids.Container
}

// Meta is the meta directory.
func (l Layout) Meta() string { return filepath.Join(l.WorkDir, "meta") }

// AgentDir holds every sandbox of the agent.
func (l Layout) AgentDir(a ids.Agent) string { return filepath.Join(l.WorkDir, "slaves", string(a)) }

// FrameworkDir holds every sandbox of a framework.
func (l Layout) FrameworkDir(a ids.Agent, f ids.Framework) string {
	return filepath.Join(l.AgentDir(a), "frameworks", string(f))
}

// ExecutorDir holds the sandboxes of all runs of an executor.
func (l Layout) ExecutorDir(a ids.Agent, f ids.Framework, e ids.Executor) string {
	return filepath.Join(l.FrameworkDir(a, f), "executors", string(e))
}

// Sandbox is the working directory of one run of an executor.
func (l Layout) Sandbox(r Run) string {
	return filepath.Join(l.ExecutorDir(r.Agent, r.Framework, r.Executor), "runs", string(r.Container))
}

// StandaloneSandbox is the working directory of a standalone container.
func (l Layout) StandaloneSandbox(c ids.Container) string {
	return filepath.Join(l.WorkDir, "containers", string(c))
}

// Volumes holds the persistent volumes on the agent's own disk.
func (l Layout) Volumes() string { return filepath.Join(l.WorkDir, "volumes") }

// The files of the meta directory.
const (
	bootIDFile     = "boot_id"
	resourcesFile  = "resources/resources.info"
	latestLink     = "slaves/latest"
	agentFile      = "slave.info"
	drainFile      = "drain.config"
	frameworkFile  = "framework.info"
	executorFile   = "executor.info"
	latestRun      = "latest"
	registeredFile = "http.marker"
	sentinelFile   = "executor.sentinel"
	taskFile       = "task.info"
	updatesFile    = "task.updates"
)

// BootIDPath is the id of the host's boot in which the agent ran last.
func BootIDPath() string { return bootIDFile }

// ResourcesPath is the total after operations.
func ResourcesPath() string { return resourcesFile }

// LatestPath is the link to the agent id in use; without it the agent starts as a new one.
func LatestPath() string { return latestLink }

func metaAgent(a ids.Agent) string { return "slaves/" + string(a) }

// AgentPath is the agent's own AgentInfo.
func AgentPath(a ids.Agent) string { return metaAgent(a) + "/" + agentFile }

// DrainPath is the drain that is under way.
func DrainPath(a ids.Agent) string { return metaAgent(a) + "/" + drainFile }

// FrameworkMeta is the directory of a framework.
func FrameworkMeta(a ids.Agent, f ids.Framework) string {
	return metaAgent(a) + "/frameworks/" + string(f)
}

// FrameworkPath is a framework's FrameworkInfo.
func FrameworkPath(a ids.Agent, f ids.Framework) string {
	return FrameworkMeta(a, f) + "/" + frameworkFile
}

// ExecutorMeta is the directory of an executor.
func ExecutorMeta(a ids.Agent, f ids.Framework, e ids.Executor) string {
	return FrameworkMeta(a, f) + "/executors/" + string(e)
}

// RunMeta is the directory of one run.
func RunMeta(r Run) string {
	return ExecutorMeta(r.Agent, r.Framework, r.Executor) + "/runs/" + string(r.Container)
}

// ExecutorPath is the run's executor. (Mesos keeps one per executor; a new run may not overwrite what an old one with
// updates still to deliver needs, so ours lies with the run.)
func ExecutorPath(r Run) string { return RunMeta(r) + "/" + executorFile }

// RegisteredPath exists once the executor has subscribed.
func RegisteredPath(r Run) string { return RunMeta(r) + "/" + registeredFile }

// SentinelPath exists once the run has ended and all its updates were acknowledged.
func SentinelPath(r Run) string { return RunMeta(r) + "/" + sentinelFile }

// TaskMeta is the directory of a task.
func TaskMeta(r Run, t ids.Task) string { return RunMeta(r) + "/tasks/" + string(t) }

// TaskPath is a task's TaskInfo.
func TaskPath(r Run, t ids.Task) string { return TaskMeta(r, t) + "/" + taskFile }

// UpdatesPath is a task's updates and their acknowledgements.
func UpdatesPath(r Run, t ids.Task) string { return TaskMeta(r, t) + "/" + updatesFile }
