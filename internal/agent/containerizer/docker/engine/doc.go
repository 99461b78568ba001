// Package engine is the little of the Docker Engine's API that a helper needs beside a container: attach, start, wait,
// signal, run a command inside. The helper (package executor) calls it; the agent itself uses the moby client.
//
// It speaks HTTP by hand, because net/http would double the helper. Requests are HTTP/1.0 on a connection each, so that an
// answer is whatever comes before the connection's end, and paths carry no version: what is read here has been the same since
// API 1.25. Answers are bounded.
package engine
