// Package cli is the command tree of the orchestrator binary: one file per command, flags -> Config -> New -> Run.
//
// It and package up are the only ones that know every component. A command returns an error; Main prints it once and
// turns it into the exit code: 0 done, 1 failed, 2 wrong usage.
package cli
