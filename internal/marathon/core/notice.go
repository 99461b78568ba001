package core

import (
	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// Notice is an event of Marathon's event stream: Type names it, Fields is what its JSON object holds besides eventType and
// timestamp. Whoever publishes it encodes it once.
type Notice struct {
	Type   string
	At     spec.Version
	Fields any
}

// StatusUpdate is status_update_event.
type StatusUpdate struct {
	AgentID    string        `json:"slaveId"`
	TaskID     string        `json:"taskId"`
	TaskStatus string        `json:"taskStatus"`
	Message    string        `json:"message"`
	AppID      string        `json:"appId"`
	Host       string        `json:"host"`
	Addresses  []TaskAddress `json:"ipAddresses"`
	Ports      []int         `json:"ports"`
	Version    spec.Version  `json:"version"`
}

// TaskAddress is an address as the API shows it.
type TaskAddress struct {
	IP       string `json:"ipAddress"`
	Protocol string `json:"protocol"`
}

// InstanceChanged is instance_changed_event.
type InstanceChanged struct {
	InstanceID string       `json:"instanceId"`
	Condition  Condition    `json:"condition"`
	SpecID     string       `json:"runSpecId"`
	AgentID    string       `json:"agentId"`
	Host       string       `json:"host"`
	Version    spec.Version `json:"runSpecVersion"`
}

// UnknownTerminated is unknown_instance_terminated_event.
type UnknownTerminated struct {
	InstanceID string    `json:"instanceId"`
	SpecID     string    `json:"runSpecId"`
	Condition  Condition `json:"condition"`
}

// InstanceHealthChanged is instance_health_changed_event.
type InstanceHealthChanged struct {
	InstanceID string       `json:"instanceId"`
	SpecID     string       `json:"runSpecId"`
	Healthy    *bool        `json:"healthy"`
	Version    spec.Version `json:"runSpecVersion"`
}

// HealthStatusChanged is health_status_changed_event.
type HealthStatusChanged struct {
	AppID      string       `json:"appId"`
	InstanceID string       `json:"instanceId"`
	TaskID     string       `json:"taskId"`
	Version    spec.Version `json:"version"`
	Alive      bool         `json:"alive"`
}

// FailedHealthCheck is failed_health_check_event.
type FailedHealthCheck struct {
	AppID  string `json:"appId"`
	TaskID string `json:"taskId"` // the instance's id, as Marathon has it
	Check  any    `json:"healthCheck"`
}

// HealthCheckAdded is add_health_check_event.
type HealthCheckAdded struct {
	AppID   string       `json:"appId"`
	Version spec.Version `json:"version"`
	Check   any          `json:"healthCheck"`
}

// UnhealthyKill is unhealthy_instance_kill_event.
type UnhealthyKill struct {
	AppID      string       `json:"appId"`
	TaskID     string       `json:"taskId"`
	InstanceID string       `json:"instanceId"`
	Version    spec.Version `json:"version"`
	Reason     string       `json:"reason"`
	Host       string       `json:"host"`
	AgentID    string       `json:"slaveId"`
}

// AppTerminated is app_terminated_event.
type AppTerminated struct {
	AppID string `json:"appId"`
}

// GroupChange is group_change_success and group_change_failed.
type GroupChange struct {
	GroupID string       `json:"groupId"`
	Version spec.Version `json:"version"`
	Reason  string       `json:"reason,omitempty"`
}

// PlanInfo is the light form of a plan.
type PlanInfo struct {
	ID      string       `json:"id"`
	Version spec.Version `json:"version"`
	Steps   []StepInfo   `json:"steps"`
}

// StepInfo is one step of a plan.
type StepInfo struct {
	Actions []ActionInfo `json:"actions"`
}

// ActionInfo is one action: exactly one of App and Pod is there.
type ActionInfo struct {
	Action string `json:"action"`
	App    string `json:"app,omitempty"`
	Pod    string `json:"pod,omitempty"`
}

// DeploymentStep is deployment_info, deployment_step_success and deployment_step_failure.
type DeploymentStep struct {
	Plan        PlanInfo `json:"plan"`
	CurrentStep StepInfo `json:"currentStep"`
}

// DeploymentEnd is deployment_success and deployment_failed.
type DeploymentEnd struct {
	ID     string   `json:"id"`
	Plan   PlanInfo `json:"plan"`
	Reason string   `json:"reason,omitempty"`
}

// PostEvent is api_post_event.
type PostEvent struct {
	ClientIP string    `json:"clientIp"`
	URI      string    `json:"uri"`
	App      *spec.App `json:"appDefinition"`
}

// PodEvent is pod_created_event, pod_updated_event and pod_deleted_event.
type PodEvent struct {
	ClientIP string `json:"clientIp"`
	URI      string `json:"uri"`
}

// SchedulerRegistered is scheduler_registered_event and, without the id, scheduler_reregistered_event.
type SchedulerRegistered struct {
	FrameworkID string `json:"frameworkId,omitempty"`
	Master      string `json:"master"`
}
