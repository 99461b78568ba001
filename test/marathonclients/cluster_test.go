// Package marathonclients runs programs that nobody here wrote, unmodified, against the services of a whole cluster.
package marathonclients

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

type cluster struct {
	Marathon string `json:"marathon"`
	Master   string `json:"master"`
	kill     func() // ends the process at once, as a crash
}

// binary is the program that is tested.
func binary(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("ORCHESTRATOR_BIN")
	if bin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("ORCHESTRATOR_BIN is not set")
		}
		t.Skip("ORCHESTRATOR_BIN names no binary to test: run make test-clients")
	}
	return bin
}

// startCluster runs `orchestrator up` on free ports until the test ends.
func startCluster(t *testing.T, resources string) cluster {
	t.Helper()
	return startIn(t, binary(t), t.TempDir(), resources)
}

// startIn runs it in a directory that may have been used before.
func startIn(t *testing.T, bin, dir, resources string) cluster {
	t.Helper()
	ready := filepath.Join(dir, "ready.json")
	_ = os.Remove(ready)
	log, err := os.Create(filepath.Join(dir, "out.txt"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "up", "--data-dir", filepath.Join(dir, "d"), "--master-port", "0", "--agent-port", "0", "--marathon-port", "0", "--monitor-port", "0", "--ready-file", ready, "--resources", resources)
	if help, err := exec.Command(bin, "up", "--help").Output(); err == nil && !containsFlag(help, "--monitor-port") {
		cmd.Args = append(cmd.Args[:9], cmd.Args[11:]...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		if t.Failed() {
			describe(t, ready)
		}
		removeAll(ready, done)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			out, _ := os.ReadFile(log.Name())
			t.Logf("orchestrator up said:\n%s", tail(out, 4000))
			out, _ = os.ReadFile(filepath.Join(dir, "d", "up.log"))
			t.Logf("and logged:\n%s", tail(out, 8000))
		}
		_ = log.Close()
	})
	var c cluster
	await(t, "the cluster is up", func() bool {
		select {
		case <-done:
			t.Fatal("orchestrator up ended")
		default:
		}
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, &c) == nil
	})
	c.kill = func() {
		_ = cmd.Process.Kill()
		<-done
	}
	return c
}

// describe logs what a cluster on which a test has failed was doing.
func describe(t *testing.T, ready string) {
	t.Helper()
	var c cluster
	b, err := os.ReadFile(ready)
	if err != nil || json.Unmarshal(b, &c) != nil {
		return
	}
	client := &http.Client{Timeout: 5 * time.Second}
	for _, url := range []string{c.Marathon + "/v2/deployments", c.Marathon + "/v2/queue", c.Marathon + "/v2/tasks", c.Master + "/frameworks", c.Master + "/slaves"} {
		resp, err := client.Get(url)
		if err != nil {
			t.Logf("%s: %v", url, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		t.Logf("%s: %s", url, tail(b, 6000))
	}
}

// removeAll ends every service, so that a test that failed leaves no task on this machine: tasks outlive the cluster.
func removeAll(ready string, done <-chan struct{}) {
	var c cluster
	b, err := os.ReadFile(ready)
	if err != nil || json.Unmarshal(b, &c) != nil || c.Marathon == "" {
		return
	}
	client := &http.Client{Timeout: 5 * time.Second}
	req, _ := http.NewRequest(http.MethodDelete, c.Marathon+"/v2/groups?force=true", nil)
	resp, err := client.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	for range 300 {
		resp, err := client.Get(c.Marathon + "/v2/deployments")
		if err != nil {
			return
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) == "[]" {
			return
		}
		select {
		case <-done:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func containsFlag(help []byte, flag string) bool {
	for i := 0; i+len(flag) <= len(help); i++ {
		if string(help[i:i+len(flag)]) == flag {
			return true
		}
	}
	return false
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// patience is how long what must happen may take: only a broken build needs as long, however busy the machine is.
const patience = 4 * time.Minute

// await polls until the condition holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}
