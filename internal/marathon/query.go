package marathon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/core"
)

// queryTimeout bounds one question to Prometheus.
const queryTimeout = 10 * time.Second

// query asks Prometheus for a canary's gate. Whatever goes wrong counts as not good: the canary waits.
func (t *term) query(ctx context.Context, e core.Query) {
	t.group.Go(func() error {
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		v, err := askPrometheus(ctx, t.m.cfg.PrometheusURL, e.Query)
		if err != nil {
			t.log.Warn("canary query failed", "spec", e.SpecID, "error", err)
		}
		t.post(ctx, core.QueryResult{Deployment: e.Deployment, SpecID: e.SpecID, OK: err == nil && v != 0})
		return nil
	})
}

// askPrometheus gives the first value of an instant query.
func askPrometheus(ctx context.Context, base, query string) (float64, error) {
	if base == "" {
		return 0, errors.New("no Prometheus is configured: set --prometheus_url")
	}
	u := strings.TrimSuffix(base, "/") + "/api/v1/query?query=" + url.QueryEscape(query)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return 0, fmt.Errorf("asking Prometheus: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking Prometheus: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, fmt.Errorf("reading Prometheus' answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("Prometheus answers %s", resp.Status)
	}
	var a struct {
		Data struct {
			Type   string          `json:"resultType"`
			Result json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return 0, fmt.Errorf("reading Prometheus' answer: %w", err)
	}
	var pair []any
	if a.Data.Type == "scalar" {
		err = json.Unmarshal(a.Data.Result, &pair)
	} else {
		var list []struct {
			Value []any `json:"value"`
		}
		if err = json.Unmarshal(a.Data.Result, &list); err == nil {
			if len(list) == 0 {
				return 0, nil
			}
			pair = list[0].Value
		}
	}
	if err != nil || len(pair) != 2 {
		return 0, fmt.Errorf("Prometheus' answer is no number: %w", err)
	}
	text, _ := pair[1].(string)
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("Prometheus' answer is no number: %w", err)
	}
	return v, nil
}
