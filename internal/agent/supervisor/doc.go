// Package supervisor is what a helper does beside one container: it starts the container's processes, reaps every
// descendant, copies output into rotated files, serves attachments and holds the end on disk until somebody asks.
//
// The helper (package executor) calls it; the agent never does. Invariants: everything that the container starts stays a
// descendant of the helper (it is the first process of its PID namespace, or else a subreaper), so that killing means
// killing descendants; nothing here waits for the agent; a full disk or a reader that does not read loses output, never
// the container. It links no protobuf and no net/http.
package supervisor
