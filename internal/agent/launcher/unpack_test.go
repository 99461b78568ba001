package launcher

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "helper")
	if _, err := unpack(dir, nil); !errors.Is(err, ErrNotEmbedded) {
		t.Errorf("nothing embedded: %v", err)
	}
	one, err := unpack(dir, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := unpack(dir, []byte("two"))
	if err != nil || two == one {
		t.Fatalf("%s %s %v", one, two, err)
	}
	// A damaged one is mended, an intact one is left alone, one of long ago goes.
	if err := os.WriteFile(one, []byte("damaged"), 0o755); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-100 * 24 * time.Hour)
	if err := os.Chtimes(two, old, old); err != nil {
		t.Fatal(err)
	}
	if again, err := unpack(dir, []byte("one")); err != nil || again != one {
		t.Fatalf("%s %v", again, err)
	}
	if b, _ := os.ReadFile(one); string(b) != "one" {
		t.Errorf("content %q", b)
	}
	if fi, err := os.Stat(one); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", fi, err)
	}
	if _, err := os.Stat(two); err == nil {
		t.Error("the old helper is still there")
	}
}

func TestAdoptRefusesStrangers(t *testing.T) {
	t.Parallel()
	l, err := New("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"none":        "",
		"other start": `{"pid":1,"start_time":1,"boot_id":"` + l.bootID + `"}`,
		"other boot":  `{"pid":1,"start_time":0,"boot_id":"x"}`,
		"no such":     `{"pid":4194304,"start_time":1,"boot_id":"` + l.bootID + `"}`,
	} {
		dir := t.TempDir()
		if content != "" {
			if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Adopt(dir); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
