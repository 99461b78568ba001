package marathon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/store/mem"
)

// writeCertificate makes a certificate for 127.0.0.1 that signs itself, in one PEM file with its key.
func writeCertificate(t *testing.T, path, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	_ = pem.Encode(&b, &pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// over makes a request that trusts one certificate, and gives the name in the certificate that was served.
func over(t *testing.T, trusted *x509.Certificate, method, url string, header ...string) (status int, body, name string, h http.Header) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(trusted)
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for k := 0; k+1 < len(header); k += 2 {
		req.Header.Set(header[k], header[k+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.TLS.PeerCertificates[0].Subject.CommonName, resp.Header
}

// TestTLSOnly serves nothing but TLS, with credentials, from two processes: the standby passes requests on over TLS, and a renewed
// certificate is served without a restart.
func TestTLSOnly(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	st := mem.New()
	e := &oneLeader{}
	file := filepath.Join(t.TempDir(), "marathon.pem")
	cert := writeCertificate(t, file, "first")
	args := []string{"--disable_http", "--https_address=127.0.0.1", "--https_port=0", "--ssl_keystore_path=" + file, "--http_credentials=user:secret"}
	first := start(t, testConfig(t, fm.address(), args...), Deps{Store: st, Election: e.join()})
	second := start(t, testConfig(t, fm.address(), args...), Deps{Store: st, Election: e.join()})
	if !strings.HasPrefix(first.m.URL(), "https://127.0.0.1:") {
		t.Fatalf("URL %s", first.m.URL())
	}
	if s, _, _, h := over(t, cert, "GET", first.m.URL()+"/v2/apps"); s != 401 || !strings.Contains(h.Get("WWW-Authenticate"), "Mesosphere") {
		t.Errorf("without credentials: %d %v", s, h)
	}
	auth := []string{"Authorization", "Basic dXNlcjpzZWNyZXQ="}
	s, body, name, h := over(t, cert, "GET", first.m.URL()+"/v2/info", auth...)
	if s != 200 || name != "first" || h.Get("X-Marathon-Leader") != first.m.URL() || !strings.Contains(body, `"http_port":null`) || strings.Contains(body, `"https_port":null`) {
		t.Errorf("%d %s %v %s", s, name, h, body)
	}
	if s, body, _, h := over(t, cert, "GET", second.m.URL()+"/v2/leader", auth...); s != 200 || h.Get(viaHeader) == "" || !strings.Contains(body, first.m.Address()) {
		t.Errorf("by way of the standby: %d %s %v", s, body, h)
	}
	if s, _, _, h := over(t, cert, "GET", second.m.URL()+"/v2/events", append(auth, "Accept", "text/event-stream")...); s != 302 || h.Get("Location") != first.m.URL()+"/v2/events" {
		t.Errorf("events of the standby: %d %v", s, h)
	}
	renewed := writeCertificate(t, file, "second")
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, _, name, _ := over(t, renewed, "GET", first.m.URL()+"/ping", auth...); name != "second" {
		t.Errorf("the certificate of %q is served", name)
	}
	// What can't be read leaves the one before in place.
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, name, _ := over(t, renewed, "GET", first.m.URL()+"/ping", auth...); name != "second" {
		t.Errorf("the certificate of %q is served", name)
	}
}

func TestBothPorts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "marathon.pem")
	cert := writeCertificate(t, file, "x")
	i := start(t, testConfig(t, newFakeMaster(t).address(), "--https_address=127.0.0.1", "--https_port=0", "--ssl_keystore_path="+file), Deps{})
	i.want(200, "GET", "/ping", "")
	if s, _, _, h := over(t, cert, "GET", "https://"+i.m.tls.Addr().String()+"/v2/apps"); s != 200 || h.Get("X-Marathon-Leader") != "http://"+i.m.Address() {
		t.Errorf("%d %v", s, h)
	}
}

func TestBadKeystores(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for content, want := range map[string]string{"\xfe\xed\xfe\xed\x00": "keytool", "\x30\x82\x01": "openssl", "nonsense": "as PEM", "": "as PEM"} {
		file := filepath.Join(dir, "keystore")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := testConfig(t, "127.0.0.1:1", "--https_port=0", "--ssl_keystore_path="+file)
		if _, err := New(cfg, Deps{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
	cfg := testConfig(t, "127.0.0.1:1")
	cfg.DisableHTTP = true
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "ssl_keystore_path") {
		t.Errorf("nothing to serve: %v", err)
	}
}
