package election

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Target is where a leader is to be looked for: the value of --master and --zk. Either Addresses or ZooKeeper is set.
type Target struct {
	// Addresses are "host:port" of masters, any of which redirects to the leader.
	Addresses []string
	// ZooKeeper is set for zk:// URLs.
	ZooKeeper *ZooKeeper
}

// ZooKeeper is a parsed zk://[user:password@]host:port[,host:port…]/path.
type ZooKeeper struct {
	Servers  []string // "host:port"
	Path     string   // begins with "/", is not "/" itself
	User     string
	Password string
}

// Default ports.
const (
	masterPort    = "5050"
	zookeeperPort = "2181"
)

// ParseTarget reads a zk:// URL or a comma-separated list of masters, each `host`, `host:port` or `http://host:port`.
func ParseTarget(s string) (Target, error) {
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(s, "zk://"); ok {
		zk, err := parseZooKeeper(rest)
		if err != nil {
			return Target{}, fmt.Errorf("%s: %w", redact(s), err)
		}
		return Target{ZooKeeper: zk}, nil
	}
	var t Target
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(item), "http://"), "/")
		address, err := withPort(item, masterPort)
		if err != nil {
			return Target{}, fmt.Errorf("master address %q: %w; write host:port, several joined by commas, or zk://host:port,…/path", item, err)
		}
		t.Addresses = append(t.Addresses, address)
	}
	return t, nil
}

func parseZooKeeper(rest string) (*ZooKeeper, error) {
	hosts, path, _ := strings.Cut(rest, "/")
	zk := &ZooKeeper{Path: "/" + strings.Trim(path, "/")}
	if zk.Path == "/" {
		return nil, fmt.Errorf("the path must not be empty: write zk://host:port/path, for example zk://localhost:2181/mesos")
	}
	for part := range strings.SplitSeq(zk.Path[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return nil, fmt.Errorf("the path %q has an empty, \".\" or \"..\" component", zk.Path)
		}
	}
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		var ok bool
		if zk.User, zk.Password, ok = strings.Cut(hosts[:i], ":"); !ok || zk.User == "" {
			return nil, fmt.Errorf("credentials are written user:password@")
		}
		hosts = hosts[i+1:]
	}
	for host := range strings.SplitSeq(hosts, ",") {
		server, err := withPort(strings.TrimSpace(host), zookeeperPort)
		if err != nil {
			return nil, fmt.Errorf("server %q: %w", host, err)
		}
		zk.Servers = append(zk.Servers, server)
	}
	return zk, nil
}

func withPort(s, port string) (string, error) {
	var host string
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	} else if strings.Contains(s, ":") && net.ParseIP(strings.Trim(s, "[]")) == nil {
		return "", fmt.Errorf("is not host:port")
	} else {
		host = strings.Trim(s, "[]")
	}
	if host == "" || strings.ContainsAny(host, "/ \t@?#[],") {
		return "", fmt.Errorf("has no valid host")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("has no valid port")
	}
	return net.JoinHostPort(host, port), nil
}

// redact hides the password of a URL in an error.
func redact(s string) string {
	rest := strings.TrimPrefix(s, "zk://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		return "zk://***@" + rest[i+1:]
	}
	return s
}

// String writes the target as it was given; the password is hidden.
func (t Target) String() string {
	if t.ZooKeeper == nil {
		return strings.Join(t.Addresses, ",")
	}
	u := "zk://"
	if t.ZooKeeper.User != "" {
		u += url.PathEscape(t.ZooKeeper.User) + ":***@"
	}
	return u + strings.Join(t.ZooKeeper.Servers, ",") + t.ZooKeeper.Path
}

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero Target.
func (t *Target) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Target{}
		return nil
	}
	parsed, err := ParseTarget(string(text))
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}

// IsZero reports whether nothing was given.
func (t Target) IsZero() bool { return t.ZooKeeper == nil && len(t.Addresses) == 0 }
