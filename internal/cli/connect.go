package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/election"
	electionzk "github.com/orchestrator/orchestrator/internal/election/zookeeper"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/spf13/cobra"
)

// connection holds the flags that every command has that talks to a cluster.
type connection struct {
	Master    election.Target `flag:"master" default:"127.0.0.1:5050" help:"Masters, as host:port,… or zk://host:port,…/path."`
	Principal string          `flag:"principal" help:"Who you are, where the cluster asks for it."`
	Secret    string          `flag:"secret" secret:"true" help:"Your secret; file:///path reads it from a file."`
	Timeout   time.Duration   `flag:"timeout" default:"30secs" help:"How long an answer may take."`
	Output    string          `flag:"output" short:"o" default:"table" help:"How to print: table or json."`

	set *config.Set
}

// Validate implements config.Validator.
func (c *connection) Validate() error {
	var p config.Problems
	if c.Output != "table" && c.Output != "json" {
		p.Addf("output", "%q is neither table nor json", c.Output)
	}
	if c.Timeout <= 0 {
		p.Addf("timeout", "it must be positive")
	}
	if c.Master.IsZero() {
		p.Addf("master", "it is empty")
	}
	return p.Err()
}

// bind declares the flags on a command.
func (c *connection) bind(cmd *cobra.Command) {
	c.set = config.Bind(cmd.Flags(), c, config.Options{EnvPrefix: []string{"ORCHESTRATOR_"}, Hyphens: true, NoFile: true})
}

// load completes the flags from the environment.
func (c *connection) load() error {
	if err := c.set.Load(os.LookupEnv); err != nil {
		return usageError{err}
	}
	return nil
}

func (c *connection) json() bool { return c.Output == "json" }

// client makes a client of one of the master's APIs. The function gives back what finding the master took.
func (c *connection) client(path string) (*wire.Client, func(), error) {
	cfg := wire.ClientConfig{
		Masters: c.Master.Addresses, Path: path, ContentType: wire.Protobuf, Principal: c.Principal, Secret: c.Secret, CallTimeout: c.Timeout,
	}
	done := func() {}
	if zk := c.Master.ZooKeeper; zk != nil {
		e, err := electionOf(*zk, nil)
		if err != nil {
			return nil, nil, err
		}
		done = e.Close
		cfg.Detector = leaderOf{e}
	}
	client, err := wire.NewClient(cfg)
	if err != nil {
		done()
		return nil, nil, err
	}
	return client, func() { client.Close(); done() }, nil
}

// electionOf watches an election in ZooKeeper. A nil log is silence.
func electionOf(zk election.ZooKeeper, log *slog.Logger) (*electionzk.Election, error) {
	return electionzk.New(electionzk.Config{ZooKeeper: zk}, electionzk.Deps{Log: log})
}

// leaderOf turns a detector into what the client wants to know.
type leaderOf struct{ election.Detector }

// Leader implements wire.Detector.
func (d leaderOf) Leader(ctx context.Context) (string, error) {
	var known *election.Leader
	for {
		l, err := d.Detect(ctx, known)
		if err != nil {
			return "", fmt.Errorf("finding the leading master: %w", err)
		}
		if known = l; l != nil {
			return l.Address, nil
		}
	}
}

// cluster is a connection to a cluster's operator API.
type cluster struct {
	*connection
	client *wire.Client
}

// withCluster makes the RunE of a command that talks to the operator API.
func withCluster(run func(ctx context.Context, cmd *cobra.Command, c *cluster, args []string) error) (*connection, func(*cobra.Command, []string) error) {
	conn := &connection{}
	return conn, func(cmd *cobra.Command, args []string) error {
		if err := conn.load(); err != nil {
			return err
		}
		client, done, err := conn.client("/api/v1")
		if err != nil {
			return err
		}
		defer done()
		return run(cmd.Context(), cmd, &cluster{conn, client}, args)
	}
}

// ask makes a call of the master's operator API. answer may be nil.
func (c *cluster) ask(ctx context.Context, call *masterv1.Call, answer *masterv1.Response) error {
	var err error
	if answer == nil {
		err = c.client.Call(ctx, call)
	} else {
		err = c.client.Do(ctx, call, answer)
	}
	return c.explain(ctx, err)
}

// explain says what to do about an error of the connection.
func (c *connection) explain(ctx context.Context, err error) error {
	var status *wire.StatusError
	var netError net.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	case errors.As(err, &status) && status.Status == 401:
		return fmt.Errorf("%w; give --principal and --secret", err)
	case errors.As(err, &status) && status.Status == http.StatusNotFound:
		return fmt.Errorf("what answers at %s is no master: %w; name one with --master or ORCHESTRATOR_MASTER", c.Master, err)
	case errors.As(err, &status):
		return err
	case errors.As(err, &netError) || strings.Contains(err.Error(), "connect"):
		return fmt.Errorf("no master at %s: %w; is one running there? Name another with --master or ORCHESTRATOR_MASTER", c.Master, err)
	}
	return err
}

// query makes a call that has no parameters.
func (c *cluster) query(ctx context.Context, t masterv1.Call_Type) (*masterv1.Response, error) {
	answer := &masterv1.Response{}
	return answer, c.ask(ctx, &masterv1.Call{Type: t.Enum()}, answer)
}
