// Package kubetest answers tests as a real Kubernetes API server did, and records such answers anew.
//
// A test is written once, as a [Session] of steps. With KUBE_APISERVER naming the binary of a kube-apiserver (and etcd in PATH, or
// named by KUBE_ETCD) it starts both, carries out each step's action against them, and stands between client and server: with
// KUBE_RECORD naming a directory it writes there what was asked and answered. Without these variables nothing is started: the
// recordings of every version are played to the client instead, each answer, and each piece of a watch, no earlier than in the step in
// which it came. So the assertions of a test hold for a live server and for its recordings alike.
//
// A recording is strict where Kubernetes is: a success is given once, in its order, and to the very question that was
// recorded (path, query, accepted type). What is asked by the clock (refused requests, leases) may be asked more or less often.
// Tokens are never recorded. Read one with zcat: a line on the server, then a line for every exchange.
package kubetest
