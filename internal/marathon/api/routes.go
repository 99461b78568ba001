package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// route is one row of the table: a method and a path in which {id} stands for an id with slashes and {tail} for one segment.
type route struct {
	method  string
	path    string
	summary string
	handle  handler
	always  bool // answered also while nobody leads
	stream  bool
}

// table lists every route. Of those that match a path the one with the most fixed segments counts, so that /v2/apps/a/tasks
// is the tasks of /a and not an app of that name.
func (s *Server) table() []route {
	return []route{
		{"GET", "/v2/apps", "List apps", s.listApps, false, false},
		{"POST", "/v2/apps", "Create an app", s.createApp, false, false},
		{"PUT", "/v2/apps", "Create or change several apps", s.putApps, false, false},
		{"PATCH", "/v2/apps", "Change several apps", s.patchApps, false, false},
		{"GET", "/v2/apps/{id}", "Show an app", s.getApp, false, false},
		{"PUT", "/v2/apps/{id}", "Create or change an app", s.putApp, false, false},
		{"PATCH", "/v2/apps/{id}", "Change an app", s.patchApp, false, false},
		{"DELETE", "/v2/apps/{id}", "Remove an app", s.deleteApp, false, false},
		{"POST", "/v2/apps/{id}/restart", "Restart all instances of an app", s.restartApp, false, false},
		{"GET", "/v2/apps/{id}/tasks", "List the tasks of an app", s.appTasks, false, false},
		{"DELETE", "/v2/apps/{id}/tasks", "Kill tasks of an app", s.killAppTasks, false, false},
		{"DELETE", "/v2/apps/{id}/tasks/{tail}", "Kill a task", s.killAppTask, false, false},
		{"GET", "/v2/apps/{id}/versions", "List the versions of an app", s.appVersions, false, false},
		{"GET", "/v2/apps/{id}/versions/{tail}", "Show a version of an app", s.appVersion, false, false},
		{"GET", "/v2/apps/{id}::why", "Say why an app is not as it should be", s.why, false, false},

		{"GET", "/v2/groups", "Show all groups", s.getGroup, false, false},
		{"POST", "/v2/groups", "Create a group", s.createGroup, false, false},
		{"PUT", "/v2/groups", "Change the root group", s.putGroup, false, false},
		{"DELETE", "/v2/groups", "Remove everything", s.deleteGroup, false, false},
		{"GET", "/v2/groups/versions", "List the versions of the root group", s.groupVersions, false, false},
		{"GET", "/v2/groups/versions/{tail}", "Show a version of the root group", s.groupVersion, false, false},
		{"GET", "/v2/groups/apps", "List the apps of the root group", s.groupApps, false, false},
		{"GET", "/v2/groups/{id}", "Show a group", s.getGroup, false, false},
		{"POST", "/v2/groups/{id}", "Create a group", s.createGroup, false, false},
		{"PUT", "/v2/groups/{id}", "Create or change a group", s.putGroup, false, false},
		{"PATCH", "/v2/groups/{id}", "Set whether a group enforces its role", s.patchGroup, false, false},
		{"DELETE", "/v2/groups/{id}", "Remove a group", s.deleteGroup, false, false},
		{"GET", "/v2/groups/{id}/apps", "List the apps of a group", s.groupApps, false, false},
		{"GET", "/v2/groups/{id}/versions", "List the versions of a group", s.groupVersions, false, false},
		{"GET", "/v2/groups/{id}/versions/{tail}", "Show a version of a group", s.groupVersion, false, false},

		{"HEAD", "/v2/pods", "Tell whether pods are supported", s.headPods, false, false},
		{"GET", "/v2/pods", "List pods", s.listPods, false, false},
		{"POST", "/v2/pods", "Create a pod", s.createPod, false, false},
		{"GET", "/v2/pods/::status", "Show the status of all pods", s.podsStatus, false, false},
		{"GET", "/v2/pods/{id}", "Show a pod", s.getPod, false, false},
		{"PUT", "/v2/pods/{id}", "Change a pod", s.putPod, false, false},
		{"DELETE", "/v2/pods/{id}", "Remove a pod", s.deletePod, false, false},
		{"GET", "/v2/pods/{id}::status", "Show the status of a pod", s.podStatus, false, false},
		{"GET", "/v2/pods/{id}::versions", "List the versions of a pod", s.podVersions, false, false},
		{"GET", "/v2/pods/{id}::versions/{tail}", "Show a version of a pod", s.podVersion, false, false},
		{"DELETE", "/v2/pods/{id}::instances", "Kill instances of a pod", s.killPodInstances, false, false},
		{"DELETE", "/v2/pods/{id}::instances/{tail}", "Kill an instance of a pod", s.killPodInstance, false, false},

		{"GET", "/v2/tasks", "List tasks, as JSON or as the text that proxies read", s.listTasks, false, false},
		{"POST", "/v2/tasks/delete", "Kill tasks", s.killTasks, false, false},

		{"GET", "/v2/deployments", "List running deployments", s.listDeployments, false, false},
		{"GET", "/v2/deployments/{id}", "Show a deployment, or how it ended", s.getDeployment, false, false},
		{"DELETE", "/v2/deployments/{id}", "Cancel a deployment", s.cancelDeployment, false, false},
		{"POST", "/v2/deployments/{id}/resume", "Continue a paused deployment", s.resumeDeployment, false, false},

		{"GET", "/v2/queue", "Show what waits for resources, and why", s.queue, false, false},
		{"DELETE", "/v2/queue/{id}/delay", "Forget the launch delay of an app", s.resetDelay, false, false},

		{"GET", "/v2/events", "Stream events", s.events, false, true},
		{"GET", "/v2/eventSubscriptions", "List callback URLs", s.listCallbacks, false, false},
		{"POST", "/v2/eventSubscriptions", "Add a callback URL", s.addCallback, false, false},
		{"DELETE", "/v2/eventSubscriptions", "Remove a callback URL", s.removeCallback, false, false},

		{"GET", "/v2/info", "Show the configuration", s.info, true, false},
		{"GET", "/v2/leader", "Show the leader", s.leader, true, false},
		{"DELETE", "/v2/leader", "Give leadership up", s.abdicate, false, false},
		{"GET", "/v2/plugins", "List plugins", s.plugins, true, false},
		{"GET", "/v2/openapi.json", "Show this document", s.openapi, true, false},
		{"GET", "/ping", "Answer pong", s.ping, true, false},
		{"GET", "/metrics", "Show metrics as JSON", s.metrics, false, false},
		{"GET", "/metrics/prometheus", "Show metrics for Prometheus", s.prometheus, true, true},
		{"GET", "/logging", "List loggers and their levels", s.logging, true, false},
		{"POST", "/logging", "Change the level of the log", s.setLogging, true, false},
		{"GET", "/", "Go to the console", s.redirect("/ui/"), true, false},
		{"GET", "/help", "Go to the API's description", s.redirect("/v2/openapi.json"), true, false},
		{"GET", "/ui/", "Say where the console is", s.ui, true, false},
	}
}

