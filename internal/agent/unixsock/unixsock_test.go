package unixsock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLongPaths(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"short": t.TempDir(),
		"long":  filepath.Join(t.TempDir(), strings.Repeat("d", 120), strings.Repeat("e", 120)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "s")
			l, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Listen(path); err == nil {
				t.Error("a second owner of a live socket was let in")
			}
			c, err := Dial(path, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// Two dials have come: Listen's own probe and ours; every peer is this process.
			s, err := l.AcceptUnix()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if cred, err := Peer(s); err != nil || int(cred.Uid) != os.Getuid() || int(cred.Pid) != os.Getpid() {
				t.Errorf("peer %+v, %v", cred, err)
			}
			l.Close()
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("socket after close: %v %v, want it left with mode 0600", fi, err)
			}
			again, err := Listen(path)
			if err != nil {
				t.Fatalf("a dead socket was not replaced: %v", err)
			}
			again.Close()
		})
	}
}

// TestInherited: a socket whose owner has just gone may answer for a moment, in the hands of what the owner was starting.
func TestInherited(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		if c, err := l.Accept(); err == nil { // the successor looks whether anybody answers
			c.Close()
		}
		l.Close()
	}()
	next, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	next.Close()
	<-probed
}
