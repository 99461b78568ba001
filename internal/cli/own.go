package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// plain makes a request of the master's own API (docs/reference/master-api.md), following it to the leader. form is nil for GET.
func (c *cluster) plain(ctx context.Context, path string, form url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	masters := c.Master.Addresses
	if c.client != nil && c.client.Leader() != "" {
		masters = []string{c.client.Leader()}
	}
	var last error
	for _, m := range masters {
		last = c.plainOn(ctx, m, path, form, answer)
		var refused *refusedError
		if last == nil || errors.As(last, &refused) {
			return last
		}
	}
	if last == nil {
		return errors.New("no master is known")
	}
	return c.explain(ctx, last)
}

// refusedError is an answer, as opposed to having got none.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

func (c *cluster) plainOn(ctx context.Context, address, path string, form url.Values, answer any) error {
	target := address + path
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	for range 3 {
		method, body := http.MethodGet, io.Reader(nil)
		if form != nil {
			method, body = http.MethodPost, strings.NewReader(form.Encode())
		}
		req, err := http.NewRequestWithContext(ctx, method, target, body)
		if err != nil {
			return err
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if c.Principal != "" {
			req.SetBasicAuth(c.Principal, c.Secret)
		}
		// A redirect is followed by hand: the master's have no scheme, and credentials go to the leader as well.
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
		resp.Body.Close()
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusTemporaryRedirect:
			target = "http:" + resp.Header.Get("Location")
			continue
		case resp.StatusCode >= 300:
			return &refusedError{fmt.Sprintf("HTTP %d: %s", resp.StatusCode, printable(strings.TrimSpace(string(raw))))}
		case answer != nil:
			return json.Unmarshal(raw, answer)
		}
		return nil
	}
	return errors.New("the masters redirect in a circle: no leader is settled yet")
}