// mountPrefix is where DC/OS' router puts Marathon; clients that were written for it keep it.
const mountPrefix = "/service/marathon"

// find picks the route of a request. When only the method is wrong it lists those that would do.
func (s *Server) find(r *http.Request) (*route, *request, []string) {
	path := strings.TrimPrefix(r.URL.Path, mountPrefix)
	segs := segments(path)
	var best *route
	var bestReq *request
	bestFixed := -1
	var allowed []string
	for i := range s.routes {
		rt := &s.routes[i]
		id, tail, fixed, ok := match(rt.path, segs)
		if !ok || fixed < bestFixed {
			continue
		}
		if fixed > bestFixed {
			best, allowed = nil, nil
			bestFixed = fixed
		}
		if !slices.Contains(allowed, rt.method) {
			allowed = append(allowed, rt.method)
		}
		if rt.method == r.Method || rt.method == http.MethodGet && r.Method == http.MethodHead && best == nil {
			best = rt
			bestReq = &request{Request: r, id: id, tail: tail}
		}
	}
	return best, bestReq, allowed
}

// segments splits a path; empty ones, as of a doubled or trailing slash, don't count.
func segments(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
}

// match compares a route's path with the segments of a request. {id} takes one segment or more.
func match(pattern string, segs []string) (id, tail string, fixed int, ok bool) {
	before, after, hasID := strings.Cut(pattern, "{id}")
	head := segments(before)
	if len(segs) < len(head) {
		return "", "", 0, false
	}
	for i, h := range head {
		switch {
		case h == "{tail}":
			tail = segs[i]
		case h != segs[i]:
			return "", "", 0, false
		default:
			fixed++
		}
	}
	rest := segs[len(head):]
	if !hasID {
		return "", tail, fixed, len(rest) == 0
	}
	// What follows the id: "::word", then segments.
	suffix := ""
	if strings.HasPrefix(after, "::") {
		suffix, after, _ = strings.Cut(after, "/")
	}
	end := segments(after)
	n := len(rest) - len(end)
	if n < 1 {
		return "", "", 0, false
	}
	for i, e := range end {
		switch {
		case e == "{tail}":
			tail = rest[n+i]
		case e != rest[n+i]:
			return "", "", 0, false
		default:
			fixed++
		}
	}
	id = strings.Join(rest[:n], "/")
	if suffix != "" {
		if id, ok = strings.CutSuffix(id, suffix); !ok || id == "" {
			return "", "", 0, false
		}
		fixed++
	}
	return spec.Resolve(id, spec.RootID), tail, fixed, true
}
