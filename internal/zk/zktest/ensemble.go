package zktest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/heldport"
	"github.com/orchestrator/orchestrator/internal/realpart"
	"github.com/orchestrator/orchestrator/internal/zk"
)

const (
	// Jar is ZooKeeper as Debian installs it; its manifest names the rest.
	Jar    = "/usr/share/java/zookeeper.jar"
	logJar = "/usr/share/java/slf4j-simple.jar"
	// What Debian's manifest forgets; TLS needs it.
	nettyJars = "/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:/usr/share/java/netty-transport-native-unix-common.jar"
)

// patience is how long a server or a client may take that only a broken build does not get ready: the tests share the machine with others.
const patience = 3 * time.Minute

// SuperPassword is the password of the digest user "super", whom ACLs do not bind.
const SuperPassword = "super-secret"

// Options shape an ensemble.
type Options struct {
	// Servers is the number of voting members. Default 1. One server is a quorum of one too: it has a quorum port.
	Servers int
	// JVM and Config are appended to what every server gets.
	JVM    []string
	Config []string
	// HeapMB is each server's -Xmx. Default 192.
	HeapMB int
	// Secure gives every server a client port that speaks TLS; Config has to name the certificates (TLSServer does).
	Secure bool
	// FirstID numbers the servers from here on. Default 1.
	FirstID int
}

// Ensemble is a set of servers that form a quorum.
type Ensemble struct {
	Nodes []*Node
	ports *heldport.Held // also while a server is down
}

// Node is one server.
type Node struct {
	ID                       int
	Client, Quorum, Election string // host:port
	Secure                   string // host:port of the client port that speaks TLS; "" without Options.Secure
	Dir                      string // its directory: conf, data/version-2, log.txt
	opts                     Options
	members                  string
	mu                       sync.Mutex
	cmd                      *exec.Cmd
	exited                   chan struct{}
}

// Require skips the test, or fails it under CI, when ZooKeeper is not installed.
func Require(tb testing.TB) {
	tb.Helper()
	_, javaErr := exec.LookPath("java")
	_, jarErr := os.Stat(Jar)
	if javaErr == nil && jarErr == nil {
		return
	}
	realpart.Missing(tb, "this test needs java and Debian's zookeeper package: run test/deps.sh")
}

// Long skips a test that takes minutes unless ZK_LONG is set.
func Long(tb testing.TB) {
	tb.Helper()
	realpart.Long(tb, "ZK_LONG")
}

