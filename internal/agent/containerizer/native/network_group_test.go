package native

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	executorv1 "github.com/orchestrator/orchestrator/api/mesos/v1/executor"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
)

// TestGroupInOneNetwork: the tasks of a group have one address and reach each other at the loopback interface, which a network of nothing
// else has too; after a restart of the agent the plugins are asked whether all is well, and after the end nothing is left. Package
// vmtest runs it where control groups are a unified hierarchy.
func TestGroupInOneNetwork(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	h := newHost(t)
	n := newNetworks(t, h)
	record := filepath.Join(h.dir, "told")
	n.fake(t, "recorder", "echo $CNI_COMMAND >>"+record+`
cat | sed -n 's/.*"prevResult":\({.*}\),"type".*/\1/p' | grep . || echo '{"cniVersion":"0.4.0"}'
`)
	n.add(t, "group.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"group","plugins":[{"type":"bridge","bridge":"tbr0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.213.7.0/24"}},{"type":"recorder"}]}`, n.ipam))
	n.add(t, "lo.json", `{"cniVersion":"0.4.0","name":"loopback","type":"loopback"}`)
	d := h.start(nil, n.config(h))
	defer func() { d.end() }()

	task := func(id, cmd string) *mesosv1.TaskInfo {
		return &mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: ptr(id)}, Name: ptr(id), AgentId: &mesosv1.AgentID{Value: ptr("a")}, Command: shell(cmd)}
	}
	const where = "ip -o -4 addr show dev eth0 | tr -s ' ' | cut -d ' ' -f 4; "
	const ask = `until perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(PeerAddr=>"127.0.0.1:8090") or exit 1; print <$s>'; do sleep 0.1; done; echo asked; exec sleep 1000`
	d.link.mu.Lock()
	d.link.launch["g"] = []*executorv1.Event{{Type: executorv1.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executorv1.Event_LaunchGroup{TaskGroup: &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{
		task("serves", where+fmt.Sprintf(listen, 8090)), task("asks", where+ask),
	}}}}}
	d.link.mu.Unlock()
	group := containerizer.Config{
		ID: "g", Kind: containerizer.DefaultExecutor, FrameworkID: "f", ExecutorID: "g", Directory: d.sandbox("g"), Checkpoint: true,
		Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 64)}, Container: inNetwork(&mesosv1.NetworkInfo{Name: ptr("group")}),
	}
	d.launch(group)
	st, err := d.Status("g")
	if err != nil || len(st.GetNetworkInfos()) != 1 || len(st.NetworkInfos[0].GetIpAddresses()) != 1 {
		t.Fatalf("status %v %v", st, err)
	}
	address := st.NetworkInfos[0].IpAddresses[0].GetIpAddress()
	for _, id := range []string{"serves", "asks"} {
		d.untilState(id, mesosv1.TaskState_TASK_RUNNING)
	}
	said := func(id string) string { return read(t, d.sandbox("g"), "tasks", id, "stdout") }
	eventually(t, "one task has heard the other", func() bool { return strings.HasSuffix(said("asks"), "asked\n") })
	if got, want := said("serves")+said("asks"), address+"/24\n"+address+"/24\nhello\nasked\n"; got != want {
		t.Errorf("they said %q, want %q", got, want)
	}
	lo := d.plain("lo", "ip -o -4 addr | tr -s ' ' | cut -d ' ' -f 2,4")
	lo.Container = inNetwork(&mesosv1.NetworkInfo{Name: ptr("loopback")})
	if _, out, errs := d.ran(lo); out != "lo 127.0.0.1/8\n" {
		t.Errorf("with nothing but a loopback interface: %q %s", out, errs)
	}

	told := func() []string { return strings.Fields(read(t, record)) }
	if got := told(); !slices.Equal(got, []string{"ADD"}) {
		t.Errorf("the plugin was told %v", got)
	}
	d.stop()
	d = h.start([]containerizer.Config{group}, n.config(h))
	eventually(t, "the plugin is asked whether all is well", func() bool { return slices.Equal(told(), []string{"ADD", "CHECK"}) })
	if got := hello(address + ":8090"); got != "hello\n" {
		t.Errorf("after the agent's restart the task says %q", got)
	}
	d.end()
	if got := told(); !slices.Equal(got, []string{"ADD", "CHECK", "DEL"}) {
		t.Errorf("in the end the plugin had been told %v", got)
	}
	if left := n.remains(t, h); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "\n"))
	}
}
