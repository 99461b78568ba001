package election

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/zkfile"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

const group = "/service/leader"

// sides are two ensembles and the engine's way to each, which can be cut.
type sides struct {
	e   [2]*zktest.Ensemble
	cut [2]*zktest.Proxy
}

func newSides(t *testing.T) *sides {
	t.Helper()
	s := &sides{}
	var wg sync.WaitGroup
	for i := range s.e {
		wg.Go(func() { s.e[i] = zktest.Start(t, zktest.Options{}) })
	}
	wg.Wait()
	for i := range s.e {
		s.cut[i] = zktest.NewProxy(t, s.e[i].Nodes[0].Client)
	}
	return s
}

func (s *sides) config(id string) Config {
	cfg := Config{ID: id, Root: "/zksync/default/elections", Groups: []string{group}, Headroom: 100, Patience: time.Second}
	cfg.Source = zk.Config{Servers: []string{s.cut[0].Addr()}, SessionTimeout: 2 * time.Second}
	cfg.Target = zk.Config{Servers: []string{s.cut[1].Addr()}, SessionTimeout: 2 * time.Second}
	return cfg
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// run starts an engine; the function that it returns stops it without a word, as a crash does for all that others can see.
func (s *sides) run(t *testing.T, id string) (*Engine, func()) {
	t.Helper()
	e, err := New(s.config(id), Deps{Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("engine %s: %v", id, err)
		}
	})
	t.Cleanup(stop)
	return e, stop
}

// ends is what the transaction logs of both ensembles say of contenders: when each session was ended, and when each ephemeral node
// went, in ms since 1970. A contender may believe for longer than that, which is the same without any mirror: one that the machine did not let run believes in a
// session that has expired, and Curator 5.4 leads again by the node of a session that it has given up, until that expires and for ever after. What
// may not happen is somebody else's reign before that.
type ends struct {
	sessions map[int64]int64
	nodes    map[string]int64
}

func (s *sides) ends(t *testing.T) ends {
	t.Helper()
	out := ends{map[int64]int64{}, map[string]int64{}}
	for _, e := range s.e {
		logs, err := filepath.Glob(filepath.Join(e.Nodes[0].Dir, "data", "version-2", "log.*"))
		if err != nil || len(logs) == 0 {
			t.Fatalf("no transaction log in %s: %v", e.Nodes[0].Dir, err)
		}
		owner := map[string]int64{} // of this side's contenders: mirrors belong to nobody
		gone := func(path string, at int64) {
			if _, ok := owner[path]; ok {
				out.nodes[path] = at
			}
		}
		for _, path := range logs {
			r, err := zkfile.OpenLog(path)
			if err != nil {
				t.Fatal(err)
			}
			for {
				x, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				for i := range x.Ops {
					switch op := &x.Ops[i]; {
					case op.Ephemeral:
						owner[op.Path] = x.ClientID
					case op.Type == zk.OpDelete:
						gone(op.Path, x.Time)
					}
				}
				if x.Type == zk.OpCloseSession {
					out.sessions[x.ClientID] = x.Time
					for node, id := range owner {
						if _, already := out.nodes[node]; id == x.ClientID && !already {
							gone(node, x.Time)
						}
					}
				}
			}
			_ = r.Close()
		}
	}
	return out
}

// sessionID is a session as contenders print it.
func sessionID(hex string) int64 {
	id, _ := strconv.ParseUint(hex, 16, 64)
	return int64(id)
}

// reign is the time that somebody led.
type reign struct {
	name       string
	session    int64
	from, till int64
}

// crowd are contenders as processes of their own.
type crowd struct {
	t      *testing.T
	mu     sync.Mutex
	procs  map[string]*exec.Cmd
	ended  map[string]chan struct{}
	reigns []reign
	n      int
}

