// Command leftovers runs a command, and fails with a list when it has left something behind.
//
//	leftovers go test ./...
//	go test -exec leftovers ./...
//
// `make test` does both. Around a test binary it finds what is the binary's beyond doubt: processes that outlive it (those whose parents have
// ended are given to this process, which is their reaper), and mounts and files in a directory for temporary files of its own. Around
// everything, with -host, it also tells what names nobody: control groups, network interfaces, rules of the packet filter, loop devices, named
// network namespaces and shared memory that were not there before; on a machine where somebody else starts containers meanwhile that list may
// name theirs. Over that, and over files (which a program that was killed in the middle of something leaves), it fails with -strict only.
//
// What is left of processes is ended, and of files removed, so that it does not disturb the next.
package main
