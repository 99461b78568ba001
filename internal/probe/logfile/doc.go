// Package logfile reads the log files of containers: those that Kubernetes' runtimes write (CRI), lines of JSON (json-file, as
// Docker and nerdctl write them), and plain output. It finds the last so many lines without reading the rest, goes on in the next
// file when one is rotated away, and never reads what is not a regular file below the directory that it was given.
//
// The probe calls it, with names that a runtime or an agent has told.
package logfile
