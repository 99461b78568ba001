package agent

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/core"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// defaultPath is what executors have when --executor_environment_variables says nothing.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// subscriptionBackoff is how long executors wait at most between two attempts to subscribe again (Mesos:
// EXECUTOR_REREGISTER_TIMEOUT).
const subscriptionBackoff = 2 * time.Second

// sandboxInContainer is where a container with a file system of its own sees its sandbox (Mesos: --sandbox_directory).
const sandboxInContainer = "/mnt/mesos/sandbox"

// environment collects variables; a later one replaces an earlier one of the same name.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if e.values == nil {
		e.values = map[string]string{}
	}
	if _, there := e.values[name]; !there {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// add takes the variables of a message. Secrets are values here: references have been refused (policed).
func (e *environment) add(env *mesosv1.Environment) {
	for _, v := range env.GetVariables() {
		if v.GetType() == mesosv1.Environment_Variable_SECRET {
			if value := v.GetSecret().GetValue(); value != nil {
				e.set(v.GetName(), string(value.GetData()))
			}
			continue
		}
		e.set(v.GetName(), v.GetValue())
	}
}

func (e *environment) list() []string {
	out := make([]string, 0, len(e.names))
	for _, n := range e.names {
		out = append(out, n+"="+e.values[n])
	}
	return out
}

// base is what every container gets.
func (a *Agent) baseEnvironment() *environment {
	e := &environment{}
	if a.env == nil {
		e.set("PATH", defaultPath)
		return e
	}
	names := make([]string, 0, len(a.env))
	for n := range a.env {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		e.set(n, a.env[n])
	}
	return e
}

// seenSandbox is the sandbox as the container sees it.
func seenSandbox(c *mesosv1.ContainerInfo, directory string) string {
	if c.GetType() == mesosv1.ContainerInfo_DOCKER && c.GetDocker() != nil || c.GetMesos().GetImage() != nil {
		return sandboxInContainer
	}
	return directory
}

// executorVariables are the variables of facts 2.2.
func (a *Agent) executorVariables(agent ids.Agent, l core.Launch) *environment {
	e := a.baseEnvironment()
	ip, _, err := net.SplitHostPort(a.address)
	if err != nil {
		ip = "127.0.0.1"
	}
	e.set("LIBPROCESS_IP", ip)
	e.set("LIBPROCESS_PORT", "0")
	for _, name := range []string{"MESOS_NATIVE_JAVA_LIBRARY", "MESOS_NATIVE_LIBRARY"} {
		if v := os.Getenv(name); v != "" {
			e.set(name, v)
		}
	}
	e.set("MESOS_FRAMEWORK_ID", string(l.Run.Framework))
	e.set("MESOS_EXECUTOR_ID", string(l.Run.Executor))
	e.set("MESOS_DIRECTORY", l.Directory)
	e.set("MESOS_SANDBOX", seenSandbox(l.Executor.GetContainer(), l.Directory))
	e.set("MESOS_SLAVE_ID", string(agent))
	e.set("MESOS_SLAVE_PID", "slave(1)@"+a.address)
	e.set("MESOS_AGENT_ENDPOINT", a.address)
	e.set("MESOS_CHECKPOINT", flag01(l.Framework.GetCheckpoint()))
	e.set("MESOS_HTTP_COMMAND_EXECUTOR", flag01(true))
	grace := a.cfg.ShutdownGrace
	if d := l.Executor.GetShutdownGracePeriod(); d != nil {
		grace = max(time.Duration(d.GetNanoseconds()), 0)
	}
	e.set("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", config.FormatDuration(grace))
	if l.Framework.GetCheckpoint() {
		e.set("MESOS_RECOVERY_TIMEOUT", config.FormatDuration(a.cfg.RecoveryTimeout))
		e.set("MESOS_SUBSCRIPTION_BACKOFF_MAX", config.FormatDuration(subscriptionBackoff))
	}
	if a.cfg.DomainSocket {
		e.set("MESOS_DOMAIN_SOCKET", a.socketPath())
	}
	if len(a.jwtKey) > 0 {
		e.set("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", a.executorToken(l.Run))
	}
	return e
}

func flag01(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// containerConfig describes an executor's container.
func (a *Agent) containerConfig(agent ids.Agent, l core.Launch) containerizer.Config {
	env := a.executorVariables(agent, l)
	res := l.Resources
	c := containerizer.Config{
		ID: l.Run.Container, Kind: l.Kind, FrameworkID: l.Run.Framework, ExecutorID: l.Run.Executor, Directory: l.Directory,
		User: l.User, Container: l.Executor.GetContainer(), Resources: res, Limits: l.Limits, Task: l.Task, Executor: l.Executor,
		Checkpoint: l.Framework.GetCheckpoint(),
		Labels:     map[string]string{"MESOS_TASK_ID": string(l.Run.Executor)},
	}
	if c.Container == nil {
		c.Container, _ = a.cfg.defaultContainer() // validated
	}
	switch l.Kind {
	case containerizer.CommandTask:
		c.Command = l.Task.GetCommand()
		a.taskVariables(env, l.Task.GetResources())
		env.add(l.Task.GetCommand().GetEnvironment())
	case containerizer.CustomExecutor:
		c.Command = l.Executor.GetCommand()
		a.taskVariables(env, l.Executor.GetResources())
		env.add(l.Executor.GetCommand().GetEnvironment())
	}
	for _, capability := range l.Framework.GetCapabilities() {
		c.FrameworkCapabilities = append(c.FrameworkCapabilities, capability.GetType())
	}
	c.Environment = env.list()
	return c
}

// taskVariables are those of what runs rather than of who runs it.
func (a *Agent) taskVariables(e *environment, res []*mesosv1.Resource) {
	if ip, _, err := net.SplitHostPort(a.address); err == nil {
		e.set("MESOS_CONTAINER_IP", ip)
	}
	for _, r := range res {
		if role := r.GetAllocationInfo().GetRole(); role != "" {
			e.set("MESOS_ALLOCATION_ROLE", role)
			return
		}
	}
}

// executorToken is the JWT of an executor: HS256 over its three ids (facts: security 1).
func (a *Agent) executorToken(r core.Run) string {
	claims, err := json.Marshal(map[string]string{"fid": string(r.Framework), "eid": string(r.Executor), "cid": string(r.Container)})
	if err != nil {
		return "" // three strings always encode
	}
	body := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	return body + "." + base64.RawURLEncoding.EncodeToString(a.sign(body))
}

func (a *Agent) sign(body string) []byte {
	m := hmac.New(sha256.New, a.jwtKey)
	m.Write([]byte(body))
	return m.Sum(nil)
}

// tokenClaims checks a token and gives its claims.
func (a *Agent) tokenClaims(token string) (map[string]string, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, false
	}
	mac, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !hmac.Equal(mac, a.sign(parts[0]+"."+parts[1])) {
		return nil, false
	}
	var header struct{ Alg string }
	claims := map[string]string{}
	for i, into := range []any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(data, into) != nil {
			return nil, false
		}
	}
	return claims, header.Alg == "HS256" && len(claims) > 0
}
