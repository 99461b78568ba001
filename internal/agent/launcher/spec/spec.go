// Package spec is the paper that the launcher writes for a helper and the helper reads: what to start, as whom, where its
// output goes and whom to report to. It is JSON in the container's runtime directory and links nothing heavy.
//
// A helper of an older build may read a newer launcher's paper only if its binary was replaced under it, which the
// content-addressed name of the helper prevents; still, fields are only ever added.
package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Modes of the helper.
const (
	Supervise = "supervise" // start one process and hold its end
	Command   = "command"   // the command executor
	Default   = "default"   // the executor of task groups
)

// Names of the files in a container's runtime directory.
const (
	LaunchFile  = "launch.json"  // this paper
	PIDFile     = "pid"          // the helper, written by the launcher before the helper may go on
	BegunFile   = "begun"        // empty; the helper was told to go on, written by the helper
	StatusFile  = "status"       // how the process ended, written by the helper
	ControlFile = "control.sock" // the helper listens here
	SecretsDir  = "secrets"      // empty on the host; in the container's mount namespace, memory that holds secrets
	LogFile     = "helper.log"   // what the helper has to say when something is wrong with itself
	DockerFile  = "docker"       // DockerState
	ExecFile    = "exec"         // DockerCommand
	MemoryFile  = "memory"       // Memory
)

// SecretsFD is the helper's descriptor of a JSON list of secrets, when Spec.Secrets says so.
const SecretsFD = 4

// Marker is the environment variable that every process of a container inherits; its value is the container's id and
// agent. It finds processes that left their session and lost their parent where there is no cgroup to find them by.
const Marker = "ORCHESTRATOR_CONTAINER"

// Subcommand is the helper's first argument: a binary that serves as helper beside other things looks for it.
const Subcommand = "__executor"

// Spec is the whole paper.
type Spec struct {
	Mode        string  `json:"mode"`
	ContainerID string  `json:"container_id"`
	Mark        string  `json:"mark"`    // the value of Marker
	Dir         string  `json:"dir"`     // the container's runtime directory
	Sandbox     string  `json:"sandbox"` // where stdout and stderr go
	Process     Process `json:"process"` // in mode command: all but Path and Argv, which come with the task
	Log         Log     `json:"log"`
	Link        *Link   `json:"link,omitempty"`
	// Docker: the process is in a container that Docker runs, and not a child of the helper.
	Docker *Docker `json:"docker,omitempty"`

	// The namespaces that the helper was born into as their first process.
	NewPID   bool `json:"new_pid,omitempty"`
	NewMount bool `json:"new_mount,omitempty"`
	// Mounts are made in the new mount namespace, in order.
	Mounts   []Mount `json:"mounts,omitempty"`
	Hostname string  `json:"hostname,omitempty"` // in a new UTS namespace
	// Root is the process's own root file system; nil: it sees the host's files.
	Root *Root `json:"root,omitempty"`
	// Join are namespaces which the process, but not the helper, enters.
	Join []Namespace `json:"join,omitempty"`
	// IDs are those of the user namespace that the process, but not the helper, is in; nil: the host's. The helper makes it, but
	// where Join has one.
	IDs *IDs `json:"ids,omitempty"`
	// OOMFile has a line "oom_kill N" that says how many processes the kernel killed for memory.
	OOMFile string `json:"oom_file,omitempty"`
	// Secrets: a list of secrets comes in memory (descriptor SecretsFD), so that they are on no disk.
	Secrets bool `json:"secrets,omitempty"`
	// Leash: the helper ends the container when the launcher's end of the start socket closes (sessions).
	Leash bool `json:"leash,omitempty"`
}

// Process is what is started.
type Process struct {
	Path string   `json:"path,omitempty"` // found on Env's PATH when it has no slash
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	// Account is looked up in the accounts of the container's own root, and becomes UID, GID and Groups.
	Account string `json:"account,omitempty"`
	// Switch: become UID, GID and Groups.
	Switch     bool     `json:"switch,omitempty"`
	UID        uint32   `json:"uid,omitempty"`
	GID        uint32   `json:"gid,omitempty"`
	Groups     []uint32 `json:"groups,omitempty"`
	Rlimits    []Rlimit `json:"rlimits,omitempty"`
	NoNewPrivs bool     `json:"no_new_privs,omitempty"`
	// Capabilities is nil when they are not touched.
	Capabilities *Capabilities `json:"capabilities,omitempty"`
	// Seccomp is a filter program, struct sock_filter after struct sock_filter.
	Seccomp     []byte  `json:"seccomp,omitempty"`
	Umask       *int    `json:"umask,omitempty"`
	OOMScoreAdj *int    `json:"oom_score_adj,omitempty"`
	TTY         *Window `json:"tty,omitempty"`
}

// Rlimit is one resource limit; RLIM_INFINITY is all ones.
type Rlimit struct {
	Resource int    `json:"resource"`
	Soft     uint64 `json:"soft"`
	Hard     uint64 `json:"hard"`
}

// Capabilities are sets of capabilities, a bit for each.
type Capabilities struct {
	// Effective is what the process starts with, whoever its user is; nil: what the user has.
	Effective *uint64 `json:"effective,omitempty"`
	Bounding  uint64  `json:"bounding"`
}

// Window is the size of a terminal.
type Window struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// Log says what becomes of the output.
type Log struct {
	MaxBytes int64 `json:"max_bytes"` // a file is renamed to <name>.1 at this size; 0: never
	Keep     int   `json:"keep"`      // how many older files
	// Attach: input and output can be attached to through the control socket.
	Attach bool `json:"attach,omitempty"`
	// Session: output goes to those who are attached only; nothing is read before the first has come.
	Session bool `json:"session,omitempty"`
	// Discard drops the output.
	Discard bool `json:"discard,omitempty"`
}

