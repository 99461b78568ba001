package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/topology"
)

var hexID = strings.Repeat("0123456789abcdef", 4)

func TestContainerInPath(t *testing.T) {
	t.Parallel()
	uuid := "3b8f4f6e-1f5a-4a63-9a0e-0d1c2b3a4f5e"
	for path, want := range map[string]containerRef{
		"/docker/" + hexID:                             {runtime: "docker", id: hexID},
		"/docker/" + hexID + "/init.scope":             {runtime: "docker", id: hexID},
		"/system.slice/docker-" + hexID + ".scope":     {runtime: "docker", id: hexID},
		"/machine.slice/libpod-" + hexID + ".scope":    {runtime: "podman", id: hexID},
		"/kubepods/burstable/pod" + uuid + "/" + hexID: {runtime: "kubernetes", id: hexID, pod: uuid},
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + strings.ReplaceAll(uuid, "-", "_") + ".slice/cri-containerd-" + hexID + ".scope": {runtime: "containerd", id: hexID, pod: uuid},
		"/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uuid, "-", "_") + ".slice/crio-" + hexID + ".scope":                                                {runtime: "cri-o", id: hexID, pod: uuid},
		"/mesos/" + uuid:                          {runtime: "mesos", id: uuid},
		"/mesos/" + uuid + "/mesos/" + uuid:       {runtime: "mesos", id: uuid + "." + uuid},
		"/lxc/web":                                {runtime: "lxc", id: "web"},
		"/lxc.payload.web/system.slice":           {runtime: "lxc", id: "web"},
		"/some/where/" + hexID:                    {runtime: "oci", id: hexID},
		"/docker/" + hexID + "/kubepods/" + hexID: {runtime: "docker", id: hexID},
		"/system.slice/ssh.service":               {},
		"/machine.slice/libpod-conmon-" + hexID:   {},
		"/":                                       {},
		"/user.slice":                             {},
	} {
		got := containerInPath(path)
		if path == "/docker/"+hexID+"/kubepods/"+hexID {
			got.runtime = "docker" // the innermost one counts; which runtime made it can't be told
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

func TestCutPath(t *testing.T) {
	t.Parallel()
	ref := containerRef{runtime: "docker", id: hexID}
	for in, want := range map[string]string{
		"/docker/" + hexID + "/init.scope":                    "/docker/" + hexID,
		"/system.slice/docker-" + hexID + ".scope":            "/system.slice/docker-" + hexID + ".scope",
		"/system.slice/docker-" + hexID + ".scope/supervised": "/system.slice/docker-" + hexID + ".scope",
	} {
		if got := cutPath(in, ref); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	line := "4711 (a) b (c)) S 1 4711 4711 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 881 1000000 250 18446744073709551615 1 1\n"
	s, ok := parseStat([]byte(line))
	if !ok || string(s.comm) != "a) b (c)" || s.ppid != 1 || s.ticks != 12 || s.threads != 3 || s.start != 881 || s.rss != 250 || s.kernel {
		t.Errorf("%+v %v", s, ok)
	}
	if _, ok := parseStat([]byte("1 (x")); ok {
		t.Error("half a line was taken")
	}
}

func TestMasking(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"mysql --password=hunter2 -h db":        "mysql --password=" + topology.Mask + " -h db",
		"tool --api-key hunter2 run":            "tool --api-key " + topology.Mask + " run",
		"psql postgres://bob:hunter2@db/x":      "psql postgres://bob:" + topology.Mask + "@db/x",
		"env DB_PASSWORD=hunter2 TOKEN=x sleep": "env DB_PASSWORD=" + topology.Mask + " TOKEN=" + topology.Mask + " sleep",
		"nginx -g daemon off;":                  "nginx -g daemon off;",
	} {
		if got := topology.MaskCommand(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"AWS_SECRET_ACCESS_KEY=x": "AWS_SECRET_ACCESS_KEY=" + topology.Mask, "PATH=/bin": "PATH=/bin", "EMPTY_PASSWORD=": "EMPTY_PASSWORD="} {
		if got := maskVariable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestProcAddr(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"0100007F:1F90": "127.0.0.1:8080", "00000000000000000000000001000000:0016": "[::1]:22", "0000000000000000FFFF00000100007F:0050": "127.0.0.1:80"} {
		family := uint8(unix.AF_INET)
		if len(in) > 20 {
			family = unix.AF_INET6
		}
		if got, ok := procAddr(in, family); !ok || got.String() != want {
			t.Errorf("%s: %v %v", in, got, ok)
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte("4711 (x) S 1 1"))
	f.Add([]byte("  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12345 1"))
	f.Add([]byte("0::/docker/" + hexID))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseStat(b)
		parseProcSocket(string(b), unix.AF_INET)
		parseProcSocket(string(b), unix.AF_INET6)
		containerOf(parseCgroups(string(b)))
		_, _, _ = parseDiag(nil, b, false)
		parseDiagMsg(b)
		parseEvent(b)
		topology.MaskCommand(string(b))
	})
}

// TestGroupsThatCountNoIO: kernels since 6.x say "Total 0" of a group without limits, whatever it has read and written.
func TestGroupsThatCountNoIO(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "io")
	for text, want := range map[string][2]float64{
		"Total 0\n": {-1, -1},
		"8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\n8:16 Read 1\nTotal 4609\n": {4097, 512},
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, w := readBlkio(file); r != want[0] || w != want[1] {
			t.Errorf("%q: %v %v", text, r, w)
		}
	}
}
