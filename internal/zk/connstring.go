package zk

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// DefaultPort is ZooKeeper's client port.
const DefaultPort = 2181

// ConnectString is a parsed list of servers, with what may stand around it.
type ConnectString struct {
	Servers []string // host:port
	Chroot  string   // "" or an absolute path
	// User and Password of the digest scheme, from zk://user:password@…
	User, Password string
}

// ParseConnectString reads "h1:p1,h2:p2[/chroot]", with or without "zk://[user:password@]" in front. A missing port is 2181.
func ParseConnectString(s string) (ConnectString, error) {
	var c ConnectString
	rest := strings.TrimPrefix(strings.TrimSpace(s), "zk://")
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		c.Chroot = strings.TrimRight(rest[i:], "/")
		rest = rest[:i]
		if c.Chroot != "" {
			if err := ValidatePath(c.Chroot); err != nil {
				return c, fmt.Errorf("connect string: %w", err)
			}
		}
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, password, ok := strings.Cut(rest[:i], ":")
		if !ok || user == "" {
			return c, fmt.Errorf("connect string: want user:password before @")
		}
		c.User, c.Password = user, password
		rest = rest[i+1:]
	}
	for _, h := range strings.Split(rest, ",") {
		h = strings.TrimSpace(h)
		if h == "" {
			return c, fmt.Errorf("connect string: empty server name; want host:port[,host:port…][/path]")
		}
		host, port, err := net.SplitHostPort(h)
		if err != nil {
			if strings.Contains(err.Error(), "missing port") {
				host, port = strings.Trim(h, "[]"), strconv.Itoa(DefaultPort)
			} else {
				return c, fmt.Errorf("connect string: server %q: %w", h, err)
			}
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" {
			return c, fmt.Errorf("connect string: server %q: want host:port with a port from 1 to 65535", h)
		}
		c.Servers = append(c.Servers, net.JoinHostPort(host, port))
	}
	return c, nil
}
