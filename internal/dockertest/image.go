package dockertest

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/realpart"
)

// Busybox is the host's static busybox (Debian: busybox-static).
const Busybox = "/bin/busybox"

// Layer is a file system with a static busybox and its usual names, as a tar.
func Layer(t testing.TB, extra map[string]string) []byte {
	t.Helper()
	box, err := os.ReadFile(Busybox)
	if err != nil {
		realpart.Missing(t, "a static busybox is needed (Debian: busybox-static): %v", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		h.ModTime = time.Unix(1e9, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin/", "etc/", "tmp/", "root/"} {
		mode := int64(0o755)
		if d == "tmp/" {
			mode = 0o1777
		}
		put(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: mode}, nil)
	}
	put(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, box)
	for _, name := range strings.Fields("sh cat grep echo env sleep ls id hostname ip mount touch dd nc httpd kill ps head tail true false stty seq wget tr od yes test mkdir rm trap printf date") {
		put(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	put(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	for name, text := range extra {
		put(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte(text))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Import makes an image of a busybox under a name. changes are Dockerfile instructions (ENTRYPOINT, ENV, USER …).
func (e *Engine) Import(name string, extra map[string]string, changes ...string) {
	e.t.Helper()
	args := []string{"-H", "unix://" + e.Socket, "import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	cmd := exec.Command("docker", append(args, "-", name)...)
	cmd.Stdin = bytes.NewReader(Layer(e.t, extra))
	if out, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("import %s: %s", name, out)
	}
}

// Registry serves h on 127.0.0.1 of the Engine's network and gives its host and port. user and password, if not empty, are
// asked for with HTTP basic authentication.
func (e *Engine) Registry(h http.Handler, user, password string) string {
	e.t.Helper()
	l := e.Listen("127.0.0.1:0")
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		h.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	e.t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}

// Name makes a name that no other test has.
func Name(prefix string) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}
