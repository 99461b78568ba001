// Package api serves Marathon's REST API, /v2 and what stands beside it, on behalf of the leading process.
//
// It reads from snapshots of the core and writes by sending it events, so that no read ever waits for a deployment. Called by
// internal/marathon, which gives it a Backend. Invariants: every answer that is not a stream has a length; bodies are
// limited; whatever a client sends is answered with Marathon's status and body for it, never with a 5xx for a route or an
// id that doesn't exist; the routes and the OpenAPI document that is served are the same (a test compares them).
package api