func (c *crowd) join(s Side, servers []string) {
	c.t.Helper()
	c.mu.Lock()
	c.n++
	name := fmt.Sprintf("%v%d", s, c.n)
	c.mu.Unlock()
	cmd := exec.Command("/usr/bin/python3", "testdata/contender.py", strings.Join(servers, ","), group, name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the thread that forked must live as long as the child
		started <- cmd.Start()
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			f := strings.Fields(lines.Text())
			at, _ := strconv.ParseInt(f[2], 10, 64)
			c.mu.Lock()
			if f[0] == "L" {
				c.reigns = append(c.reigns, reign{name: name, session: sessionID(f[3]), from: at})
			} else {
				c.end(name, at)
			}
			c.mu.Unlock()
		}
		_ = cmd.Wait()
		c.mu.Lock()
		delete(c.procs, name)
		c.mu.Unlock()
	}()
	if err := <-started; err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.procs[name], c.ended[name] = cmd, ended
	c.mu.Unlock()
}

func (c *crowd) end(name string, at int64) {
	for i := range c.reigns {
		if r := &c.reigns[i]; r.name == name && r.till == 0 {
			r.till = at
		}
	}
}

// kill ends a contender as kill -9 does.
func (c *crowd) kill(name string) {
	c.mu.Lock()
	cmd, ended := c.procs[name], c.ended[name]
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	// It does nothing any more from here on. On a busy machine it is seen to have ended only seconds later, when another may lead already.
	at := time.Now().UnixNano()
	<-ended
	c.mu.Lock()
	c.end(name, at)
	c.mu.Unlock()
}

func (c *crowd) names(s Side) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for n := range c.procs {
		if strings.HasPrefix(n, s.String()) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (c *crowd) leader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.reigns {
		if r.till == 0 && c.procs[r.name] != nil {
			return r.name
		}
	}
	return ""
}

// An election by kazoo, unmodified, with contenders on both sides, who are killed, while engines are stopped and started, and cut
// off from either side: never two leaders at once, and whenever the sides can reach each other there is one again.
func TestKazooElection(t *testing.T) {
	t.Parallel()
	zktest.Require(t)
	if err := exec.Command("/usr/bin/python3", "-c", "import kazoo").Run(); err != nil {
		realpart.Missing(t, "this test needs Debian's python3-kazoo: run test/deps.sh: %v", err)
	}
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("ZK_ROUNDS")); err == nil {
		rounds = n
	}
	s := newSides(t)
	c := &crowd{t: t, procs: map[string]*exec.Cmd{}, ended: map[string]chan struct{}{}}
	t.Cleanup(func() {
		for s := range 2 {
			for _, n := range c.names(Side(s)) {
				c.kill(n)
			}
		}
	})
	join := func(s2 Side) { c.join(s2, s.e[s2].Servers()) }
	await := func() {
		t.Helper()
		zktest.Eventually(t, 90*time.Second, "somebody leads", func() bool { return c.leader() != "" })
	}
	join(Source)
	await()
	e, stop := s.run(t, "first")
	<-e.Ready()
	join(Target)
	join(Target)
	join(Source)
	rng := rand.New(rand.NewPCG(uint64(rounds), 7))
	second, stop2 := s.run(t, "second")
	faults := map[string]int{}
	for i := range rounds {
		fault := []string{"leader's side killed", "leader killed", "link cut", "engine stopped", "server killed", "leader killed"}[i%6]
		faults[fault]++
		side := Side(rng.IntN(2))
		t.Logf("round %d: %s, %v", i, fault, side)
		switch fault {
		case "leader killed":
			c.kill(c.leader())
		case "leader's side killed":
			side = Source
			if strings.HasPrefix(c.leader(), Target.String()) {
				side = Target
			}
			for _, n := range c.names(side) {
				c.kill(n)
			}
		case "link cut":
			s.cut[side].Stall(true)
			c.kill(c.leader())
			time.Sleep(4 * time.Second) // longer than any session
			s.cut[side].Stall(false)
			s.cut[side].Break()
		case "engine stopped":
			stop()
			c.kill(c.leader())
			_, stop = s.run(t, fmt.Sprint("engine", i))
		case "server killed":
			n := s.e[side].Nodes[0]
			n.Kill()
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			n.Await(t)
		}
		await()
		for s := range 2 {
			for len(c.names(Side(s))) < 2 {
				join(Side(s))
			}
		}
	}
	stop()
	stop2()
	c.mu.Lock()
	reigns := slices.Clone(c.reigns)
	c.mu.Unlock()
	now := time.Now().UnixNano()
	closed := s.ends(t).sessions
	count, starved, known := map[bool]int{}, 0, false
	for i := range reigns {
		r := &reigns[i]
		if r.till == 0 {
			r.till = now
		}
		at, ok := closed[r.session]
		known = known || ok
		if ok && at*1e6 < r.till {
			r.till = at * 1e6
			starved++
		}
		count[strings.HasPrefix(reigns[i].name, Source.String())]++
	}
	slices.SortFunc(reigns, func(a, b reign) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(reigns); i++ {
		if a, b := reigns[i-1], reigns[i]; b.from < a.till {
			t.Errorf("two leaders: %s until %d, %s from %d", a.name, a.till, b.name, b.from)
		}
	}
	if !known {
		t.Error("no leader's session is in the transaction logs, though leaders were killed: what is read there is not what contenders say")
	}
	t.Logf("faults %v: %d leaders on the source's side, %d on the target's, never two at once (%d believed in a session that had ended); %+v",
		faults, count[true], count[false], starved, second.Status())
	if count[true] == 0 || count[false] == 0 {
		t.Error("leadership never moved between the sides")
	}
}

