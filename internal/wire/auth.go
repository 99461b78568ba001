package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// Principal is who makes a request: a name, claims (of an executor's token), or both. The zero value is nobody in
// particular, which is what every request is when authentication is off.
type Principal struct {
	Name   string
	Claims map[string]string
}

// ErrUnauthenticated is returned by an Authenticator that does not accept a request's credentials, or misses them.
var ErrUnauthenticated = errors.New("not authenticated")

// Authenticator finds out who makes a request.
type Authenticator interface {
	// Authenticate returns the principal. An error that wraps ErrUnauthenticated is answered with 401, another with 503.
	Authenticate(r *http.Request) (Principal, error)
}

// Permissive takes every request, and believes a name given with Basic authentication.
type Permissive struct{}

// Authenticate never fails.
func (Permissive) Authenticate(r *http.Request) (Principal, error) {
	name, _, _ := r.BasicAuth()
	return Principal{Name: name}, nil
}

// Credentials authenticates with HTTP Basic against a fixed list.
type Credentials struct {
	secrets map[string][sha256.Size]byte
}

// NewCredentials makes an authenticator from principals and their secrets.
func NewCredentials(secrets map[string]string) *Credentials {
	c := &Credentials{secrets: make(map[string][sha256.Size]byte, len(secrets))}
	for name, secret := range secrets {
		c.secrets[name] = sha256.Sum256([]byte(secret))
	}
	return c
}

// LoadCredentials reads Mesos' --credentials file: JSON {"credentials":[{"principal":…,"secret":…}]}, or lines of
// "principal secret".
func LoadCredentials(path string) (*Credentials, error) {
	const limit = 4 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading credentials: %w", err)
	case len(data) > limit:
		return nil, fmt.Errorf("reading credentials %s: larger than %d bytes", path, limit)
	}
	secrets, err := parseCredentials(data)
	if err != nil {
		return nil, fmt.Errorf("reading credentials %s: %w", path, err)
	}
	return NewCredentials(secrets), nil
}

func parseCredentials(data []byte) (map[string]string, error) {
	secrets := make(map[string]string)
	add := func(where, principal, secret string) error {
		if principal == "" {
			return fmt.Errorf("%s has no principal", where)
		}
		if _, twice := secrets[principal]; twice {
			return fmt.Errorf("%s: principal %q appears twice", where, principal)
		}
		secrets[principal] = secret
		return nil
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		var file struct {
			Credentials []struct{ Principal, Secret string }
		}
		if err := json.Unmarshal(data, &file); err != nil {
			return nil, err
		}
		for i, c := range file.Credentials {
			if err := add(fmt.Sprintf("credentials[%d]", i), c.Principal, c.Secret); err != nil {
				return nil, err
			}
		}
		return secrets, nil
	}
	for i, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: expecting \"principal secret\"", i+1)
		}
		if err := add(fmt.Sprintf("line %d", i+1), fields[0], fields[1]); err != nil {
			return nil, err
		}
	}
	return secrets, nil
}

// Authenticate compares in constant time, whether the principal exists or not.
func (c *Credentials) Authenticate(r *http.Request) (Principal, error) {
	name, secret, ok := r.BasicAuth()
	if !ok {
		return Principal{}, ErrUnauthenticated
	}
	want, known := c.secrets[name]
	got := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !known {
		return Principal{}, ErrUnauthenticated
	}
	return Principal{Name: name}, nil
}

type principalKey struct{}

// PrincipalOf returns who makes the request, as the middleware found out.
func PrincipalOf(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// Authenticated puts an authenticator in front of a handler. realm is Mesos' name of the group of endpoints, such as
// "mesos-master-scheduler".
func Authenticated(a Authenticator, realm string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.Authenticate(r)
		switch {
		case errors.Is(err, ErrUnauthenticated):
			w.Header().Set("WWW-Authenticate", `Basic realm="`+realm+`"`)
			Error(w, http.StatusUnauthorized, "Unauthorized: send the credentials of a principal with HTTP Basic authentication")
			return
		case err != nil:
			Error(w, http.StatusServiceUnavailable, "Authentication is not available: "+err.Error())
			return
		}
		if p.Name != "" || p.Claims != nil {
			r = r.WithContext(context.WithValue(r.Context(), principalKey{}, p))
		}
		next.ServeHTTP(w, r)
	})
}
