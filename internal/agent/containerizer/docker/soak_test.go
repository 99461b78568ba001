package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/agent/launcher/spec"
	"github.com/orchestrator/orchestrator/internal/dockertest"
	"github.com/orchestrator/orchestrator/internal/ids"
)

// What befalls a container of the soak.
var soakFaults = []string{
	"destroy", "helper", "rm", "kill", "abort", "stay", "noimage", "noprogram", "exit", "refused", "oom", "pause", "rename", "portbusy", "restart",
}

// soakNetwork is a network of the Engine's beside its bridge; soakTaken a port that a stranger listens on.
const (
	soakNetwork = "shop"
	soakTaken   = 31999
)

// neverLaunched are the faults with which no container can start.
var neverLaunched = []string{"noimage", "noprogram", "refused", "portbusy"}

// soakWants is an image with a volume of its own.
const soakWants = "wants:1"

// soakContainer describes the container of a number: a task or an executor, in a network of one kind or another, with
// volumes, a secret and a port.
func (d *daemon) soakContainer(i int, fault string) containerizer.Config {
	id := ids.Container(fmt.Sprintf("n%d-%s", i, fault))
	info := dockerInfo(bridge)
	cmd := shell("sleep 1000 & sleep 1000")
	port := uint32(32000 + i%20000)
	switch i % 3 {
	case 1:
		info.Docker.Network = byName.Enum()
		info.NetworkInfos = []*mesosv1.NetworkInfo{{Name: ptr(soakNetwork)}}
		info.Docker.Parameters = []*mesosv1.Parameter{param("network-alias", "web")}
	case 2:
		info.Docker.Network, port = onHost.Enum(), 0
	}
	if i%4 == 0 {
		info.Docker.Image = ptr(soakWants)
	}
	switch fault {
	case "noimage":
		info.Docker.Image = ptr("127.0.0.1:1/no/such:1")
	case "exit":
		cmd = shell("exit 1")
	case "oom":
		cmd = shell("exec tail /dev/zero")
	case "noprogram":
		cmd = &mesosv1.CommandInfo{Shell: ptr(false), Value: ptr("/no/such/program")}
	case "refused": // by the Engine, when it is asked to make it
		info.Docker.Parameters = append(info.Docker.Parameters, param("cpuset-cpus", "4095"))
	case "portbusy": // by the Engine, when it starts it
		info.Docker.Network, info.NetworkInfos, info.Docker.Parameters, port = bridge.Enum(), nil, nil, soakTaken
	}
	if port > 0 && d.h.bridge {
		info.Docker.PortMappings = []*mesosv1.ContainerInfo_DockerInfo_PortMapping{{HostPort: &port, ContainerPort: ptr(uint32(80))}}
	} else {
		info.Docker.Network, info.NetworkInfos, info.Docker.Parameters = onHost.Enum(), nil, nil
	}
	info.Volumes = []*mesosv1.Volume{
		volume("/v", rw, "", nil), volume("own", rw, "own", nil),
		volume("/s", ro, "", &mesosv1.Volume_Source{Type: mesosv1.Volume_Source_SECRET.Enum(), Secret: secret("x")}),
	}
	info.Volumes[1].ContainerPath = ptr("/own")
	disk := scalar("disk", 10)
	disk.Role = ptr("r")
	disk.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: ptr("kept")}, Volume: volume("kept", rw, "", nil)}
	res := []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 32), ports(31000, 60000), disk}
	if i%2 == 0 {
		return d.task(id, &mesosv1.TaskInfo{Command: cmd, Container: info, Resources: res})
	}
	cfg := d.executor(id, "")
	cfg.Command, cfg.Container, cfg.Resources = cmd, info, res
	return cfg
}

// befalls is one container of the soak and what happens to it.
type befalls struct {
	d     *daemon
	j     *journal
	i     int
	fault string
	pause time.Duration
	cfg   containerizer.Config
}

