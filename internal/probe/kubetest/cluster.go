package kubetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Cluster is a real kube-apiserver and its etcd, without kubelets and controllers: what these would write, a test writes.
type Cluster struct {
	// URL is where the API server listens, and CA the file with which it proves itself.
	URL, CA string
	// Version is the server's, as in v1.29.6.
	Version string

	t      testing.TB
	dir    string
	etcd   string // its URL
	args   []string
	binary string
	http   *http.Client
	cmd    *exec.Cmd
	exited chan struct{}
}

// admin is the token of the one that may do everything. It leads to a server that listens on loopback while a test runs.
const admin = "kubetest-admin"

func free(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// spawn starts a program that ends with the test, and gives what tells of its end.
func spawn(t testing.TB, log, name string, args ...string) (*exec.Cmd, chan struct{}) {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // whose death is what Pdeathsig tells the child of: it has to live as long as the child
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	return cmd, exited
}

// Start runs the kube-apiserver whose binary is given, until the test ends. more are further flags of it.
func Start(t testing.TB, binary string, more ...string) *Cluster {
	t.Helper()
	etcd := os.Getenv("KUBE_ETCD")
	if etcd == "" {
		etcd = "etcd"
	}
	dir := t.TempDir()
	c := &Cluster{t: t, dir: dir, binary: binary, etcd: fmt.Sprintf("http://127.0.0.1:%d", free(t))}
	peers := fmt.Sprintf("http://127.0.0.1:%d", free(t))
	spawn(t, filepath.Join(dir, "etcd.log"), etcd, "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	c.eventually("etcd", func() error { return c.etcdCall("/v3/kv/range", `{"key":"AA=="}`, nil) })

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"sa.key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), "tokens.csv": admin + ",admin,admin,system:masters\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := free(t)
	c.URL, c.CA = fmt.Sprintf("https://127.0.0.1:%d", port), filepath.Join(dir, "certs", "apiserver.crt")
	c.args = append([]string{
		"--etcd-servers", c.etcd, "--secure-port", strconv.Itoa(port), "--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.1",
		"--endpoint-reconciler-type", "none", "--cert-dir", filepath.Join(dir, "certs"), "--token-auth-file", filepath.Join(dir, "tokens.csv"),
		"--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16", "--disable-admission-plugins", "ServiceAccount",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file", filepath.Join(dir, "sa.key"),
	}, more...)
	c.up()
	var version struct{ GitVersion string }
	c.get("/version", &version)
	c.Version = version.GitVersion
	return c
}

// up starts the API server and waits until it is ready.
func (c *Cluster) up() {
	c.t.Helper()
	c.cmd, c.exited = spawn(c.t, filepath.Join(c.dir, "apiserver.log"), c.binary, c.args...)
	c.eventually("the API server", func() error {
		if c.http == nil {
			b, err := os.ReadFile(c.CA)
			if err != nil {
				return err
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(b)
			c.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}}}
		}
		_, err := c.try(http.MethodGet, "/readyz", "", "")
		return err
	})
}

// Restart ends the API server, by force or by its own doing, and starts it again at the same address.
func (c *Cluster) Restart(force bool) {
	c.t.Helper()
	if force {
		_ = c.cmd.Process.Kill()
	} else {
		_ = c.cmd.Process.Signal(os.Interrupt)
	}
	<-c.exited
	c.http.CloseIdleConnections()
	c.up()
}

// Compact makes etcd forget all history up to now.
func (c *Cluster) Compact() {
	c.t.Helper()
	var at struct{ Header struct{ Revision string } }
	if err := c.etcdCall("/v3/kv/range", `{"key":"AA=="}`, &at); err != nil {
		c.t.Fatal(err)
	}
	if err := c.etcdCall("/v3/kv/compaction", `{"revision":"`+at.Header.Revision+`","physical":true}`, nil); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) etcdVersion() string {
	var v struct{ Etcdserver string }
	resp, err := http.Get(c.etcd + "/version")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		c.t.Fatal(err)
	}
	return v.Etcdserver
}

