package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/orchestrator/orchestrator/internal/election/standalone"
	"github.com/orchestrator/orchestrator/internal/election/zookeeper"
)

// openDetector finds the leader for --master. Of several addresses the first is asked first; any master redirects to the
// one that leads.
func (a *Agent) openDetector() error {
	t := a.cfg.Master
	switch {
	case a.deps.Detector != nil:
		return nil
	case t.IsZero():
		return errors.New("--master is not given: name the masters (host:port,…) or zk://host:port,…/path")
	case t.ZooKeeper != nil:
		e, err := zookeeper.New(zookeeper.Config{ZooKeeper: *t.ZooKeeper}, zookeeper.Deps{Log: a.log})
		if err != nil {
			return fmt.Errorf("look for the leader in ZooKeeper: %w", err)
		}
		a.deps.Detector = e
		a.extra = append(a.extra, func(ctx context.Context) error {
			<-ctx.Done()
			e.Close()
			return nil
		})
		return nil
	}
	a.addresses = t.Addresses
	a.deps.Detector = standalone.At(t.Addresses[0])
	return nil
}
