package probe

import (
	"errors"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/heldport"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// A monitor that is being started refuses connections until it listens. It must be found soon after it does, however many tries were
// made before; one that does not answer, or has been away for long, is left alone longer.
func TestARefusedConnectionIsTriedAgainSoon(t *testing.T) {
	t.Parallel()
	u, err := monitorURL(heldport.Address(t))
	if err != nil {
		t.Fatal(err)
	}
	codec := topology.NewCodec()
	l := newLink(u, &Config{Token: "x"}, Deps{}, slog.New(slog.DiscardHandler), newHub(codec), codec, linkIdentity{})
	conn, refused := l.open(t.Context())
	if refused == nil {
		conn.CloseNow()
		t.Fatal("somebody else listens there")
	}
	for _, x := range []struct {
		err  error
		away time.Duration
		want time.Duration
	}{
		{refused, 0, refusedDelay},
		{refused, time.Minute, refusedDelay},
		{refused, time.Hour, lastDelay},
		{errors.New("no answer"), 0, lastDelay},
		{syscall.ECONNRESET, 0, lastDelay},
	} {
		if got := longestDelay(x.err, x.away); got != x.want {
			t.Errorf("%v after %v: %v, want %v", x.err, x.away, got, x.want)
		}
	}
}
