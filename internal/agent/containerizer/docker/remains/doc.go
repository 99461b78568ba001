// Package remains finds what there is of a Docker container on the host, whatever its Engine knows of it, and ends it.
//
// An Engine that is stopped in the middle of starting a container forgets that it did: with live-restore, or when it is killed,
// containerd's shim and the container's processes go on, and to the Engine the container was never started, or is not there. The
// kernel still tells: a container's processes are in control groups that bear its ID, 64 hexadecimal digits that nothing else
// bears by chance.
//
// The docker containerizer calls it, with IDs of containers that it had made itself. Invariants: a process is signalled through
// its descriptor, and only after the kernel has said, with that descriptor open, that it is the container's; whatever merely has
// the ID in its arguments is left alone.
package remains
