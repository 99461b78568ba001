// Package plugin is for writing plugins of `orchestrator probe`: programs that bring metrics, attributes, tables and controls of
// their own to the hosts, containers and processes on the map. It speaks version 1 of Weave Scope's plugin interface, and a
// plugin that was written for Scope runs here.
//
// A plugin listens on a unix socket, <dir>/<id>/<id>.sock, and answers two HTTP requests with JSON: GET /report with all that it
// knows (Report), and, when it has controls, POST /control (Request, Response). A probe asks for the report every few seconds and
// gives up after its time-out, so measure beside it, not in it. See examples/ for two that are whole.
//
// The package imports nothing but the standard library.
package plugin