// Start runs a new ensemble until the test ends.
func Start(tb testing.TB, opts Options) *Ensemble {
	tb.Helper()
	Require(tb)
	dir := tb.TempDir()
	e, err := launch(dir, opts)
	if e != nil {
		tb.Cleanup(func() {
			e.kill()
			if tb.Failed() {
				for _, n := range e.Nodes {
					tb.Logf("server %d said: %s", n.ID, n.logTail())
				}
			}
		})
	}
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// house is the shared server of a test binary, and the directory that it lives in.
type house struct {
	mu  sync.Mutex
	dir string // set by Tests.Run
	*Ensemble
	err error
}

var shared house

// Tests are those of a binary which uses Shared: its TestMain runs them. What the server leaves goes with them.
type Tests struct{ *testing.M }

// Run runs the tests and gives what os.Exit is to be told.
func (t Tests) Run() int {
	dir, err := os.MkdirTemp("", "zktest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared.dir = dir
	defer func() {
		if shared.Ensemble != nil {
			shared.kill()
		}
		_ = os.RemoveAll(dir)
	}()
	return t.M.Run()
}

// Shared is a single server that all tests of this binary use; it is not to be harmed.
func Shared(tb testing.TB) *Ensemble {
	tb.Helper()
	Require(tb)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.dir == "" {
		tb.Fatal("TestMain does not run zktest.Tests")
	}
	if shared.Ensemble == nil && shared.err == nil {
		shared.Ensemble, shared.err = launch(shared.dir, Options{})
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.Ensemble
}

func launch(dir string, opts Options) (*Ensemble, error) {
	if opts.Servers == 0 {
		opts.Servers = 1
	}
	if opts.HeapMB == 0 {
		opts.HeapMB = 192
	}
	if opts.FirstID == 0 {
		opts.FirstID = 1
	}
	held, err := heldport.Hold(4 * opts.Servers)
	if err != nil {
		return nil, err
	}
	e := &Ensemble{ports: held}
	var members strings.Builder
	for i := range opts.Servers {
		addr := func(j int) string { return fmt.Sprintf("127.0.0.1:%d", held.Ports[4*i+j]) }
		n := &Node{ID: opts.FirstID + i, Client: addr(0), Quorum: addr(1), Election: addr(2), Dir: filepath.Join(dir, fmt.Sprint(opts.FirstID+i)), opts: opts}
		if opts.Secure {
			n.Secure = addr(3)
		}
		members.WriteString(n.Member() + "\n")
		e.Nodes = append(e.Nodes, n)
	}
	for _, n := range e.Nodes {
		n.members = members.String()
		if err := n.writeConfig(); err != nil {
			return e, err
		}
		if err := n.Start(); err != nil {
			return e, err
		}
	}
	return e, e.await()
}

// Join starts one more server that knows the ensemble and asks it to be let in (it follows without a vote until reconfig names it).
func (e *Ensemble) Join(tb testing.TB, id int) *Node {
	tb.Helper()
	held, err := heldport.Hold(3)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(held.Close)
	addr := func(j int) string { return fmt.Sprintf("127.0.0.1:%d", held.Ports[j]) }
	n := &Node{ID: id, Client: addr(0), Quorum: addr(1), Election: addr(2), Dir: filepath.Join(tb.TempDir(), fmt.Sprint(id)), opts: e.Nodes[0].opts}
	n.members = e.Nodes[0].members + n.Member() + "\n"
	if err := n.writeConfig(); err != nil {
		tb.Fatal(err)
	}
	if err := n.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(n.Kill)
	if err := n.await(); err != nil {
		tb.Fatal(err)
	}
	return n
}

// Member is the node's line in the ensemble's configuration.
func (n *Node) Member() string {
	host, quorum, _ := strings.Cut(n.Quorum, ":")
	_, elect, _ := strings.Cut(n.Election, ":")
	return fmt.Sprintf("server.%d=%s:%s:%s:participant;%s", n.ID, host, quorum, elect, n.Client)
}

func (n *Node) writeConfig() error {
	data := filepath.Join(n.Dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "myid"), fmt.Append(nil, n.ID), 0o644); err != nil {
		return err
	}
	conf := "dataDir=" + data + `
tickTime=500
initLimit=40
syncLimit=20
minSessionTimeout=500
maxSessionTimeout=60000
maxClientCnxns=0
standaloneEnabled=false
reconfigEnabled=true
admin.enableServer=false
4lw.commands.whitelist=*
`
	if _, port, ok := strings.Cut(n.Secure, ":"); ok {
		conf += "secureClientPort=" + port + "\nsecureClientPortAddress=127.0.0.1\n"
	}
	for _, line := range n.opts.Config {
		conf += line + "\n"
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "dyn.cfg"), []byte(n.members), 0o644); err != nil {
		return err
	}
	conf += "dynamicConfigFile=" + filepath.Join(n.Dir, "dyn.cfg") + "\n"
	return os.WriteFile(filepath.Join(n.Dir, "zoo.cfg"), []byte(conf), 0o644)
}

// Start runs the server's process. Its data stay from one run to the next.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	out, err := os.OpenFile(filepath.Join(n.Dir, "log.txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	args := []string{
		fmt.Sprintf("-Xmx%dm", n.opts.HeapMB), "-Xms32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Dzookeeper.extendedTypesEnabled=true", "-Dzookeeper.forceSync=no", "-Dzookeeper.jmx.log4j.disable=true",
		"-Dznode.container.checkIntervalMs=1000", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dzookeeper.DigestAuthenticationProvider.superDigest=" + zk.DigestID("super", SuperPassword),
		"-Dzookeeper.authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
	}
	args = append(args, n.opts.JVM...)
	args = append(args, "-cp", Jar+":"+logJar+":"+nettyJars, "org.apache.zookeeper.server.quorum.QuorumPeerMain", filepath.Join(n.Dir, "zoo.cfg"))
	cmd := exec.Command("java", args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	exited := make(chan struct{})
	started := make(chan error)
	go func() {
		// The parent-death signal is sent when the thread that forked ends, so this thread is kept.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return err
	}
	n.cmd, n.exited = cmd, exited
	return nil
}

