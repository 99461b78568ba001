package containerdtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message writes fields as protobuf: their numbers, each with a string, a number, or a message of such.
func Message(fields ...any) (out []byte) {
	for i := 0; i < len(fields); i += 2 {
		n := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case string:
			out = protowire.AppendString(protowire.AppendTag(out, n, protowire.BytesType), v)
		case int:
			out = protowire.AppendVarint(protowire.AppendTag(out, n, protowire.VarintType), uint64(v))
		case []byte:
			out = protowire.AppendBytes(protowire.AppendTag(out, n, protowire.BytesType), v)
		}
	}
	return out
}

// Labels is field n of a message that maps strings to strings.
func Labels(n int, pairs ...string) (out []byte) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, Message(n, Message(1, pairs[i], 2, pairs[i+1]))...)
	}
	return out
}

// CRI calls a method of the runtime as the kubelet does, and gives the string in field 1 of the answer.
func (r *Runtime) CRI(method string, request []byte) string {
	r.t.Helper()
	var both http.Protocols
	both.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &both, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.Socket)
	}}
	defer transport.CloseIdleConnections()
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/runtime.v1.RuntimeService/"+method, bytes.NewReader(append(body, request...)))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatalf("%s: %v", method, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if status := resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status"); err != nil || status != "0" {
		r.t.Fatalf("%s: status %s %s%s: %v", method, status, resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message"), err)
	}
	if len(answer) <= 5 {
		return ""
	}
	_, _, n := protowire.ConsumeTag(answer[5:])
	s, _ := protowire.ConsumeString(answer[5+n:])
	return s
}

// Pod is one of Kubernetes with one container, as the kubelet makes it, with the host's network.
type Pod struct {
	UID, Name, Namespace  string
	Container, Image      string
	Attempt               int
	LogDirectory, LogPath string
	Command               []string
}

// StartPod makes it and its container, whose image and that of its pause must have been imported, and starts it.
func (r *Runtime) StartPod(p Pod) (sandbox, id string) {
	r.t.Helper()
	node := Message(1, 2, 2, 1) // the node's network, the container's own processes
	pod := append(Message(1, Message(1, p.Name, 2, p.UID, 3, p.Namespace, 4, 0), 3, p.LogDirectory), Labels(6, "io.kubernetes.pod.uid", p.UID)...)
	pod = append(pod, Message(8, Message(1, r.Cgroup, 2, Message(1, node)))...)
	sandbox = r.CRI("RunPodSandbox", Message(1, pod))
	config := Message(1, Message(1, p.Container, 2, p.Attempt), 2, Message(1, p.Image))
	for _, s := range p.Command {
		config = append(config, Message(3, s)...)
	}
	config = append(config, Labels(9, "io.kubernetes.container.name", p.Container)...)
	config = append(config, Message(11, p.LogPath, 15, Message(2, Message(3, node)))...)
	id = r.CRI("CreateContainer", Message(1, sandbox, 2, config, 3, pod))
	r.CRI("StartContainer", Message(1, id))
	return sandbox, id
}
