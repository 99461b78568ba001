// Package containerd speaks with container runtimes over gRPC: containerd's own API, in every namespace, and the Container
// Runtime Interface, which CRI-O and containerd serve to Kubernetes. It lists containers, waits for events, finds logs, and
// stops, pauses and resumes containers. It starts none: what a container is started with is known to what made it.
//
// The probe calls it. gRPC is spoken over net/http's HTTP/2: the few calls that are needed are a page of code, where grpc-go and
// containerd's client would be a third of this program (docs/dependencies.md).
package containerd
