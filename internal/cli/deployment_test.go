package cli

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestDeploymentOutcome: who waits for a deployment is told how it ended, by the exit code too; a Marathon that doesn't tell is not
// credited with anything.
func TestDeploymentOutcome(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, answer string
		status, exit int
		want         string
	}{
		{"succeeded", `{"id":"x","succeeded":true}`, 200, 0, "done: deployment x\n"},
		{"failed", `{"id":"x","succeeded":false,"reason":"2 new instances failed; rolled back"}`, 200, 1, "the deployment failed: 2 new instances failed; rolled back"},
		{"Marathon itself", `{"message":"HTTP 405 Method Not Allowed"}`, 405, 0, "deployment x has ended\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/deployments" {
					_, _ = w.Write([]byte("[]"))
					return
				}
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.answer))
			}))
			defer s.Close()
			r := orchestrate("deployment", "watch", "x", "--marathon", s.URL)
			r.want(t, tc.exit)
			if got := r.stdout + r.stderr; !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestNobodyWaits: who stops waiting for a deployment is told that it goes on, and how to see or undo it.
func TestNobodyWaits(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"id":"x","totalSteps":2,"currentStep":1,"affectedApps":["/a"]}]`))
		cancel()
	}))
	defer s.Close()
	c := &marathonClient{base: s.URL, http: s.Client()}
	err := c.follow(ctx, io.Discard, "x")
	if err == nil || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "it goes on: `orchestrator deployment ls`") {
		t.Errorf("%v", err)
	}
}
