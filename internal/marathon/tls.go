package marathon

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificate is the API's certificate with its key, from one file. The file is read again when it has changed, so that a renewed
// certificate needs no restart; while the new one can't be used the old one stays.
type certificate struct {
	path string

	mu     sync.Mutex
	seen   time.Time // modification time of what was tried last
	loaded *tls.Certificate
}

// keystores begin like this: Java's own format, and PKCS #12 (an ASN.1 sequence).
var (
	jksMagic    = []byte{0xfe, 0xed, 0xfe, 0xed}
	pkcs12Magic = []byte{0x30, 0x82}
)

func newCertificate(path string) (*certificate, error) {
	c := &certificate{path: path}
	if _, err := c.current(nil); err != nil {
		return nil, err
	}
	return c, nil
}

// current gives the certificate for a handshake.
func (c *certificate) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err == nil && !info.ModTime().Equal(c.seen) {
		c.seen = info.ModTime()
		var fresh *tls.Certificate
		if fresh, err = readCertificate(c.path); err == nil {
			c.loaded = fresh
		}
	}
	if c.loaded == nil {
		if err == nil {
			err = errors.New("it could not be read before")
		}
		return nil, fmt.Errorf("reading --ssl_keystore_path: %w", err)
	}
	return c.loaded, nil
}

func readCertificate(path string) (*tls.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b, jksMagic) || bytes.HasPrefix(b, pkcs12Magic) {
		return nil, fmt.Errorf("%s is a Java or PKCS #12 keystore, and a PEM file with certificates and key is needed; make one with: "+
			"keytool -importkeystore -srckeystore %s -destkeystore k.p12 -deststoretype pkcs12 && openssl pkcs12 -in k.p12 -nodes -out marathon.pem", path, path)
	}
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, fmt.Errorf("%s must hold a certificate, those that signed it, and the unencrypted key, as PEM: %w", path, err)
	}
	return &cert, nil
}

// serverTLS is how the API is served over TLS.
func (c *certificate) serverTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.current, NextProtos: []string{"http/1.1"}}
}

// clientTLS is how a standby asks the leader: besides the system's authorities those in the own file are trusted, which sign the
// certificates of all processes, or are the certificate itself.
func (c *certificate) clientTLS() *tls.Config {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if cert, err := c.current(nil); err == nil {
		for _, der := range cert.Certificate {
			if x, err := x509.ParseCertificate(der); err == nil {
				pool.AddCert(x)
			}
		}
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
}