// Mount is one mount in the container's mount namespace.
type Mount struct {
	Type string `json:"type"` // bind, tmpfs, secret, image
	// Source and Target are below their roots, out of which no link may lead; absolute where the root is empty.
	SourceRoot string `json:"source_root,omitempty"`
	Source     string `json:"source,omitempty"`
	TargetRoot string `json:"target_root,omitempty"`
	Target     string `json:"target"`
	Data       string `json:"data,omitempty"`
	RO         bool   `json:"ro,omitempty"`
	// IDMap: what belongs to a user on the disk belongs to the same one in the container's user namespace (bind).
	IDMap bool `json:"id_map,omitempty"`
	// Secret is the number of the secret that the file holds, for mounts of that type.
	Secret int `json:"secret,omitempty"`
	// Layers and Scratch are an image's, as in Root; a read-only one has no Scratch.
	Layers  []string `json:"layers,omitempty"`
	Scratch string   `json:"scratch,omitempty"`
}

// IDs is a range of the host's user and group ids, which in a user namespace are those from 0 on.
type IDs struct {
	First uint32 `json:"first"`
	// OpenNetwork: the network namespace is the container's alone, and lets everyone in it listen on every port, and ping: the
	// namespace belongs to the host's root, who is nobody in the container.
	OpenNetwork bool `json:"open_network,omitempty"`
}

// Host gives the host's id of an id in the container.
func (i *IDs) Host(id uint32) int {
	if i == nil {
		return int(id)
	}
	return int(i.First + id)
}

// Namespace names one namespace to enter.
type Namespace struct {
	Kind string `json:"kind"` // pid, mnt, net, ipc, uts, user
	Path string `json:"path"` // /proc/PID/ns/KIND
}

// Docker is a container that the agent has made in a Docker Engine and the helper starts, or a command to run inside one.
type Docker struct {
	Socket string `json:"socket"`
	Name   string `json:"name"`
	// HiddenEnv names variables whose values are secrets: they are not told.
	HiddenEnv []string `json:"hidden_env,omitempty"`
	// StopTimeout is the time between SIGTERM and SIGKILL where neither the kill nor the task says; 0: the built-in.
	StopTimeout time.Duration `json:"stop_timeout,omitempty"`
	// Exec is run inside the container Name; nil: the container itself is run.
	Exec *DockerExec `json:"exec,omitempty"`
}

// DockerExec is a command inside a running container.
type DockerExec struct {
	Cmd  []string `json:"cmd"`
	Env  []string `json:"env,omitempty"`
	User string   `json:"user,omitempty"`
}

// DockerState is what the helper writes once the container runs.
type DockerState struct {
	ID  string `json:"id"`
	PID int    `json:"pid,omitempty"` // of its first process, in the host's PID namespace; 0: not to be trusted
	IPs []IP   `json:"ips,omitempty"`
}

// DockerCommand is what the helper writes once a command inside a container runs: Docker itself can't end it.
type DockerCommand struct {
	ContainerID string `json:"container_id"` // what the Engine calls it
	PID         int    `json:"pid"`
	StartTime   uint64 `json:"start_time"` // in ticks since boot: a PID alone may be another process's by now
}

// IP is an address of a container.
type IP struct {
	Network string `json:"network"`
	Address string `json:"address"`
}

// Memory is what to say when the container's memory is exhausted; the agent writes it, the helper reads it.
type Memory struct {
	Message    string `json:"message"`
	Limitation []byte `json:"limitation,omitempty"` // an encoded TaskResourceLimitation
}

// Link is how an executor reaches the agent.
type Link struct {
	Socket      string `json:"socket"`
	Token       string `json:"token"`
	FrameworkID string `json:"framework_id"`
	ExecutorID  string `json:"executor_id"`
	// Checkpoint: survive without the agent for Recovery; else end when the connection is lost.
	Checkpoint  bool          `json:"checkpoint"`
	Recovery    time.Duration `json:"recovery"`
	BackoffMax  time.Duration `json:"backoff_max"`
	Grace       time.Duration `json:"grace"` // executor_shutdown_grace_period: the agent kills the container after it
	TaskKilling bool          `json:"task_killing"`
}

// Status is what the helper writes at the end.
type Status struct {
	Known  bool  `json:"known"`  // the process ran and its wait status is known
	Status int32 `json:"status"` // raw wait status
	// Why is set when something else than the process decided its end.
	Why *Why `json:"why,omitempty"`
}

// Why is what a status update says of an end that the process did not choose.
type Why struct {
	State      string `json:"state"`  // "TASK_FAILED"
	Reason     string `json:"reason"` // "REASON_…"
	Message    string `json:"message"`
	Limitation []byte `json:"limitation,omitempty"` // an encoded TaskResourceLimitation
}

// Started is the helper's answer once the process runs, or why it does not.
type Started struct {
	PID   int    `json:"pid,omitempty"` // in the helper's own PID namespace
	Error string `json:"error,omitempty"`
}

// Write replaces the file name in dir. The runtime directory does not survive a reboot and neither does what it
// describes, so nothing is synced.
func Write(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+name+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

// Create writes the file name in dir, which nobody reads before this returns: what a crash cuts short belongs to a container
// that was never started.
func Create(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), b, 0o600)
}

// Read reads the file name in dir into v.
func Read(dir, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return nil
}
