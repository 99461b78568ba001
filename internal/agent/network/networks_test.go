package network

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

func ptr[T any](v T) *T { return &v }

func open(t *testing.T, configs map[string]string) *Networks {
	t.Helper()
	dir := t.TempDir()
	for name, text := range configs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n, err := New(Config{ConfigDir: dir, PluginDirs: []string{"/nonexistent"}, StateDir: t.TempDir()}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// TestListOf: what plugins are given for a container, whatever form the configuration has.
func TestListOf(t *testing.T) {
	t.Parallel()
	n := open(t, map[string]string{
		"a.conf":     `{"cniVersion":"0.3.1","name":"single","type":"bridge","args":{"cni":{"ips":["1.2.3.4"]},"org.apache.mesos":{"old":1}}}`,
		"b.json":     `{"name":"old","type":"bridge"}`,
		"c.conflist": `{"cniVersion":"1.0.0","name":"list","plugins":[{"type":"bridge"},{"type":"mine","capabilities":{"portMappings":true}}]}`,
		"d.conf":     `{"name":"mapper","type":"mesos-cni-port-mapper","delegate":{"type":"macvlan","master":"eth0"}}`,
		"e.conf":     `{"name":"empty","type":"mesos-cni-port-mapper"}`,
		"f.conf":     `{`,
		"g.conflist": `{"cniVersion":"1.0.0","name":"odd","plugins":["x"]}`,
	})
	port := []*mesosv1.NetworkInfo_PortMapping{{HostPort: ptr(uint32(31000)), ContainerPort: ptr(uint32(80))}}
	for _, c := range []struct {
		network string
		ports   bool
		want    string // version, then the plugins' types
		err     string
	}{
		{network: "single", want: "0.3.1 bridge"},
		{network: "single", ports: true, want: "0.3.1 bridge portmap"},
		{network: "old", want: "0.1.0 bridge"},
		{network: "old", ports: true, want: "0.3.1 bridge portmap"},
		{network: "list", ports: true, want: "1.0.0 bridge mine"},
		{network: "mapper", ports: true, want: "0.3.1 macvlan portmap"},
		{network: "empty", err: "no delegate"},
		{network: "odd", err: "not objects"},
		{network: "none", err: "no network of this name"},
	} {
		info := &mesosv1.NetworkInfo{Name: &c.network, Groups: []string{"g"}}
		if c.ports {
			info.PortMappings = port
		}
		list, err := n.listOf(info)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.network, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.network, err)
			continue
		}
		got := list.CNIVersion
		for _, p := range list.Plugins {
			got += " " + p.Network.Type
			var told struct {
				Args map[string]struct {
					Info struct {
						Name   string
						Groups []string
					} `json:"network_info"`
				}
			}
			if err := json.Unmarshal(p.Bytes, &told); err != nil || told.Args["org.apache.mesos"].Info.Name != c.network || told.Args["org.apache.mesos"].Info.Groups[0] != "g" {
				t.Errorf("%s: plugin %s is told %s", c.network, p.Network.Type, p.Bytes)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.network, got, c.want)
		}
	}
	// What the configuration itself says in args stays.
	list, err := n.listOf(&mesosv1.NetworkInfo{Name: ptr("single")})
	if err != nil || !strings.Contains(string(list.Plugins[0].Bytes), "1.2.3.4") {
		t.Errorf("%v %v", list, err)
	}
	if err := n.Check([]*mesosv1.NetworkInfo{{Name: ptr("single")}}); err == nil || !strings.Contains(err.Error(), `plugin "bridge" is not in /nonexistent`) {
		t.Errorf("a plugin that is not there: %v", err)
	}
	if err := n.Check([]*mesosv1.NetworkInfo{{Name: ptr("single")}, {Name: ptr("single")}}); err == nil {
		t.Error("a network that is named twice is no error")
	}
}

// TestDamagedState: a record that can't be read is told of once, and given up, and not in the way of anything.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	n := open(t, nil)
	if err := os.MkdirAll(n.dir("c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.state("c"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Find("c"); err == nil {
		t.Error("a damaged record is no error")
	}
	if err := n.Detach(t.Context(), "c"); err != nil {
		t.Error(err)
	}
	if left, err := n.Containers(); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}
