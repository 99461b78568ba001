// Package confine computes what a container may see and do: capabilities, seccomp profile, resource limits, namespaces,
// devices, /dev/shm. Of is pure: it reads the container's description and the agent's settings and touches nothing.
//
// The native containerizer calls it once for every launch. Processes without an image get the result through the helper's
// launch paper, containers with an image through the OCI runtime's configuration: both read the same Settings, so that a
// field of LinuxInfo means the same in both. What can't be given is an error here, before anything is started.
package confine
