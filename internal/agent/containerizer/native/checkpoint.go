package native

import (
	"fmt"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// Names of this package's own files in a container's runtime directory.
const (
	configFile      = "config"      // record: what was asked for
	terminationFile = "termination" // termination: how it ended, once nothing is left of it
)

// record is a container on disk. Messages are in their own encoding.
type record struct {
	ID           ids.Container         `json:"id"`
	Kind         containerizer.Kind    `json:"kind"`
	FrameworkID  ids.Framework         `json:"framework_id,omitempty"`
	ExecutorID   ids.Executor          `json:"executor_id,omitempty"`
	Directory    string                `json:"directory"`
	User         string                `json:"user,omitempty"`
	Environment  []string              `json:"environment,omitempty"`
	Command      []byte                `json:"command,omitempty"`
	Container    []byte                `json:"container,omitempty"`
	Task         []byte                `json:"task,omitempty"`
	Executor     []byte                `json:"executor,omitempty"`
	Resources    [][]byte              `json:"resources,omitempty"`
	Limits       map[string]limit      `json:"limits,omitempty"`
	Capabilities []int32               `json:"capabilities,omitempty"`
	Checkpoint   bool                  `json:"checkpoint,omitempty"`
	Labels       map[string]string     `json:"labels,omitempty"`
	Token        string                `json:"token,omitempty"`
	OwnGroup     bool                  `json:"own_group,omitempty"`
	Volumes      map[string]spec.Mount `json:"volumes,omitempty"`
	Network      bool                  `json:"network,omitempty"`
	Layers       []string              `json:"layers,omitempty"` // of its images
	Users        uint32                `json:"users,omitempty"`
	GPUs         []uint32              `json:"gpus,omitempty"`
}

// limit is a float that may be infinite, which JSON numbers can't.
type limit float64

// MarshalText implements encoding.TextMarshaler.
func (l limit) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%g", float64(l)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *limit) UnmarshalText(b []byte) error {
	_, err := fmt.Sscanf(string(b), "%g", (*float64)(l))
	return err
}

type vtMessage interface{ MarshalVT() ([]byte, error) }

// encode gives a message's bytes; nil for none. A message with nothing in it is told from none by one byte that no
// encoding of these messages begins with.
func encode[M vtMessage](m M, isNil bool) ([]byte, error) {
	if isNil {
		return nil, nil
	}
	b, err := m.MarshalVT()
	if err == nil && len(b) == 0 {
		b = []byte{0}
	}
	return b, err
}

func decode(b []byte, m interface{ UnmarshalVT([]byte) error }) error {
	if len(b) == 1 && b[0] == 0 {
		return nil
	}
	return m.UnmarshalVT(b)
}

// recordOf makes the record of a container.
func recordOf(ct *container) (*record, error) {
	cfg := &ct.cfg
	r := &record{
		ID: cfg.ID, Kind: cfg.Kind, FrameworkID: cfg.FrameworkID, ExecutorID: cfg.ExecutorID, Directory: cfg.Directory,
		User: cfg.User, Environment: cfg.Environment, Checkpoint: cfg.Checkpoint, Labels: cfg.Labels, Token: ct.token,
		OwnGroup: ct.ownGroup, Volumes: ct.volumes, Network: ct.network, Layers: ct.layers, Users: ct.users, GPUs: ct.gpus,
	}
	var err error
	if r.Command, err = encode(cfg.Command, cfg.Command == nil); err != nil {
		return nil, err
	}
	if r.Container, err = encode(cfg.Container, cfg.Container == nil); err != nil {
		return nil, err
	}
	if r.Task, err = encode(cfg.Task, cfg.Task == nil); err != nil {
		return nil, err
	}
	if r.Executor, err = encode(cfg.Executor, cfg.Executor == nil); err != nil {
		return nil, err
	}
	for _, res := range cfg.Resources {
		b, err := res.MarshalVT()
		if err != nil {
			return nil, err
		}
		r.Resources = append(r.Resources, b)
	}
	if len(cfg.Limits) > 0 {
		r.Limits = make(map[string]limit, len(cfg.Limits))
		for k, v := range cfg.Limits {
			r.Limits[k] = limit(v)
		}
	}
	for _, k := range cfg.FrameworkCapabilities {
		r.Capabilities = append(r.Capabilities, int32(k))
	}
	return r, nil
}

// config gives back what was asked for.
func (r *record) config() (containerizer.Config, error) {
	cfg := containerizer.Config{
		ID: r.ID, Kind: r.Kind, FrameworkID: r.FrameworkID, ExecutorID: r.ExecutorID, Directory: r.Directory, User: r.User,
		Environment: r.Environment, Checkpoint: r.Checkpoint, Labels: r.Labels,
	}
	if r.Command != nil {
		cfg.Command = new(mesosv1.CommandInfo)
		if err := decode(r.Command, cfg.Command); err != nil {
			return cfg, err
		}
	}
	if r.Container != nil {
		cfg.Container = new(mesosv1.ContainerInfo)
		if err := decode(r.Container, cfg.Container); err != nil {
			return cfg, err
		}
	}
	if r.Task != nil {
		cfg.Task = new(mesosv1.TaskInfo)
		if err := decode(r.Task, cfg.Task); err != nil {
			return cfg, err
		}
	}
	if r.Executor != nil {
		cfg.Executor = new(mesosv1.ExecutorInfo)
		if err := decode(r.Executor, cfg.Executor); err != nil {
			return cfg, err
		}
	}
	for _, b := range r.Resources {
		res := new(mesosv1.Resource)
		if err := res.UnmarshalVT(b); err != nil {
			return cfg, err
		}
		cfg.Resources = append(cfg.Resources, res)
	}
	if len(r.Limits) > 0 {
		cfg.Limits = make(map[string]float64, len(r.Limits))
		for k, v := range r.Limits {
			cfg.Limits[k] = float64(v)
		}
	}
	for _, k := range r.Capabilities {
		cfg.FrameworkCapabilities = append(cfg.FrameworkCapabilities, mesosv1.FrameworkInfo_Capability_Type(k))
	}
	return cfg, nil
}

// ending is a termination on disk.
type ending struct {
	Status     *int32 `json:"status,omitempty"`
	State      *int32 `json:"state,omitempty"`
	Reason     *int32 `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`
	Limitation []byte `json:"limitation,omitempty"`
}

func endingOf(t containerizer.Termination) (ending, error) {
	e := ending{Status: t.WaitStatus, Message: t.Message}
	if t.State != nil {
		e.State = ptr(int32(*t.State))
	}
	if t.Reason != nil {
		e.Reason = ptr(int32(*t.Reason))
	}
	var err error
	e.Limitation, err = encode(t.Limitation, t.Limitation == nil)
	return e, err
}

func (e ending) termination() (containerizer.Termination, error) {
	t := containerizer.Termination{WaitStatus: e.Status, Message: e.Message}
	if e.State != nil {
		t.State = mesosv1.TaskState(*e.State).Enum()
	}
	if e.Reason != nil {
		t.Reason = mesosv1.TaskStatus_Reason(*e.Reason).Enum()
	}
	if e.Limitation != nil {
		t.Limitation = new(mesosv1.TaskResourceLimitation)
		if err := decode(e.Limitation, t.Limitation); err != nil {
			return t, err
		}
	}
	return t, nil
}

func ptr[T any](v T) *T { return &v }
