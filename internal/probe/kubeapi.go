package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/orchestrator/orchestrator/internal/topology"
)

// kubeAPI is a lean client of Kubernetes' API: lists in pages, watches with bookmarks, and one object at a time for the lease.
// client-go would do the same for close to the size of the rest of this program (docs/dependencies.md).
type kubeAPI struct {
	base  *url.URL
	http  *http.Client
	token func() (string, error)
	// namespace is where this probe itself runs, when it runs in the cluster.
	namespace string
	// watchFor is how long a watch lives before it is begun anew from where it was: a connection that has died unseen can't hold longer.
	watchFor time.Duration
}

const (
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	kubePage          = 500
	maxKubePage       = 64 << 20
	maxKubeObject     = 8 << 20
	maxRetryAfter     = 300 // seconds
)

// errKubeGone says that the place in the history from which a watch should go on is no longer kept.
var errKubeGone = errors.New("the API server keeps no history that far back")

// kubeStatusError is an answer that is not a success.
type kubeStatusError struct {
	status  int
	message string
	after   time.Duration // not to ask again before; 0: the server doesn't say
}

func (e *kubeStatusError) Error() string { return e.message }

func newKubeAPI(server string, conf *tls.Config, token func() (string, error)) (*kubeAPI, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("the API server's address %q is not a URL", server)
	}
	return &kubeAPI{base: u, token: token, watchFor: 5 * time.Minute, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout: time.Minute, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, Proxy: http.ProxyFromEnvironment,
	}}}, nil
}

// inCluster makes the client of a probe that runs in a pod, from what Kubernetes puts there.
func inCluster(getenv func(string) string, dir string) (*kubeAPI, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("this probe does not run in a pod (KUBERNETES_SERVICE_HOST is not set): give --kubeconfig")
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("the cluster's authority holds no certificate")
	}
	k, err := newKubeAPI("https://"+net.JoinHostPort(host, port), conf, tokenFromFile(filepath.Join(dir, "token")))
	if err != nil {
		return nil, err
	}
	if ns, err := os.ReadFile(filepath.Join(dir, "namespace")); err == nil {
		k.namespace = strings.TrimSpace(string(ns))
	}
	return k, nil
}

