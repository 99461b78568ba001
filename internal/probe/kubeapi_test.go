package probe

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKubeconfigsThatCannotBeUsedSayWhy(t *testing.T) {
	t.Parallel()
	base := `{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: "https://k:6443"}}], users: [{name: u, user: {token: t}}]}`
	for name, x := range map[string]struct{ from, to, says string }{
		"no context":   {"current-context: x", "current-context: y", `no context "y"`},
		"exec":         {"{token: t}", "{exec: {command: aws}}", "logs in with a program"},
		"no server":    {"https://k:6443", "k", "is not a URL"},
		"bad data":     {`"https://k:6443"`, `"https://k:6443", certificate-authority-data: "!"`, "certificate-authority: illegal base64"},
		"no authority": {`"https://k:6443"`, `"https://k:6443", certificate-authority: nowhere`, "certificate-authority: open"},
		"half a pair":  {"{token: t}", "{client-certificate-data: YQ==}", "client-certificate: tls"},
		"fine":         {"", "", ""},
	} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(strings.Replace(base, x.from, x.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := fromKubeConfig(path)
		if x.says == "" && err != nil || x.says != "" && (err == nil || !strings.Contains(err.Error(), x.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInAClusterTheServiceAccountIsUsed(t *testing.T) {
	t.Parallel()
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	dir := t.TempDir()
	if _, err := inCluster(func(string) string { return "" }, dir); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("outside of a cluster: %v", err)
	}
	if _, err := inCluster(func(k string) string { return env[k] }, dir); err == nil || !strings.Contains(err.Error(), "authority") {
		t.Errorf("without an authority: %v", err)
	}
	srv := httptest.NewTLSServer(nil)
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, b := range map[string][]byte{"ca.crt": ca, "token": []byte("one\n"), "namespace": []byte("watch\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := inCluster(func(k string) string { return env[k] }, dir)
	if err != nil {
		t.Fatal(err)
	}
	if k.base.String() != "https://[fd00::1]:443" || k.namespace != "watch" {
		t.Errorf("%s in %q", k.base, k.namespace)
	}
	for _, want := range []string{"one", "two"} { // it changes every hour
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := k.token(); got != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}
