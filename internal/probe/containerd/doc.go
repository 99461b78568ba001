// Package containerd reads what container runtimes tell of their containers over gRPC: containerd's own API, in every
// namespace, and the Container Runtime Interface, which CRI-O and containerd serve to Kubernetes.
//
// The probe calls it. It only lists and waits for events; nothing is changed. gRPC is spoken over net/http's HTTP/2: the few
// calls that are needed are a page of code, where grpc-go and containerd's client would be a third of this program
// (docs/dependencies.md).
package containerd
