package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gozk "github.com/go-zookeeper/zk"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/election"
	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

func TestMain(m *testing.M) { os.Exit(zktest.Tests{M: m}.Run()) }

func master(address string) election.Leader {
	return election.Leader{Address: address, Info: &mesosv1.MasterInfo{
		Id: proto.String("id-" + address), Ip: proto.Uint32(0), Port: proto.Uint32(5050), Hostname: proto.String("host.example"), Version: proto.String("1.11.0"),
		Capabilities: []*mesosv1.MasterInfo_Capability{
			{Type: mesosv1.MasterInfo_Capability_AGENT_UPDATE.Enum()},
			{Type: mesosv1.MasterInfo_Capability_AGENT_DRAINING.Enum()},
			{Type: mesosv1.MasterInfo_Capability_QUOTA_V2.Enum()},
		},
	}}
}

func TestInfoAsMesosWritesIt(t *testing.T) {
	t.Parallel()
	self := master("10.0.0.1:5050")
	label, data, err := encodeInfo(self)
	if err != nil || label != "json.info_" {
		t.Fatal(label, err)
	}
	want := `{"address":{"hostname":"host.example","ip":"10.0.0.1","port":5050},"capabilities":[{"type":"AGENT_UPDATE"},` +
		`{"type":"AGENT_DRAINING"},{"type":"QUOTA_V2"}],"hostname":"host.example","id":"id-10.0.0.1:5050","ip":16777226,` +
		`"pid":"master@10.0.0.1:5050","port":5050,"version":"1.11.0"}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Error(diff)
	}
	self.Info.Domain = &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
		Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String("r")}, Zone: &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String("z")},
	}}
	_, data, err = encodeInfo(self)
	if err != nil || !strings.Contains(string(data), `"domain":{"fault_domain":{"region":{"name":"r"},"zone":{"name":"z"}}}`) {
		t.Errorf("%s %v", data, err)
	}
	back, err := decodeInfo(label, data)
	if err != nil || back.Address != self.Address {
		t.Fatal(back, err)
	}
	if diff := cmp.Diff(self.Info.Domain, back.Info.Domain, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	raw, err := proto.Marshal(&mesosv1.MasterInfo{Id: proto.String("x"), Ip: proto.Uint32(16777343), Port: proto.Uint32(99)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ label, data, want string }{
		{labelProto, string(raw), "127.0.0.1:99"},
		{"", "master@10.1.1.1:5050", "10.1.1.1:5050"},
		{labelMember, "h:80", "h:80"},
		{labelJSON, `{"address":{"ip":"0.0.0.0","hostname":"h","port":1},"id":"","ip":0,"port":0}`, "h:1"},
		{labelJSON, `{"pid":"master@1.2.3.4:5","id":"","ip":0,"port":0}`, "1.2.3.4:5"},
	} {
		l, err := decodeInfo(c.label, []byte(c.data))
		if err != nil || l.Address != c.want {
			t.Errorf("%q %q: %v, %v", c.label, c.data, l, err)
		}
	}
	for _, c := range []struct{ label, data string }{{labelJSON, "{"}, {labelJSON, "{}"}, {labelProto, "\xff"}, {"", "x"}, {labelMember, "x"}, {labelMember, ":0"}} {
		if l, err := decodeInfo(c.label, []byte(c.data)); err == nil {
			t.Errorf("%q %q was read as %v", c.label, c.data, l)
		}
	}
}

func TestCandidates(t *testing.T) {
	t.Parallel()
	m, ok := first([]string{"log_replicas", "json.info_0000000012", "0000000011", "info_0000000010", "_c_x-json.info_0000000001", "json.info_", "json.info_+1"})
	if !ok || m.name != "info_0000000010" || m.label != "info_" {
		t.Errorf("%+v", m)
	}
	if _, ok := first([]string{"log_replicas"}); ok {
		t.Error("log_replicas leads")
	}
}

func FuzzDecodeInfo(f *testing.F) {
	f.Add(byte(0), []byte(`{"address":{"ip":"1.1.1.1","port":5}}`))
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		l, err := decodeInfo([]string{labelJSON, labelProto, labelMember, ""}[which%4], data)
		if err == nil && l.Address == "" {
			t.Fatal("a leader without address")
		}
	})
}

// terms records who led when, and fails when two did at once.
type terms struct {
	t      *testing.T
	mu     sync.Mutex
	now    []string
	byHand bool // somebody removes nodes: a moment of overlap cannot be excluded then (the store's fence is for that)
	epoch  uint64
	log    []string
}

func (r *terms) lead(name string) func(context.Context, uint64) error {
	return func(ctx context.Context, epoch uint64) error {
		r.mu.Lock()
		if len(r.now) > 0 && !r.byHand {
			r.t.Errorf("%s begins to lead while %s does", name, r.now)
		}
		if epoch <= r.epoch {
			r.t.Errorf("epoch %d of %s does not follow %d", epoch, name, r.epoch)
		}
		r.now, r.epoch = append(r.now, name), epoch
		r.log = append(r.log, name)
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.now = slices.DeleteFunc(r.now, func(n string) bool { return n == name })
		return ctx.Err()
	}
}

func (r *terms) leader() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.now) != 1 {
		return ""
	}
	return r.now[0]
}

// Three candidates, each behind a network of its own. Whoever leads is cut off, for less or more than its session, again
// and again: never do two lead at once, epochs grow, and somebody always leads in the end. Detectors and a stranger agree.
func TestFaults(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	path := e.Base(t) + "/mesos"
	record := &terms{t: t}
	type peer struct {
		p      *zktest.Proxy
		e      *Election
		cancel context.CancelFunc
		done   chan error
	}
	peers := map[string]*peer{}
	// A leader stops some of its session's time before others may follow: on a busy machine its own clock, too, may be looked at a second late.
	start := func(name string) {
		p := zktest.NewProxy(t, e.Nodes[0].Client)
		el, err := New(Config{ZooKeeper: election.ZooKeeper{Servers: []string{p.Addr()}, Path: path, User: "u", Password: "p"}, SessionTimeout: 6 * time.Second}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		pr := &peer{p, el, cancel, make(chan error, 1)}
		go func() { pr.done <- el.Contend(ctx, master(name), record.lead(name)) }()
		peers[name] = pr
	}
	for i := range 3 {
		start(fmt.Sprintf("10.0.0.%d:5050", i+1))
	}
	defer func() {
		for _, p := range peers {
			p.cancel()
			if err := <-p.done; err != nil {
				t.Error(err)
			}
			p.e.Close()
		}
	}()
	conn, _, err := gozk.Connect(e.Servers(), 20*time.Second, gozk.WithLogger(silent{}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	agree := func(what string) string {
		t.Helper()
		var leader string
		zktest.Eventually(t, 20*time.Second, what+": everybody sees the one leader", func() bool {
			leader = record.leader()
			if leader == "" {
				return false
			}
			for _, p := range peers {
				if l := p.e.board.Leader(); l == nil || l.Address != leader {
					return false
				}
			}
			names, _, err := conn.Children(path)
			if err != nil || len(names) != len(peers) {
				return false
			}
			low := names[0]
			for _, n := range names {
				low = min(low, n)
			}
			data, _, err := conn.Get(path + "/" + low)
			return err == nil && strings.Contains(string(data), `"pid":"master@`+leader+`"`)
		})
		return leader
	}
	agree("at first")
	for round := range 6 {
		leader := agree(fmt.Sprint("round ", round))
		p := peers[leader].p
		switch round % 3 {
		case 0: // a short cut: the session lives, and so does the term
			p.Break()
			if got := agree("after a short cut"); got != leader {
				t.Errorf("a broken connection moved leadership from %s to %s", leader, got)
			}
		case 1: // silence for longer than the session
			p.Stall(true)
			zktest.Eventually(t, 20*time.Second, "another one leads", func() bool { l := record.leader(); return l != "" && l != leader })
			p.Stall(false)
		case 2: // the connection refused, then regained: the leader must come back as a follower
			p.Refuse(true)
			p.Break()
			zktest.Eventually(t, 20*time.Second, "another one leads", func() bool { l := record.leader(); return l != "" && l != leader })
			p.Refuse(false)
		}
	}
	// A leader that goes in order is followed at once, not after its session.
	leader := agree("at last")
	pr := peers[leader]
	delete(peers, leader)
	begin := time.Now()
	pr.cancel()
	if err := <-pr.done; err != nil {
		t.Error(err)
	}
	agree("after an orderly end")
	t.Logf("leadership moved in %v; terms: %v", time.Since(begin), record.log)
	pr.e.Close()
	// A node removed by hand ends the term.
	leader = agree("before the node is removed")
	admin := e.Client(t, zk.Config{Auth: []zk.Auth{{Scheme: "digest", Data: []byte("u:p")}}})
	names, _, err := admin.Children(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := first(names)
	record.mu.Lock()
	record.byHand = true
	record.mu.Unlock()
	if err := admin.Delete(t.Context(), path+"/"+m.name, -1); err != nil {
		t.Fatal(err)
	}
	zktest.Eventually(t, 20*time.Second, "another one leads", func() bool { l := record.leader(); return l != "" && l != leader })
	agree("after the node was removed")
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func TestLeadReturns(t *testing.T) {
	t.Parallel()
	e := zktest.Shared(t)
	path := e.Base(t) + "/services"
	el, err := New(Config{ZooKeeper: election.ZooKeeper{Servers: e.Servers(), Path: path}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer el.Close()
	boom := errors.New("boom")
	var epochs []uint64
	err = el.Contend(t.Context(), election.Leader{Address: "h:80"}, func(ctx context.Context, epoch uint64) error {
		epochs = append(epochs, epoch)
		l, err := el.Detect(ctx, nil)
		if err != nil || l.Address != "h:80" || l.Info != nil {
			t.Errorf("detected %v, %v", l, err)
		}
		if len(epochs) == 3 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || len(epochs) != 3 || epochs[0] >= epochs[1] || epochs[1] >= epochs[2] {
		t.Errorf("%v, epochs %v", err, epochs)
	}
	denied, err := New(Config{ZooKeeper: election.ZooKeeper{Servers: e.Servers(), Path: path + "/locked"}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer denied.Close()
	c := e.Client(t, zk.Config{})
	if _, err := c.Create(t.Context(), path+"/locked", nil, zk.ReadACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	if err := denied.Contend(t.Context(), election.Leader{Address: "h:80"}, nil); !errors.Is(err, zk.ErrNoAuth) {
		t.Errorf("contending without permission: %v", err)
	}
}
