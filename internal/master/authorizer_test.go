package master

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestACLsAreEnforced: who is not listed may look and not touch, over the real HTTP API.
func TestACLsAreEnforced(t *testing.T) {
	t.Parallel()
	creds := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(creds, []byte("ops secret\ndev secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, "--ip=127.0.0.1", "--port=0", "--registry=in_memory", "--authenticate_http_readwrite", "--credentials="+creds,
		`--acls={"update_weights":[{"principals":{"values":["ops"]},"roles":{"type":"ANY"}},{"principals":{"type":"NONE"},"roles":{"type":"ANY"}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(*cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-m.Ready()
	put := func(user string) (int, string) {
		req, err := http.NewRequest(http.MethodPut, "http://"+m.Address()+"/weights", strings.NewReader(`[{"role":"web","weight":2}]`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":secret")))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if code, body := put("dev"); code != 403 {
		t.Errorf("dev: %d %s", code, body)
	}
	if code, body := put("ops"); code != 200 {
		t.Errorf("ops: %d %s", code, body)
	}
}
