package stretch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/zk"
)

// Member is one server of a configuration: server.ID=host:quorum:election[:role];client.
type Member struct {
	ID      int64
	Address string // host:quorum:election
	Role    string // participant or observer
	Client  string // host:port of the client port
}

// ParseMember reads a server line of ZooKeeper's dynamic configuration.
func ParseMember(line string) (Member, error) {
	bad := func(why string) (Member, error) {
		return Member{}, fmt.Errorf("member %q: %s; want server.ID=host:quorumPort:electionPort[:participant|observer];[host:]clientPort", line, why)
	}
	key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
	id, err := strconv.ParseInt(strings.TrimPrefix(key, "server."), 10, 64)
	if !ok || !strings.HasPrefix(key, "server.") || err != nil || id < 0 {
		return bad("no server id")
	}
	server, client, ok := strings.Cut(value, ";")
	if !ok {
		return bad("no client port")
	}
	m := Member{ID: id, Role: "participant", Address: server}
	for _, role := range []string{"participant", "observer"} {
		if a, found := strings.CutSuffix(server, ":"+role); found {
			m.Address, m.Role = a, role
		}
	}
	i := strings.LastIndexByte(m.Address, ':')
	j := -1
	if i > 0 {
		j = strings.LastIndexByte(m.Address[:i], ':')
	}
	if j <= 0 {
		return bad("no quorum and election ports")
	}
	host := m.Address[:j]
	if !strings.Contains(client, ":") {
		client = host + ":" + client
	}
	h, port, err := net.SplitHostPort(client)
	if err != nil {
		return bad("no client port")
	}
	if h == "0.0.0.0" || h == "::" || h == "" {
		client = net.JoinHostPort(strings.Trim(host, "[]"), port) // listens everywhere: reached where its peers reach it
	}
	m.Client = client
	return m, nil
}

func (m Member) line(role string) string {
	return fmt.Sprintf("server.%d=%s:%s;%s", m.ID, m.Address, role, m.Client)
}

// Config is an ensemble's configuration.
type Config struct {
	Members []Member
	Version string
}

// ParseConfig reads /zookeeper/config.
func ParseConfig(text string) (Config, error) {
	var c Config
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "server."):
			m, err := ParseMember(line)
			if err != nil {
				return c, err
			}
			c.Members = append(c.Members, m)
		case strings.HasPrefix(line, "version="):
			c.Version = strings.TrimPrefix(line, "version=")
		}
	}
	if len(c.Members) == 0 {
		return c, errors.New("the configuration names no servers: a standalone server cannot be reconfigured (standaloneEnabled=false makes it a quorum of one)")
	}
	return c, nil
}

