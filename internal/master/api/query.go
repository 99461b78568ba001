package api

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/files"
	"github.com/orchestrator/orchestrator/internal/master/core"
	"github.com/orchestrator/orchestrator/internal/version"
)

// queries are the calls that only read.
var queries = map[masterv1.Call_Type]queryFunc{
	masterv1.Call_GET_HEALTH: answer(func(*view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_HEALTH.Enum(), GetHealth: &masterv1.Response_GetHealth{Healthy: proto.Bool(true)}}
	}),
	masterv1.Call_GET_VERSION: answer(func(*view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_VERSION.Enum(), GetVersion: &masterv1.Response_GetVersion{VersionInfo: versionInfo()}}
	}),
	masterv1.Call_GET_FLAGS: func(_ context.Context, v *view, _ *masterv1.Call) (*masterv1.Response, int, error) {
		if !v.s.may(v.principal, actionViewFlags, "") {
			return nil, http.StatusForbidden, fmt.Errorf("Principal '%s' may not view flags", v.principal) //nolint:staticcheck // shown to clients
		}
		out := &masterv1.Response_GetFlags{}
		for _, name := range slices.Sorted(maps.Keys(v.s.opts.Flags)) {
			out.Flags = append(out.Flags, &mesosv1.Flag{Name: proto.String(name), Value: proto.String(v.s.opts.Flags[name])})
		}
		return &masterv1.Response{Type: masterv1.Response_GET_FLAGS.Enum(), GetFlags: out}, 0, nil
	},
	masterv1.Call_GET_METRICS: answer(func(v *view) *masterv1.Response {
		out := &masterv1.Response_GetMetrics{}
		for _, m := range v.s.opts.Metrics.Snapshot() {
			out.Metrics = append(out.Metrics, &mesosv1.Metric{Name: proto.String(m.Name), Value: proto.Float64(m.Value)})
		}
		return &masterv1.Response{Type: masterv1.Response_GET_METRICS.Enum(), GetMetrics: out}
	}),
	masterv1.Call_GET_LOGGING_LEVEL: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{
			Type:            masterv1.Response_GET_LOGGING_LEVEL.Enum(),
			GetLoggingLevel: &masterv1.Response_GetLoggingLevel{Level: proto.Uint32(verbosity(v.s.opts.Level.Level()))},
		}
	}),
	masterv1.Call_GET_STATE: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_STATE.Enum(), GetState: v.state()}
	}),
	masterv1.Call_GET_AGENTS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_AGENTS.Enum(), GetAgents: v.agents()}
	}),
	masterv1.Call_GET_FRAMEWORKS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_FRAMEWORKS.Enum(), GetFrameworks: v.getFrameworks()}
	}),
	masterv1.Call_GET_EXECUTORS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_EXECUTORS.Enum(), GetExecutors: v.executors()}
	}),
	masterv1.Call_GET_OPERATIONS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_OPERATIONS.Enum(), GetOperations: v.operations()}
	}),
	masterv1.Call_GET_TASKS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_TASKS.Enum(), GetTasks: v.tasks()}
	}),
	masterv1.Call_GET_ROLES: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_ROLES.Enum(), GetRoles: v.getRoles()}
	}),
	masterv1.Call_GET_WEIGHTS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_WEIGHTS.Enum(), GetWeights: &masterv1.Response_GetWeights{WeightInfos: v.weights()}}
	}),
	masterv1.Call_GET_MASTER: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_MASTER.Enum(), GetMaster: &masterv1.Response_GetMaster{
			MasterInfo: v.snap.Master, StartTime: proto.Float64(seconds(v.snap.StartTime)), ElectedTime: proto.Float64(seconds(v.snap.ElectedTime)),
		}}
	}),
	masterv1.Call_GET_QUOTA: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{Type: masterv1.Response_GET_QUOTA.Enum(), GetQuota: &masterv1.Response_GetQuota{Status: v.quotaStatus()}}
	}),
	masterv1.Call_GET_MAINTENANCE_STATUS: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{
			Type:                 masterv1.Response_GET_MAINTENANCE_STATUS.Enum(),
			GetMaintenanceStatus: &masterv1.Response_GetMaintenanceStatus{Status: v.maintenance()},
		}
	}),
	masterv1.Call_GET_MAINTENANCE_SCHEDULE: answer(func(v *view) *masterv1.Response {
		return &masterv1.Response{
			Type:                   masterv1.Response_GET_MAINTENANCE_SCHEDULE.Enum(),
			GetMaintenanceSchedule: &masterv1.Response_GetMaintenanceSchedule{Schedule: v.schedule()},
		}
	}),
	masterv1.Call_LIST_FILES: listFiles,
	masterv1.Call_READ_FILE:  readFile,
}