func (b *befalls) run() {
	d, id, name := b.d, b.cfg.ID, namePrefix+string(b.cfg.ID)
	t := d.h.t
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if b.fault == "abort" {
		time.AfterFunc(b.pause, cancel)
	}
	err := d.Launch(ctx, b.cfg)
	for err != nil && (strings.Contains(err.Error(), "does not answer on") || strings.Contains(err.Error(), "connect to Docker")) {
		time.Sleep(200 * time.Millisecond) // as a framework does: it tries again until the Engine is back
		err = d.Launch(ctx, b.cfg)
	}
	if err != nil {
		// Whether it should have started is not to be known: the Engine comes and goes. But it says why.
		var le *containerizer.LaunchError
		if !errors.As(err, &le) || le.Message == "" || le.Reason != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED {
			t.Errorf("%s: %v", id, err)
		}
		b.j.write("gone", id)
		return
	}
	for _, f := range neverLaunched {
		if b.fault == f {
			t.Errorf("%s was launched", id)
		}
	}
	b.j.write("up", id)
	time.Sleep(b.pause) // the moment varies, nothing is waited for
	docker := func(args ...string) { _, _ = dockerOut(d.h, args...) }
	switch b.fault {
	case "stay":
		return
	case "exit", "oom":
		// It ends by itself.
	case "helper":
		var p struct{ PID int }
		if spec.Read(d.dir(id), spec.PIDFile, &p) == nil && p.PID > 0 {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
	case "rm":
		docker("rm", "-fv", name)
	case "kill":
		docker("kill", name)
	case "restart": // an end, and a beginning that nobody here has asked for
		docker("restart", "-t", "0", name)
	default:
		switch b.fault {
		case "pause":
			docker("pause", name)
		case "rename":
			docker("rename", name, "renamed-"+name)
		}
		b.j.write("end", id)
		_ = d.Destroy(context.Background(), id)
	}
	d.wait(id)
	b.j.write("gone", id)
}

// held counts what containers hold of the host, whoever they are.
func (h *host) held(d *daemon) map[string]int {
	out := map[string]int{
		"processes": len(h.e.Processes()), "control groups": len(h.e.Cgroups()), "mounts": len(h.e.Mounts()), "interfaces": len(h.e.Links()), "veths": len(h.e.Veths()),
		"rules": len(h.e.Rules()), "ports": len(h.e.Ports()), "endpoints": len(h.e.Endpoints()), "helpers": len(helpers(h.dir)),
		"containers": len(strings.Fields(h.e.Docker("ps", "-aq"))), "volumes": len(strings.Fields(h.e.Docker("volume", "ls", "-q"))),
		"images": len(strings.Fields(h.e.Docker("images", "-aq"))), "secrets": len(globs(d.containersDir() + "/*/secrets")), "held": len(d.Containers()),
	}
	if d.groups != nil {
		names, _ := d.groups.List()
		out["control groups of helpers"] = len(names)
	}
	return out
}

// dockers is what an Engine with live-restore leaves behind by itself when it is stopped while it starts a container, and nobody can
// tell to be ours: masquerading of an address by which a container would have reached its own published port, and a pair of
// interfaces both ends of which are still with the Engine. `docker run` and `docker rm -f` alone leave as much.
var dockers = []string{"rules", "interfaces"}

// programs counts the processes that run what a container was made for.
func (h *host) programs() (n int) {
	for _, p := range h.e.Processes() {
		if !strings.Contains(p, "containerd-shim") && !strings.Contains(p, "runc") {
			n++
		}
	}
	return n
}

// TestNothingIsLeft starts, kills and removes containers while everything around them goes wrong: images, programs, ports and
// memory that are not there; agents, helpers and Engines that are killed, stopped or stand still; strangers who kill, remove,
// rename, pause and restart what is not theirs. What containers hold of the host is counted before and after.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	for _, restore := range []bool{false, true} {
		if restore && os.Getenv(soakEnv) == "" {
			continue // the long form sees both kinds of Engine
		}
		t.Run(fmt.Sprintf("live-restore=%v", restore), func(t *testing.T) { soak(t, restore) })
	}
}

const soakEnv = "ORCHESTRATOR_DOCKER_SOAK"

func soak(t *testing.T, restore bool) {
	count := rounds(t, soakEnv, 32)
	seed := uint64(20261126)
	rng := rand.New(rand.NewPCG(seed, 3))
	h := newHost(t, dockertest.Options{Bridge: true, LiveRestore: restore})
	h.e.Import(soakWants, nil, "VOLUME /wanted")
	h.e.Docker("network", "create", soakNetwork)
	taken := h.e.Listen(fmt.Sprintf("0.0.0.0:%d", soakTaken))
	defer taken.Close()
	h.e.Docker("run", "--rm", "--net", "host", box, "true") // what the first container of all makes stays
	h.e.Docker("run", "--rm", "--net", soakNetwork, box, "true")
	d := h.start(nil)
	before := h.held(d)
	before["programs"] = 0
	d.stop()
	did := map[string]int{}
	var c *child
	for round := uint64(0); ; round++ {
		if c == nil {
			c = agentOn(t, h, agentPlan{Seed: seed, Round: round, Slots: 6, Pause: 250 * time.Millisecond, Count: count, Faults: soakFaults})
		}
		if c.works(t, h, 10+rng.IntN(20), time.Duration(rng.IntN(500))*time.Millisecond) {
			break
		}
		switch round % 5 {
		case 0:
			h.e.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond) // how long varies, nothing is waited for
			h.e.Signal(syscall.SIGCONT)
			did["the Engine stood still"]++
		case 1, 3:
			c.kill()
			c = nil
			did["the agent was killed"]++
		case 2:
			h.e.Stop()
			h.e.Run()
			did["the Engine was restarted"]++
		case 4:
			h.e.Stop()
			c.kill()
			c = nil
			h.e.Run()
			did["the agent was killed while the Engine was away"]++
		}
	}
	ran := strings.Count(read(t, h.dir, journalFile), "up ")
	t.Logf("%d containers, of which %d ran; %v", len(begun(h)), ran, did)
	if ran < count/4 {
		t.Error("too few have run: this test would prove little")
	}
	d = knownOrGone(t, h, seed)
	d.destroyAll()
	if restore {
		// It also keeps the published ports of a start that was cut: when it is back it takes them up again for an endpoint that it
		// then throws away, and lets go of them when it is restarted once more.
		h.e.Stop()
		h.e.Run()
	}
	var now map[string]int
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		now = h.held(d)
		now["programs"] = h.programs()
		if restore {
			for _, what := range dockers {
				now[what] = before[what]
			}
		}
		if maps.Equal(now, before) {
			break
		}
	}
	if !maps.Equal(now, before) {
		t.Errorf("seed %d: left are %v, before %v: %q %q %q %q %q", seed, now, before, h.e.Processes(), h.e.Mounts(), h.e.Links(), h.e.Rules(), h.e.Endpoints())
		for _, v := range strings.Fields(h.e.Docker("volume", "ls", "-q")) {
			t.Log(h.e.Docker("volume", "inspect", v))
		}
	}
	d.end()
	// The Engine itself has no container in them any more.
	h.e.Docker("network", "rm", soakNetwork)
	h.e.Docker("rmi", box, soakWants)
}
