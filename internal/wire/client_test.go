package wire_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	masterv1 "github.com/orchestrator/orchestrator/api/mesos/v1/master"
	schedulerv1 "github.com/orchestrator/orchestrator/api/mesos/v1/scheduler"
	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/memnet"
)

func TestClientFollowsTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := new(memnet.Network)
		m := newFakeMaster(wire.StreamConfig{ID: "s"})
		serveAt(t, network, "leader:5050", m)
		serveAt(t, network, "follower:5050", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wire.Redirect(w, r, "leader:5050") }))
		c := client(t, network, func(cfg *wire.ClientConfig) { cfg.Masters = []string{"dead:5050", "follower:5050"} })
		// The first master does not answer: a single call says so, and the next one goes elsewhere.
		if err := c.Call(t.Context(), &schedulerv1.Call{}); err == nil || !wire.Temporary(err) {
			t.Errorf("calling a dead master: %v", err)
		}
		events, err := c.Open(t.Context(), subscribeCall())
		if err != nil {
			t.Fatal(err)
		}
		defer events.Close()
		if c.Leader() != "http://leader:5050" || c.StreamID() != "s" {
			t.Errorf("leader %q, stream %q", c.Leader(), c.StreamID())
		}
		if err := c.Call(t.Context(), &schedulerv1.Call{Type: schedulerv1.Call_REVIVE.Enum()}); err != nil {
			t.Error(err)
		}
	})
}

func TestClientGivesUpOnRedirectsInCircles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := new(memnet.Network)
		serveAt(t, network, "a:1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wire.Redirect(w, r, "b:1") }))
		serveAt(t, network, "b:1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wire.Redirect(w, r, "a:1") }))
		c := client(t, network, func(cfg *wire.ClientConfig) { cfg.Masters = []string{"a:1"} })
		var status *wire.StatusError
		if err := c.Call(t.Context(), &schedulerv1.Call{}); !errors.As(err, &status) || status.Status != 307 || !status.Temporary() {
			t.Errorf("%v", err)
		}
	})
}

type detector chan string

func (d detector) Leader(ctx context.Context) (string, error) {
	select {
	case leader := <-d:
		return leader, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func TestSubscribeComesBackAfterEveryLoss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMaster(wire.StreamConfig{ID: "s"})
		network := serve(t, m)
		leaders := make(detector, 10)
		c := client(t, network, func(cfg *wire.ClientConfig) { cfg.Masters, cfg.Detector = nil, leaders })
		var log []string
		id := ""
		stop := errors.New("seen enough")
		done := make(chan error)
		go func() {
			done <- wire.Subscribe(t.Context(), c, wire.Subscription[schedulerv1.Event]{
				Call: func() proto.Message {
					call := subscribeCall()
					if id != "" {
						call.FrameworkId = &mesosv1.FrameworkID{Value: proto.String(id)}
					}
					log = append(log, "call "+id)
					return call
				},
				Event: func(_ context.Context, ev *schedulerv1.Event) error {
					switch ev.GetType() {
					case schedulerv1.Event_SUBSCRIBED:
						id = ev.GetSubscribed().GetFrameworkId().GetValue()
						log = append(log, "subscribed")
					case schedulerv1.Event_ERROR:
						return wire.ErrResubscribe
					case schedulerv1.Event_MESSAGE:
						return stop
					}
					return nil
				},
				Disconnected: func(err error, _ time.Duration) {
					switch {
					case errors.Is(err, wire.ErrSilent):
						log = append(log, "silent")
					case errors.Is(err, wire.ErrResubscribe):
						log = append(log, "resubscribe")
					default:
						log = append(log, "lost")
					}
				},
			})
		}()
		leaders <- "nobody:5050"
		leaders <- "http://master:5050"
		first := <-m.streams
		first.Send(subscribed(15))
		synctest.Wait()
		first.Close(nil) // the stream ends
		leaders <- "master:5050"
		second := <-m.streams
		second.Send(subscribed(15)) // then silence: no heartbeat is configured
		start := time.Now()
		leaders <- "master:5050"
		third := <-m.streams
		if got := time.Since(start); got < 75*time.Second || got > 76*time.Second {
			t.Errorf("silence was noticed after %v", got)
		}
		third.Send(wire.NewEvent(&schedulerv1.Event{Type: schedulerv1.Event_ERROR.Enum(), Error: &schedulerv1.Event_Error{Message: proto.String("failed over")}}))
		leaders <- "master:5050"
		fourth := <-m.streams
		fourth.Send(message(1))
		if err := <-done; !errors.Is(err, stop) {
			t.Errorf("Subscribe returned %v", err)
		}
		want := "[call  lost call  subscribed lost call F-0000 subscribed silent call F-0000 resubscribe call F-0000]"
		if got := fmt.Sprint(log); got != want {
			t.Errorf("history\n%s, want\n%s", got, want)
		}
	})
}