// tokenFromFile reads the token at every request: Kubernetes changes it every hour.
func tokenFromFile(path string) func() (string, error) {
	return func() (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
}

// kubeConfig is what is understood of a kubeconfig file.
type kubeConfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster   string `yaml:"cluster"`
			User      string `yaml:"user"`
			Namespace string `yaml:"namespace"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			Server   string `yaml:"server"`
			CA       string `yaml:"certificate-authority"`
			CAData   string `yaml:"certificate-authority-data"`
			Name     string `yaml:"tls-server-name"`
			Insecure bool   `yaml:"insecure-skip-tls-verify"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string `yaml:"name"`
		User struct {
			Token     string `yaml:"token"`
			TokenFile string `yaml:"tokenFile"`
			Cert      string `yaml:"client-certificate"`
			CertData  string `yaml:"client-certificate-data"`
			Key       string `yaml:"client-key"`
			KeyData   string `yaml:"client-key-data"`
			Exec      any    `yaml:"exec"`
			Provider  any    `yaml:"auth-provider"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// fromKubeConfig makes the client that a kubeconfig file's current context describes.
func fromKubeConfig(path string) (*kubeAPI, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c kubeConfig
	if err := yaml.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, x := range c.Contexts {
		if x.Name == c.Current {
			k, err := c.client(filepath.Dir(path), x.Context.Cluster, x.Context.User)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			k.namespace = x.Context.Namespace
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s: there is no context %q, which current-context names", path, c.Current)
}

func (c *kubeConfig) client(dir, cluster, user string) (*kubeAPI, error) {
	// A value is given in place, or as a file beside this one.
	read := func(data, file string) ([]byte, error) {
		if data != "" {
			return base64.StdEncoding.DecodeString(data)
		}
		if file == "" {
			return nil, nil
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		return os.ReadFile(file)
	}
	server, conf := "", &tls.Config{MinVersion: tls.VersionTLS12}
	for _, x := range c.Clusters {
		if x.Name != cluster {
			continue
		}
		server, conf.ServerName = x.Cluster.Server, x.Cluster.Name
		conf.InsecureSkipVerify = x.Cluster.Insecure //nolint:gosec // the file says so
		pem, err := read(x.Cluster.CAData, x.Cluster.CA)
		if err != nil {
			return nil, fmt.Errorf("certificate-authority: %w", err)
		}
		if pem != nil {
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, errors.New("certificate-authority: it holds no certificate")
			}
		}
	}
	token := func() (string, error) { return "", nil }
	for _, x := range c.Users {
		if x.Name != user {
			continue
		}
		if x.User.Exec != nil || x.User.Provider != nil {
			return nil, fmt.Errorf("user %q logs in with a program (exec or auth-provider), which a probe can't: use a token or a certificate, such as a service account's", user)
		}
		cert, err := read(x.User.CertData, x.User.Cert)
		if err != nil {
			return nil, fmt.Errorf("client-certificate: %w", err)
		}
		key, err := read(x.User.KeyData, x.User.Key)
		if err != nil {
			return nil, fmt.Errorf("client-key: %w", err)
		}
		if cert != nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("client-certificate: %w", err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		switch {
		case x.User.Token != "":
			token = func() (string, error) { return x.User.Token, nil }
		case x.User.TokenFile != "":
			token = tokenFromFile(x.User.TokenFile)
		}
	}
	return newKubeAPI(server, conf, token)
}

// open sends a request and gives the answer when it is a success.
func (k *kubeAPI) open(ctx context.Context, method, path string, query url.Values, accept string, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(b)
	}
	u := k.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), in)
	if err != nil {
		return nil, err
	}
	token, err := k.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "orchestrator-probe")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := k.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask Kubernetes: %w", err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		var s struct{ Message string }
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if json.Unmarshal(b, &s) != nil || s.Message == "" {
			// The API server's fairness, and proxies before it, answer with a line of text.
			s.Message = resp.Status
			if text := strings.TrimSpace(string(b)); text != "" && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
				s.Message += ": " + text
			}
		}
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, &kubeStatusError{resp.StatusCode, topology.Printable(s.Message, 300), time.Duration(min(max(after, 0), maxRetryAfter)) * time.Second}
	}
	return resp, nil
}

// call does a request with one object as its answer.
func (k *kubeAPI) call(ctx context.Context, method, path string, body, out any) error {
	resp, err := k.open(ctx, method, path, nil, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, maxKubeObject)).Decode(out)
}

// accept asks for whole objects, or only for their metadata: a fraction of the size, for the server as well.
func accept(metadata, list bool) string {
	kind := "PartialObjectMetadata"
	if list {
		kind += "List"
	}
	if metadata {
		return "application/json;as=" + kind + ";g=meta.k8s.io;v=v1"
	}
	return "application/json"
}

// goneError makes an error that says so into errKubeGone.
func goneError(err error) error {
	var s *kubeStatusError
	if errors.As(err, &s) && s.status == http.StatusGone {
		return errKubeGone
	}
	return err
}

// list calls each with every object of a kind, page by page, and gives the version at which a watch goes on. When the server has
// forgotten the version of the first page before the last was asked for, that is errKubeGone.
func (k *kubeAPI) list(ctx context.Context, path string, metadata bool, each func(json.RawMessage) error) (version string, err error) {
	query := url.Values{"limit": {strconv.Itoa(kubePage)}}
	for {
		resp, err := k.open(ctx, http.MethodGet, path, query, accept(metadata, true), nil)
		if err != nil {
			return "", goneError(err)
		}
		var page struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxKubePage)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return "", fmt.Errorf("read the list of %s: %w", path, err)
		}
		for _, x := range page.Items {
			if err := each(x); err != nil {
				return "", err
			}
		}
		if page.Metadata.Continue == "" {
			return page.Metadata.ResourceVersion, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

// kubeEvent is one line of a watch.
type kubeEvent struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// watch calls began when the server grants a watch, and each with every change after a version until the server ends the watch. It
// gives the version that was reached.
func (k *kubeAPI) watch(ctx context.Context, path string, metadata bool, version string, began func(), each func(kind string, object json.RawMessage) error) (string, error) {
	ctx, stop := context.WithTimeout(ctx, k.watchFor+30*time.Second)
	defer stop()
	query := url.Values{
		"watch": {"1"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(int(k.watchFor.Seconds()))},
	}
	resp, err := k.open(ctx, http.MethodGet, path, query, accept(metadata, false), nil)
	if err != nil {
		return version, goneError(err)
	}
	defer resp.Body.Close()
	began()
	budget := &io.LimitedReader{R: resp.Body}
	dec := json.NewDecoder(budget)
	for {
		budget.N = maxKubeObject
		var e kubeEvent
		if err := dec.Decode(&e); err != nil {
			switch {
			case budget.N <= 0:
				return version, fmt.Errorf("an object of %s is larger than %d MB", path, maxKubeObject>>20)
			case errors.Is(err, io.EOF):
				return version, nil
			}
			return version, fmt.Errorf("watch %s: %w", path, err)
		}
		var o struct {
			Code     int
			Message  string
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(e.Object, &o); err != nil {
			return version, fmt.Errorf("watch %s: %w", path, err)
		}
		switch e.Type {
		case "ERROR":
			return version, goneError(&kubeStatusError{status: o.Code, message: topology.Printable(o.Message, 300)})
		case "ADDED", "MODIFIED", "DELETED":
			if err := each(e.Type, e.Object); err != nil {
				return version, err
			}
		}
		if o.Metadata.ResourceVersion != "" {
			version = o.Metadata.ResourceVersion
		}
	}
}