// etcdCall uses etcd's own gateway from JSON, which spares its client library.
func (c *Cluster) etcdCall(path, body string, out any) error {
	resp, err := http.Post(c.etcd+path, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// Do is a request of the one that may do everything; a refusal fails the test. The kind of a patch is a merge.
func (c *Cluster) Do(method, path, body string) []byte {
	c.t.Helper()
	kind := "application/json"
	if method == http.MethodPatch {
		kind = "application/merge-patch+json"
	}
	b, err := c.try(method, path, kind, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// Make creates an object of a collection, and then writes its status, if it has one, as a controller or kubelet would.
func (c *Cluster) Make(path, text string) {
	c.t.Helper()
	var o struct {
		Metadata struct{ Name string }
		Status   json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		c.t.Fatalf("%v: %s", err, text)
	}
	c.Do(http.MethodPost, path, text)
	if o.Status != nil {
		c.Do(http.MethodPatch, path+"/"+o.Metadata.Name+"/status", `{"status":`+string(o.Status)+`}`)
	}
}

// Has reports whether the API server knows a path.
func (c *Cluster) Has(path string) bool {
	_, err := c.try(http.MethodGet, path, "", "")
	return err == nil
}

// UID is an object's.
func (c *Cluster) UID(path string) string {
	c.t.Helper()
	var o struct{ Metadata struct{ UID string } }
	c.get(path, &o)
	return o.Metadata.UID
}

func (c *Cluster) get(path string, out any) {
	c.t.Helper()
	if err := json.Unmarshal(c.Do(http.MethodGet, path, ""), out); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) try(method, path, kind, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, c.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	req.Header.Set("Content-Type", kind)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(b))
	}
	return b, nil
}

// Account makes a service account, bound to the cluster role of the same name, and gives a token of it.
func (c *Cluster) Account(name string) (token string) {
	c.t.Helper()
	at := "/api/v1/namespaces/default/serviceaccounts"
	if _, err := c.try(http.MethodGet, at+"/"+name, "", ""); err != nil {
		c.Do(http.MethodPost, at, `{"metadata":{"name":"`+name+`"}}`)
	}
	var out struct{ Status struct{ Token string } }
	b := c.Do(http.MethodPost, at+"/"+name+"/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}`)
	if err := json.Unmarshal(b, &out); err != nil {
		c.t.Fatal(err)
	}
	return out.Status.Token
}

// Role gives a service account a role with these rules (JSON), in place of the one it had.
func (c *Cluster) Role(name, rules string) {
	c.t.Helper()
	roles := "/apis/rbac.authorization.k8s.io/v1/clusterroles"
	body := `{"metadata":{"name":"` + name + `"},"rules":` + rules + `}`
	if _, err := c.try(http.MethodGet, roles+"/"+name, "", ""); err == nil {
		c.Do(http.MethodPut, roles+"/"+name, body)
		return
	}
	c.Do(http.MethodPost, roles, body)
	c.Do(http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"`+name+`"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"`+name+`"},"subjects":[{"kind":"ServiceAccount","name":"`+name+`","namespace":"default"}]}`)
}

// Allowed waits until the API server answers a path to a token with a status: rights and tokens are cached there.
func (c *Cluster) Allowed(token, path string, status int) {
	c.t.Helper()
	c.eventually("the API server's answer", func() error {
		if got := c.status(token, path); got != status {
			return fmt.Errorf("%s: status %d, not %d", path, got, status)
		}
		return nil
	})
}

func (c *Cluster) status(token, path string) int {
	c.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, c.URL+path, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.http.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Hold takes the last request that a client is granted at a time: it begins to send an object to a collection, and does not come to
// an end until the function that it gives is called. From then on the client gets 429 for path.
func (c *Cluster) Hold(token, collection, path string) (end func()) {
	c.t.Helper()
	c.eventually("requests to be too many", func() error {
		end = c.hold(token, collection)
		for range 10 {
			if got := c.status(token, path); got != http.StatusTooManyRequests { // it was itself one too many
				end()
				return fmt.Errorf("%s: status %d", path, got)
			}
		}
		return nil
	})
	return end
}

func (c *Cluster) hold(token, collection string) (end func()) {
	body, w := io.Pipe()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, c.URL+collection, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := c.http.Do(req); err == nil {
			resp.Body.Close()
		}
		body.Close()
	}()
	_, _ = io.WriteString(w, " ")
	return func() { _ = w.CloseWithError(io.ErrUnexpectedEOF); <-done }
}

func (c *Cluster) eventually(what string, f func() error) {
	c.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if c.exited != nil {
			select {
			case <-c.exited:
				log, _ := os.ReadFile(filepath.Join(c.dir, "apiserver.log"))
				c.t.Fatalf("the API server ended: %s", log[max(0, len(log)-4000):])
			default:
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("waited for %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *Cluster) address() *url.URL {
	u, err := url.Parse(c.URL)
	if err != nil {
		c.t.Fatal(err)
	}
	return u
}