func TestSubscribeEndsWhenTryingAgainIsPointless(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		c := client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if attempts++; attempts < 4 {
				wire.Error(w, http.StatusServiceUnavailable, "No leader elected")
				return
			}
			wire.Error(w, http.StatusUnauthorized, "who are you")
		})), nil)
		start := time.Now()
		err := wire.Subscribe(t.Context(), c, wire.Subscription[schedulerv1.Event]{
			Call:  func() proto.Message { return subscribeCall() },
			Event: func(context.Context, *schedulerv1.Event) error { return nil },
		})
		var status *wire.StatusError
		if !errors.As(err, &status) || status.Status != http.StatusUnauthorized || attempts != 4 {
			t.Errorf("after %d attempts: %v", attempts, err)
		}
		// 100, 200 and 400 ms, each less up to a half.
		if waited := time.Since(start); waited < 350*time.Millisecond || waited > 700*time.Millisecond {
			t.Errorf("backed off for %v", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		attempts = -1 << 30
		if err := wire.Subscribe(ctx, c, wire.Subscription[schedulerv1.Event]{
			Call:  func() proto.Message { return subscribeCall() },
			Event: func(context.Context, *schedulerv1.Event) error { return nil },
		}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that ends: %v", err)
		}
	})
}

func TestDoReadsAnswers(t *testing.T) {
	t.Parallel()
	for _, ct := range []wire.ContentType{wire.JSON, wire.Protobuf} {
		synctest.Test(t, func(t *testing.T) {
			c := client(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var call masterv1.Call
				if _, ok := wire.ReadCall(w, r, &call, wire.CallOptions{}); !ok {
					return
				}
				switch call.GetType() {
				case masterv1.Call_GET_HEALTH:
					answer, _ := wire.Negotiate(r)
					wire.Respond(w, http.StatusOK, answer, &masterv1.Response{
						Type: masterv1.Response_GET_HEALTH.Enum(), GetHealth: &masterv1.Response_GetHealth{Healthy: proto.Bool(true)},
					})
				case masterv1.Call_GET_FLAGS:
					wire.Error(w, http.StatusForbidden, "not you")
				case masterv1.Call_GET_STATE:
					<-r.Context().Done()
				default:
					wire.Error(w, http.StatusOK, "plain text")
				}
			})), func(cfg *wire.ClientConfig) { cfg.ContentType = ct })
			var answer masterv1.Response
			do := func(typ masterv1.Call_Type) error {
				return c.Do(t.Context(), &masterv1.Call{Type: typ.Enum()}, &answer)
			}
			if err := do(masterv1.Call_GET_HEALTH); err != nil || !answer.GetGetHealth().GetHealthy() {
				t.Errorf("%v: %v", &answer, err)
			}
			if err := do(masterv1.Call_GET_FLAGS); err == nil || err.Error() != "HTTP 403: not you" || wire.Temporary(err) {
				t.Errorf("a refusal: %v", err)
			}
			if err := do(masterv1.Call_GET_ROLES); err == nil {
				t.Error("text was taken for an answer")
			}
			start := time.Now()
			if err := do(masterv1.Call_GET_STATE); err == nil || err.Error() != "no answer within 30s" || time.Since(start) != 30*time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
			if err := c.Call(t.Context(), &schedulerv1.Call{Kill: &schedulerv1.Call_Kill{}}); err == nil || wire.Temporary(err) {
				t.Errorf("a call that cannot be encoded: %v", err)
			}
		})
	}
}

func TestNewClientChecksAddresses(t *testing.T) {
	t.Parallel()
	for _, bad := range [][]string{nil, {"ftp://x:1"}, {"http://"}, {"a b:1"}} {
		if _, err := wire.NewClient(wire.ClientConfig{Masters: bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := wire.NewClient(wire.ClientConfig{Masters: []string{"[::1]:5050", "https://m.example.com/prefix/"}}); err != nil {
		t.Error(err)
	}
}
