package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// credentials are those of a docker config.json, by registry. Programs that such a file may name (credsStore,
// credHelpers) are never run: the file may be a framework's.
type credentials map[string]authn.AuthConfig

// maxDockerConfig bounds a docker config.json.
const maxDockerConfig = 1 << 20

// parseDockerConfig reads {"auths":{"<registry>":{"auth":"<base64 of user:password>"}}} and the old form without "auths".
func parseDockerConfig(b []byte) (credentials, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > maxDockerConfig {
		return nil, fmt.Errorf("it has %d bytes, limit %d", len(b), maxDockerConfig)
	}
	type entry struct {
		Auth, Username, Password, IdentityToken, RegistryToken string
	}
	var file struct {
		Auths map[string]entry `json:"auths"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, fmt.Errorf("expecting the JSON of a docker config.json: %w", err)
	}
	if file.Auths == nil {
		var old map[string]json.RawMessage
		if err := json.Unmarshal(b, &old); err != nil {
			return nil, err
		}
		file.Auths = make(map[string]entry)
		for k, v := range old {
			var e entry
			if json.Unmarshal(v, &e) == nil && e.Auth != "" {
				file.Auths[k] = e
			}
		}
	}
	out := make(credentials)
	for registry, e := range file.Auths {
		a := authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
		if e.Auth != "" {
			text, err := base64.StdEncoding.DecodeString(strings.TrimRight(e.Auth, "\x00\n "))
			if err != nil {
				if text, err = base64.RawStdEncoding.DecodeString(e.Auth); err != nil {
					return nil, fmt.Errorf("the auth of registry %s is not base64", registry)
				}
			}
			user, password, ok := strings.Cut(string(text), ":")
			if !ok {
				return nil, fmt.Errorf("the auth of registry %s has no colon between user and password", registry)
			}
			a.Username, a.Password = user, strings.TrimRight(password, "\x00")
		}
		out[registryHost(registry)] = a
	}
	return out, nil
}

// registryHost is the part of a key that names the registry; all of Docker Hub's names are one.
func registryHost(key string) string {
	for _, scheme := range []string{"https://", "http://"} {
		key = strings.TrimPrefix(key, scheme)
	}
	key, _, _ = strings.Cut(key, "/")
	switch key {
	case "docker.io", "registry-1.docker.io", "registry.docker.io":
		return "index.docker.io"
	}
	return strings.ToLower(key)
}

// Resolve implements authn.Keychain.
func (c credentials) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if a, ok := c[registryHost(r.RegistryStr())]; ok {
		return authn.FromConfig(a), nil
	}
	return authn.Anonymous, nil
}

var errNoImage = errors.New("no such image")
