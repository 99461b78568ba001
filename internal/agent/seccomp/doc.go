// Package seccomp finds seccomp profiles in Docker's format by name and compiles them to the kernel's filter programs.
//
// The native containerizer calls it. Containers with an image get the profile itself (OCI runtimes compile it), processes
// without one get the program in their helper's launch paper and load it last of all before they execute.
package seccomp
