package zktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLSServer makes an authority and certificates for 127.0.0.1. It returns the options of servers that speak TLS between themselves
// and at the port Secure, and the files for a client, as zk.LoadTLS takes them.
func TLSServer(tb testing.TB) (opts Options, files string) {
	tb.Helper()
	dir := tb.TempDir()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	write := func(name string, blocks ...*pem.Block) string {
		var b []byte
		for _, p := range blocks {
			b = append(b, pem.EncodeToMemory(p)...)
		}
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, b, 0o600))
		return path
	}
	template := func(n int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := template(1)
	ca.IsCA = true
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(err)
	caFile := write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, template(2), ca, key.Public(), caKey)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	keyBlock, certBlock := &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}, &pem.Block{Type: "CERTIFICATE", Bytes: der}
	both := write("both.pem", keyBlock, certBlock)
	certFile, keyFile := write("cert.pem", certBlock), write("key.pem", keyBlock)
	opts = Options{Secure: true, Config: []string{
		"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
		"ssl.keyStore.location=" + both, "ssl.keyStore.type=PEM", "ssl.trustStore.location=" + caFile, "ssl.trustStore.type=PEM",
		"sslQuorum=true", "ssl.quorum.keyStore.location=" + both, "ssl.quorum.keyStore.type=PEM",
		"ssl.quorum.trustStore.location=" + caFile, "ssl.quorum.trustStore.type=PEM", "ssl.quorum.hostnameVerification=false",
	}}
	return opts, caFile + "," + certFile + "," + keyFile
}