func (c Config) member(id int64) (Member, bool) {
	i := slices.IndexFunc(c.Members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return c.Members[i], true
}

// Step is one change of the configuration.
type Step struct {
	Do     string // join, promote or remove
	Member Member
	Why    string
}

func (s Step) String() string {
	return fmt.Sprintf("%-8s server.%d (%s): %s", s.Do, s.Member.ID, s.Member.Client, s.Why)
}

// Plan lists the steps from a configuration to one with exactly the given voters. leader is the id of the server that leads; it
// is removed last.
func Plan(now Config, aim []Member, leader int64) ([]Step, error) {
	if len(aim) == 0 {
		return nil, errors.New("no servers to move to")
	}
	var join, promote, remove []Step
	seen := map[int64]bool{}
	for _, m := range aim {
		if seen[m.ID] {
			return nil, fmt.Errorf("server.%d is named twice", m.ID)
		}
		seen[m.ID] = true
		have, ok := now.member(m.ID)
		if ok && have.Address != m.Address {
			return nil, fmt.Errorf("server.%d is %s in the ensemble and %s in the aim: a new server needs a new id", m.ID, have.Address, m.Address)
		}
		if !ok {
			join = append(join, Step{"join", m, "follows without a vote and copies the tree"})
		}
		if !ok || have.Role != "participant" {
			promote = append(promote, Step{"promote", m, "gets a vote"})
		}
	}
	for _, m := range now.Members {
		if !seen[m.ID] {
			remove = append(remove, Step{"remove", m, "loses its vote and follows on until it is stopped"})
		}
	}
	slices.SortStableFunc(remove, func(a, b Step) int {
		last := func(s Step) int {
			if s.Member.ID == leader {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	// Voters are exchanged one by one, so that the quorum never spans more than one server above the smaller ensemble: while
	// both were voting in full, losing the link between them would stop everything.
	steps := join
	for i := range max(len(promote), len(remove)) {
		if i < len(promote) {
			steps = append(steps, promote[i])
		}
		if i < len(remove) {
			steps = append(steps, remove[i])
		}
	}
	return steps, nil
}

// Mover carries a plan out.
type Mover struct {
	// Client is connected with the client ports of the old and the new servers, and super.
	Client *zk.Client
	// Wait bounds each gate. Default 2 minutes.
	Wait time.Duration
	// Report is told of every step: before it begins, and when its gate has passed.
	Report func(step Step, done bool)
	ask    func(ctx context.Context, addr string) (map[string]string, error)
}

// Current reads the configuration and finds the leader.
func (m *Mover) Current(ctx context.Context) (Config, int64, error) {
	if err := m.Client.Sync(ctx); err != nil {
		return Config{}, 0, err
	}
	data, _, err := m.Client.Get(ctx, "/zookeeper/config")
	if err != nil {
		return Config{}, 0, fmt.Errorf("reading the configuration (servers from 3.5 on have one): %w", err)
	}
	c, err := ParseConfig(string(data))
	if err != nil {
		return c, 0, err
	}
	leader := int64(-1)
	for _, s := range c.Members {
		if info, err := m.srvr(ctx, s.Client); err == nil && info["Mode"] == "leader" {
			leader = s.ID
		}
	}
	return c, leader, nil
}

func (m *Mover) srvr(ctx context.Context, addr string) (map[string]string, error) {
	if m.ask != nil {
		return m.ask(ctx, addr)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	text, err := zk.FourLetter(ctx, nil, addr, "srvr")
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ": "); ok {
			info[k] = strings.TrimSpace(v)
		}
	}
	if info["Mode"] == "" {
		return nil, fmt.Errorf("%s does not serve: %.100s", addr, strings.TrimSpace(text))
	}
	return info, nil
}

// Run carries out the steps, each behind its gate. It stops at the first that fails: nothing is broken then, and running again
// plans from where it stopped.
func (m *Mover) Run(ctx context.Context, steps []Step) error {
	if m.Wait <= 0 {
		m.Wait = 2 * time.Minute
	}
	for _, s := range steps {
		if m.Report != nil {
			m.Report(s, false)
		}
		if err := m.step(ctx, s); err != nil {
			return fmt.Errorf("%s of server.%d: %w", s.Do, s.Member.ID, err)
		}
		if m.Report != nil {
			m.Report(s, true)
		}
	}
	return nil
}

func (m *Mover) step(ctx context.Context, s Step) error {
	ctx, cancel := context.WithTimeout(ctx, m.Wait)
	defer cancel()
	joining, leaving, modes := "", "", []string(nil)
	switch s.Do {
	case "join":
		// Nothing is changed yet: a server that is let in must be there, and have everything, before it counts.
		err := m.until(ctx, func() error { return m.caughtUp(ctx, s.Member, []string{"observer", "follower"}) })
		if err != nil {
			return fmt.Errorf("it does not follow; start it with the old members and itself as participant in its configuration: %w", err)
		}
		return nil
	case "promote":
		joining, modes = s.Member.line("participant"), []string{"follower", "leader"}
	case "remove":
		leaving = strconv.FormatInt(s.Member.ID, 10)
	}
	err := m.until(ctx, func() error {
		_, err := m.Client.Do(ctx, zk.Reconfig(joining, leaving, "", -1))
		// An answer may be lost because the connection goes with the server, so the configuration tells what happened.
		c, _, cerr := m.Current(ctx)
		if cerr == nil {
			have, ok := c.member(s.Member.ID)
			switch {
			case s.Do == "remove" && !ok, s.Do == "promote" && ok && have.Role == "participant":
				return nil
			}
		}
		return err
	})
	if err != nil {
		if errors.Is(err, zk.ErrNewConfigNoQuorum) {
			return fmt.Errorf("%w; observers do not count: start the new server with itself as participant in its configuration", err)
		}
		if errors.Is(err, zk.ErrNoAuth) {
			return fmt.Errorf("%w; reconfiguration needs the right to write /zookeeper/config: --auth digest:super:PASSWORD", err)
		}
		return err
	}
	if modes == nil {
		return m.until(ctx, func() error { return m.Client.Sync(ctx) })
	}
	return m.until(ctx, func() error { return m.caughtUp(ctx, s.Member, modes) })
}

// caughtUp is the gate: the server has its role, and everything that was committed when it was asked.
func (m *Mover) caughtUp(ctx context.Context, s Member, modes []string) error {
	if err := m.Client.Sync(ctx); err != nil {
		return err
	}
	r, err := m.Client.Do(ctx, zk.Exists("/"))
	if err != nil {
		return err
	}
	info, err := m.srvr(ctx, s.Client)
	if err != nil {
		return err
	}
	if !slices.Contains(modes, info["Mode"]) {
		return fmt.Errorf("it is %s, not %s yet", info["Mode"], strings.Join(modes, " or "))
	}
	z, err := strconv.ParseInt(strings.TrimPrefix(info["Zxid"], "0x"), 16, 64)
	if err == nil && z < r.Zxid {
		// A busy ensemble moves on while it is asked; a server that is behind by less than a moment's work is not behind.
		if info, err = m.srvr(ctx, s.Client); err == nil {
			z, err = strconv.ParseInt(strings.TrimPrefix(info["Zxid"], "0x"), 16, 64)
		}
		if err == nil && z < r.Zxid {
			return fmt.Errorf("it has 0x%x, the ensemble 0x%x", z, r.Zxid)
		}
	}
	return err
}

// until repeats f until it succeeds or ctx ends; errors that do not pass end it at once.
func (m *Mover) until(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		for _, final := range []zk.Error{zk.ErrNoAuth, zk.ErrReconfigDisabled, zk.ErrUnimplemented, zk.ErrBadArguments, zk.ErrClosed, zk.ErrAuthFailed} {
			if errors.Is(err, final) {
				return err
			}
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("not within %v: %w", m.Wait, err)
		}
	}
}