// The same with Curator's LeaderLatch, unmodified: each fault once, in an order by chance; with ZK_LONG or ZK_ROUNDS many times.
func TestCuratorElection(t *testing.T) {
	t.Parallel()
	zktest.Require(t)
	jars := []string{"curator-recipes", "curator-framework", "curator-client", "guava", "zookeeper", "slf4j-simple"}
	for i, j := range jars {
		jars[i] = "/usr/share/java/" + j + ".jar"
		_, err := os.Stat(jars[i])
		if err == nil {
			_, err = exec.LookPath("javac")
		}
		if err != nil {
			realpart.Missing(t, "this test needs Debian's libcurator-recipes-java and default-jdk-headless: run test/deps.sh: %v", err)
		}
	}
	classes := t.TempDir()
	if out, err := exec.Command("javac", "-cp", strings.Join(jars, ":"), "-d", classes, "testdata/Contenders.java").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := newSides(t)
	cmd := exec.Command("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", strings.Join(append(jars, classes), ":"), "Contenders", group)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	type both struct {
		at           int64 // ms since 1970
		names, nodes [2]string
	}
	var seen []both
	leader, led := "", map[string]int{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			what, name, _ := strings.Cut(lines.Text(), " ")
			mu.Lock()
			if what == "TWO" {
				f := strings.Fields(name)
				at, _ := strconv.ParseInt(f[0], 10, 64)
				seen = append(seen, both{at, [2]string{f[1], f[3]}, [2]string{f[2], f[4]}})
			} else if leader = name; name != "" {
				led[strings.TrimRight(name, "0123456789")]++
			}
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("the contenders: %v", err)
		}
	})
	n, open := 0, [2][]string{}
	// Contenders come through proxies of their own, so that they can be cut off as well.
	var way [2]*zktest.Proxy
	for i := range way {
		way[i] = zktest.NewProxy(t, s.e[i].Nodes[0].Client)
	}
	join := func(side Side) {
		n++
		name := fmt.Sprintf("%v%d", side, n)
		open[side] = append(open[side], name)
		_, _ = io.WriteString(in, "open "+name+" "+way[side].Addr()+"\n")
	}
	left := 0 // how often a leader has
	leave := func(name string) {
		for i := range open {
			open[i] = slices.DeleteFunc(open[i], func(s string) bool { return s == name })
		}
		_, _ = io.WriteString(in, "close "+name+"\n")
	}
	await := func() (name string) {
		t.Helper()
		zktest.Eventually(t, 90*time.Second, "somebody leads", func() bool {
			select {
			case <-ended:
				t.Fatal("the contenders' process has ended")
			default:
			}
			mu.Lock()
			defer mu.Unlock()
			name = leader
			return slices.Contains(open[0], name) || slices.Contains(open[1], name) // not one that was told to leave just now
		})
		return name
	}
	join(Source)
	await()
	e, stop := s.run(t, "first")
	<-e.Ready()
	_, stop2 := s.run(t, "second")
	join(Target)
	join(Target)
	kinds := []string{"leader leaves", "leader's side leaves", "engine's link cut", "contenders cut off", "engine stopped", "server killed", "connections break"}
	rounds := len(kinds)
	if os.Getenv("ZK_LONG") != "" {
		rounds = 70
	}
	if n, err := strconv.Atoi(os.Getenv("ZK_ROUNDS")); err == nil {
		rounds = n
	}
	rng := rand.New(rand.NewPCG(uint64(rounds), 8))
	faults := map[string]int{}
	for i := range rounds {
		if i%len(kinds) == 0 {
			rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		}
		fault := kinds[i%len(kinds)]
		faults[fault]++
		side := Side(rng.IntN(2))
		t.Logf("%s round %d: %s, %v", time.Now().UTC().Format("15:04:05.000"), i, fault, side)
		switch fault {
		case "leader leaves":
			left++
			leave(await())
		case "leader's side leaves":
			if side = Source; strings.HasPrefix(await(), Target.String()) {
				side = Target
			}
			for _, name := range slices.Clone(open[side]) {
				leave(name)
			}
		case "engine's link cut":
			s.cut[side].Stall(true)
			left++
			leave(await())
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond) // the fault's length
			s.cut[side].Stall(false)
			s.cut[side].Break()
		case "contenders cut off":
			way[side].Stall(true)
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond) // the fault's length
			way[side].Stall(false)
			way[side].Break()
		case "engine stopped":
			stop()
			left++
			leave(await())
			_, stop = s.run(t, fmt.Sprint("engine", i))
		case "server killed":
			node := s.e[side].Nodes[0]
			node.Kill()
			if err := node.Start(); err != nil {
				t.Fatal(err)
			}
			node.Await(t)
		case "connections break":
			way[0].Break()
			way[1].Break()
			s.cut[side].Break()
		}
		await()
		for side := range open {
			for len(open[side]) < 2 {
				join(Side(side))
			}
		}
	}
	stop()
	stop2()
	mu.Lock()
	defer mu.Unlock()
	gone := s.ends(t).nodes
	if len(gone) == 0 {
		t.Error("no contender's node is in the transaction logs, though contenders have left")
	}
	without := map[string]bool{}
	for _, b := range seen {
		ended := false
		for i, node := range b.nodes {
			if at, ok := gone[node]; ok && at <= b.at {
				ended, without[b.names[i]] = true, true
			}
		}
		if !ended {
			t.Errorf("two leaders at %s: %s by %s and %s by %s", time.UnixMilli(b.at).UTC().Format("15:04:05.000"), b.names[0], b.nodes[0], b.names[1], b.nodes[1])
		}
	}
	t.Logf("%d rounds %v: led %v, never two at once (%d believed to lead by a node that was gone)", rounds, faults, led, len(without))
	if n := led[Source.String()] + led[Target.String()]; n < left {
		t.Errorf("leaders have left %d times, and %d led: what leads is not seen", left, n)
	}
	if led[Source.String()] == 0 || led[Target.String()] == 0 {
		t.Error("leadership never moved between the sides")
	}
}