func (n *Node) signal(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(s)
	}
}

// Kill ends the server as kill -9 does, and waits for it.
func (n *Node) Kill() {
	n.signal(syscall.SIGKILL)
	n.mu.Lock()
	ch := n.exited
	n.cmd = nil
	n.mu.Unlock()
	if ch != nil {
		<-ch
	}
}

// Pause stops the server from running (SIGSTOP); Resume lets it go on.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

// CPU is the processor time that the server has used since it was started.
func (n *Node) CPU() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// Mode is what the server says it is: leader, follower, observer, standalone, or "" when it does not serve.
func (n *Node) Mode() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := zk.FourLetter(ctx, nil, n.Client, "srvr")
	if err != nil {
		return ""
	}
	_, mode, _ := strings.Cut(out, "Mode: ")
	mode, _, _ = strings.Cut(mode, "\n")
	return strings.TrimSpace(mode)
}

// Await waits until the server serves clients.
func (n *Node) Await(tb testing.TB) {
	tb.Helper()
	if err := n.await(); err != nil {
		tb.Fatal(err)
	}
}

func (n *Node) await() error {
	deadline := time.Now().Add(patience)
	for n.Mode() == "" {
		n.mu.Lock()
		exited := n.exited
		n.mu.Unlock()
		select {
		case <-exited:
			return fmt.Errorf("zookeeper server %d ended: %s", n.ID, n.logTail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("zookeeper server %d does not serve after %v: %s", n.ID, patience, n.logTail())
		}
	}
	return nil
}

func (n *Node) logTail() string {
	b, _ := os.ReadFile(filepath.Join(n.Dir, "log.txt"))
	return string(b[max(0, len(b)-2000):])
}

func (e *Ensemble) await() error {
	for _, n := range e.Nodes {
		if err := n.await(); err != nil {
			return err
		}
	}
	return nil
}

func (e *Ensemble) kill() {
	for _, n := range e.Nodes {
		n.Kill()
	}
	e.ports.Close()
}

// Leader is the node that leads now; it waits for one.
func (e *Ensemble) Leader(tb testing.TB) *Node {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		for _, n := range e.Nodes {
			if m := n.Mode(); m == "leader" || m == "standalone" {
				return n
			}
		}
		time.Sleep(20 * time.Millisecond) // between polls of a condition with a deadline
	}
	tb.Fatal("the ensemble has no leader")
	return nil
}

// Servers are the client addresses.
func (e *Ensemble) Servers() []string {
	var s []string
	for _, n := range e.Nodes {
		s = append(s, n.Client)
	}
	return s
}

// Client connects a client that is closed when the test ends. Servers in cfg are filled in when empty.
func (e *Ensemble) Client(tb testing.TB, cfg zk.Config) *zk.Client {
	tb.Helper()
	if len(cfg.Servers) == 0 {
		cfg.Servers = e.Servers()
	}
	c, err := zk.New(cfg, zk.Deps{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.WaitConnected(ctx); err != nil {
		tb.Fatal(err)
	}
	return c
}

// Base makes a path for this test alone and returns it.
func (e *Ensemble) Base(tb testing.TB) string {
	tb.Helper()
	c := e.Client(tb, zk.Config{})
	// The number tells the runs of -count apart. It stands in a directory, so that tests see an orderly "/".
	dir := "/" + strings.NewReplacer("/", "_", " ", "_").Replace(tb.Name())
	if err := c.MakePath(context.Background(), dir, zk.OpenACL()); err != nil {
		tb.Fatal(err)
	}
	path, err := c.Create(context.Background(), dir+"/", nil, zk.OpenACL(), zk.PersistentSequential)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Eventually waits until cond holds. It fails the test when it does not within four times d: d is what a machine that has nothing else to do
// would need at most.
func Eventually(tb testing.TB, d time.Duration, what string, cond func() bool) {
	tb.Helper()
	d *= 4
	deadline := time.Now().Add(d)
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond) // between polls of a condition with a deadline
	}
}
