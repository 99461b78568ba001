package zk

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
)

// LoadTLS makes a TLS configuration from "ca.pem[,cert.pem,key.pem]": whom to trust, and with what to present oneself. "" is none.
func LoadTLS(files string) (*tls.Config, error) {
	if files == "" {
		return nil, nil
	}
	f := strings.Split(files, ",")
	if len(f) != 1 && len(f) != 3 {
		return nil, fmt.Errorf("TLS files %q: want ca.pem or ca.pem,cert.pem,key.pem", files)
	}
	ca, err := os.ReadFile(f[0])
	if err != nil {
		return nil, fmt.Errorf("TLS authority: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !cfg.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("TLS authority: %s holds no certificate in PEM", f[0])
	}
	if len(f) == 3 {
		cert, err := tls.LoadX509KeyPair(f[1], f[2])
		if err != nil {
			return nil, fmt.Errorf("TLS certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}
