package docker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"golang.org/x/sys/unix"
)

// authFile is a config.json, or the older .dockercfg, which is the map alone.
type authFile struct {
	Auths       map[string]registry.AuthConfig `json:"auths"`
	CredHelpers map[string]string              `json:"credHelpers"`
	CredsStore  string                         `json:"credsStore"`
}

// maxAuthFile bounds a file of credentials.
const maxAuthFile = 1 << 20

func parseAuth(data []byte) (*authFile, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return &authFile{}, nil
	}
	var f authFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("credentials for registries: %w", err)
	}
	if f.Auths == nil && f.CredsStore == "" && f.CredHelpers == nil {
		var old map[string]registry.AuthConfig
		if err := json.Unmarshal(data, &old); err == nil {
			f.Auths = old
		}
	}
	return &f, nil
}

// indexServer is the name of Docker Hub in files of credentials.
const indexServer = "https://index.docker.io/v1/"

// authFor gives the encoded credentials for an image's registry: from a file that the task has fetched into its sandbox,
// else from the agent's own. None are found: the registry may serve everybody.
func (c *Containerizer) authFor(ctx context.Context, ref reference.Named, sandbox string) (string, error) {
	host := reference.Domain(ref)
	root, err := os.OpenRoot(sandbox)
	if err == nil {
		defer root.Close()
		// Where `docker pull` with the sandbox as its home would look.
		for _, name := range []string{".docker/config.json", ".dockercfg", "config.json"} {
			f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold us up
			if err != nil {
				continue
			}
			var data []byte
			if fi, serr := f.Stat(); serr == nil && fi.Mode().IsRegular() {
				data, err = io.ReadAll(io.LimitReader(f, maxAuthFile))
			}
			f.Close()
			if err != nil {
				return "", fmt.Errorf("read %s in the sandbox: %w", name, err)
			}
			file, err := parseAuth(data)
			if err != nil {
				if name == "config.json" {
					continue // a file of the task's own that only has the name
				}
				return "", fmt.Errorf("%s in the sandbox: %w", name, err)
			}
			// Programs are run for the agent's own file only.
			if a, ok := file.lookUp(host); ok {
				return encodeAuth(a, host)
			}
		}
	}
	file, err := parseAuth(c.cfg.Auth)
	if err != nil {
		return "", err
	}
	if helper := file.helper(host); helper != "" {
		a, err := askHelper(ctx, helper, host)
		if err != nil {
			return "", err
		}
		if a.Username != "" || a.IdentityToken != "" {
			return encodeAuth(a, host)
		}
	}
	if a, ok := file.lookUp(host); ok {
		return encodeAuth(a, host)
	}
	return "", nil
}

// lookUp finds the entry of a registry, under any of the names that are in use for it.
func (f *authFile) lookUp(host string) (registry.AuthConfig, bool) {
	for _, name := range serverNames(host) {
		if a, ok := f.Auths[name]; ok {
			return a, true
		}
	}
	return registry.AuthConfig{}, false
}

func serverNames(host string) []string {
	names := []string{host, "https://" + host, "http://" + host, host + "/", "https://" + host + "/", "https://" + host + "/v1/", "https://" + host + "/v2/"}
	if host == "docker.io" {
		names = append(names, indexServer, "index.docker.io", "https://index.docker.io", "registry-1.docker.io")
	}
	return names
}

func (f *authFile) helper(host string) string {
	for _, name := range serverNames(host) {
		if h := f.CredHelpers[name]; h != "" {
			return h
		}
	}
	return f.CredsStore
}

var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// askHelper runs docker-credential-NAME, which knows the credentials of a registry.
func askHelper(ctx context.Context, name, host string) (registry.AuthConfig, error) {
	var a registry.AuthConfig
	if !helperName.MatchString(name) {
		return a, fmt.Errorf("the credential helper %q is not a plain name", name)
	}
	server := host
	if host == "docker.io" {
		server = indexServer
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(server)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String() + said.String())
		if strings.Contains(text, "credentials not found") {
			return a, nil
		}
		return a, fmt.Errorf("the credential helper docker-credential-%s: %w: %s", name, err, text)
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return a, fmt.Errorf("the answer of docker-credential-%s: %w", name, err)
	}
	if answer.Username == "<token>" {
		a.IdentityToken = answer.Secret
	} else {
		a.Username, a.Password = answer.Username, answer.Secret
	}
	return a, nil
}

// encodeAuth makes the header's value. "auth" is user and password in one.
func encodeAuth(a registry.AuthConfig, host string) (string, error) {
	if a.Auth != "" && a.Username == "" {
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return "", errors.New("the \"auth\" of registry " + host + " is not base64")
		}
		user, password, ok := strings.Cut(string(bytes.TrimRight(b, "\x00")), ":")
		if !ok {
			return "", errors.New("the \"auth\" of registry " + host + " has no colon between user and password")
		}
		a.Username, a.Password = user, password
	}
	a.Auth = ""
	if a.ServerAddress == "" {
		a.ServerAddress = host
	}
	b, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	return base64.URLEncoding.EncodeToString(b), nil
}
