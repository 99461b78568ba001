package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// poll waits until f has no complaint.
func pollAgent(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Not parallel: it sends SIGHUP to this process.
func TestAgentCommandWritesItsReadyFileReloadsAndStops(t *testing.T) {
	dir := t.TempDir()
	attributes := filepath.Join(dir, "attributes")
	if err := os.WriteFile(attributes, []byte("rack:one"), 0o644); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(dir, "ready")
	args := []string{
		"agent", "--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0", "--work_dir=" + dir + "/work", "--runtime_dir=" + dir + "/run",
		"--attributes=file://" + attributes, "--ready-file=" + ready, "--logging_level=ERROR", fmt.Sprintf("--cgroups_root=orchestrator-cli-test-%d", os.Getpid()),
	}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), argsKey{}, args))
	defer cancel()
	root := newRoot()
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(io.Discard)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	var addresses struct {
		Agent string
		PID   int
	}
	pollAgent(t, func() error {
		select {
		case err := <-done:
			t.Fatalf("the agent ended: %v", err)
		default:
		}
		data, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &addresses)
	})
	if addresses.PID != os.Getpid() {
		t.Errorf("pid %d in the ready file", addresses.PID)
	}
	rack := func() (string, error) {
		resp, err := http.Get(addresses.Agent + "/slave(1)/state")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		var state struct{ Attributes map[string]any }
		if err := json.NewDecoder(resp.Body).Decode(&state); err != nil {
			return "", err
		}
		return fmt.Sprint(state.Attributes["rack"]), nil
	}
	if got, err := rack(); err != nil || got != "one" {
		t.Errorf("rack %q, %v", got, err)
	}
	if err := os.WriteFile(attributes, []byte("rack:two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	pollAgent(t, func() error {
		got, err := rack()
		if err == nil && got != "two" {
			err = fmt.Errorf("rack is %q after SIGHUP", got)
		}
		return err
	})

	// A second agent in the same directory would fight over its tasks.
	second := newRoot()
	second.SetArgs(args)
	second.SetOut(io.Discard)
	second.SetErr(io.Discard)
	if err := second.ExecuteContext(ctx); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent with this work directory: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the agent ended with %v", err)
	}
}