// answer makes a query of a function that can't fail.
func answer(f func(*view) *masterv1.Response) queryFunc {
	return func(_ context.Context, v *view, _ *masterv1.Call) (*masterv1.Response, int, error) {
		return f(v), 0, nil
	}
}

func isQuery(t masterv1.Call_Type) bool {
	_, ok := queries[t]
	return ok
}

func (s *Server) query(ctx context.Context, call *masterv1.Call, snap *core.Snapshot, principal string) (*masterv1.Response, int, error) {
	return queries[call.GetType()](ctx, s.viewOf(snap, principal), call)
}

func versionInfo() *mesosv1.VersionInfo {
	return &mesosv1.VersionInfo{
		Version: proto.String(version.Mesos), BuildUser: proto.String("orchestrator-" + version.Version), GitSha: proto.String(version.Revision()),
		BuildDate: proto.String(""), BuildTime: proto.Float64(0),
	}
}

func listFiles(_ context.Context, v *view, c *masterv1.Call) (*masterv1.Response, int, error) {
	if v.s.opts.Files == nil {
		return nil, http.StatusNotFound, files.ErrNotFound
	}
	infos, err := v.s.opts.Files.List(v.principal, c.GetListFiles().GetPath())
	if err != nil {
		return nil, files.Status(err), err
	}
	out := &masterv1.Response_ListFiles{}
	for _, i := range infos {
		user, group := i.Owner()
		out.FileInfos = append(out.FileInfos, &mesosv1.FileInfo{
			Path: proto.String(i.Path), Nlink: proto.Int32(int32(min(i.Links, 1<<31-1))), Size: proto.Uint64(uint64(i.Size)),
			Mtime: timeInfo(i.MTime), Mode: proto.Uint32(unixMode(i.Mode)), Uid: proto.String(user), Gid: proto.String(group),
		})
	}
	return &masterv1.Response{Type: masterv1.Response_LIST_FILES.Enum(), ListFiles: out}, 0, nil
}

// unixMode is a mode as stat(2) has it.
func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	switch {
	case m.IsDir():
		out |= 0o040000
	case m&fs.ModeSymlink != 0:
		out |= 0o120000
	case m&fs.ModeNamedPipe != 0:
		out |= 0o010000
	case m&fs.ModeSocket != 0:
		out |= 0o140000
	case m&fs.ModeCharDevice != 0:
		out |= 0o020000
	case m&fs.ModeDevice != 0:
		out |= 0o060000
	default:
		out |= 0o100000
	}
	return out
}

func readFile(_ context.Context, v *view, c *masterv1.Call) (*masterv1.Response, int, error) {
	if v.s.opts.Files == nil {
		return nil, http.StatusNotFound, files.ErrNotFound
	}
	r := c.GetReadFile()
	length := int64(-1)
	if r.Length != nil {
		length = int64(min(r.GetLength(), files.MaxRead))
	}
	chunk, err := v.s.opts.Files.Read(v.principal, r.GetPath(), int64(min(r.GetOffset(), 1<<62)), length)
	if err != nil {
		return nil, files.Status(err), err
	}
	return &masterv1.Response{
		Type:     masterv1.Response_READ_FILE.Enum(),
		ReadFile: &masterv1.Response_ReadFile{Size: proto.Uint64(uint64(chunk.Size)), Data: chunk.Data},
	}, 0, nil
}

// loggingToggle raises the log level for a time.
type loggingToggle struct {
	mu       sync.Mutex
	original *slog.Level // while it is raised
	timer    *time.Timer
}

// verbosity is a slog level as glog's -v: 0 is normal, 1 and above also show debug messages.
func verbosity(l slog.Level) uint32 {
	if l <= slog.LevelDebug {
		return 1
	}
	return 0
}

// maxVerbosity is the highest level that Mesos takes.
const maxVerbosity = 3

func (s *Server) setLoggingLevel(principal string, level uint32, nanoseconds int64) (int, error) {
	if !s.may(principal, actionSetLogLevel, "") {
		return http.StatusForbidden, fmt.Errorf("Principal '%s' may not set the log level", principal) //nolint:staticcheck // shown to clients
	}
	if level > maxVerbosity {
		return http.StatusBadRequest, fmt.Errorf("Invalid level %d: it is 0 to %d", level, maxVerbosity) //nolint:staticcheck // shown to clients
	}
	if nanoseconds < 0 {
		return http.StatusBadRequest, fmt.Errorf("Invalid duration: it is negative") //nolint:staticcheck // shown to clients
	}
	t := &s.toggling
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.original == nil {
		was := s.opts.Level.Level()
		t.original = &was
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	set := *t.original
	if level > 0 {
		set = min(set, slog.LevelDebug)
	}
	s.opts.Level.Set(set)
	t.timer = time.AfterFunc(time.Duration(nanoseconds), func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.original != nil {
			s.opts.Level.Set(*t.original)
			t.original = nil
		}
	})
	return http.StatusOK, nil
}
