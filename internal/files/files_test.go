package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// sandbox makes a directory to attach and a secret beside it.
func sandbox(t *testing.T) (*Files, string) {
	t.Helper()
	base := t.TempDir()
	box := filepath.Join(base, "box")
	for _, d := range []string{"box/sub/deep", "outside"} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"box/stdout": "hello world", "box/sub/deep/f": "deep", "outside/secret": "secret", "box/log one": "x",
	} {
		if err := os.WriteFile(filepath.Join(base, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"up": "../outside/secret", "abs": filepath.Join(base, "outside/secret"), "updir": "../outside", "in": "sub/deep/f",
		"sub/back": "../stdout", "loop": "loop", "dangling": "none", "indir": "sub",
	} {
		if err := os.Symlink(to, filepath.Join(box, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(box, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := New()
	f.Attach(box, "/frameworks/F/box/", nil)
	f.Attach(filepath.Join(box, "stdout"), "/slave/log", nil)
	f.Attach(filepath.Join(base, "outside"), "/private", func(p string) bool { return p == "ops" })
	return f, box
}

func TestRead(t *testing.T) {
	t.Parallel()
	f, box := sandbox(t)
	const v = "/frameworks/F/box/"
	for _, c := range []struct {
		path           string
		offset, length int64
		want           Chunk
		err            error
	}{
		{path: v + "stdout", offset: 0, length: -1, want: Chunk{Data: []byte("hello world"), Size: 11}},
		{path: v + "stdout", offset: 6, length: 3, want: Chunk{Data: []byte("wor"), Offset: 6, Size: 11}},
		{path: v + "stdout", offset: -1, length: -1, want: Chunk{Offset: 11, Size: 11}},
		{path: v + "stdout", offset: 99, length: 1, want: Chunk{Offset: 11, Size: 11}},
		{path: v + "stdout", offset: 3, length: 0, want: Chunk{Data: []byte{}, Offset: 3, Size: 11}},
		{path: "/slave/log", offset: 0, length: 5, want: Chunk{Data: []byte("hello"), Size: 11}},
		{path: "/slave/log/", offset: 0, length: 5, want: Chunk{Data: []byte("hello"), Size: 11}},
		{path: v + "in", offset: 0, length: -1, want: Chunk{Data: []byte("deep"), Size: 4}},
		{path: v + "sub/back", offset: 0, length: 5, want: Chunk{Data: []byte("hello"), Size: 11}},
		{path: v + "indir/deep/f", offset: 0, length: -1, want: Chunk{Data: []byte("deep"), Size: 4}},
		{path: v + "sub", err: ErrDirectory},
		{path: v, err: ErrDirectory},
		{path: v + "none", err: ErrNotFound},
		{path: v + "dangling", err: ErrNotFound},
		{path: v + "stdout/x", err: ErrNotFound},
		{path: "/slave/log/x", err: ErrNotFound},
		{path: "/slave", err: ErrNotFound},
		{path: "", err: ErrNotFound},
		{path: "nothing", err: ErrNotFound},
		{path: v + "a\x00b", err: ErrNotFound},
		{path: v + strings.Repeat("a", 300), err: ErrNotFound},
		{path: v + strings.Repeat("a/", 3000), err: ErrNotFound},
		{path: v + "up", err: ErrEscape},
		{path: v + "abs", err: ErrEscape},
		{path: v + "updir/secret", err: ErrEscape},
		{path: v + "../outside/secret", err: ErrEscape},
		{path: v + "sub/../../outside/secret", err: ErrEscape},
		{path: v + "loop", err: ErrEscape},
		{path: v + "fifo", err: ErrNotRegular},
		{path: "/private/secret", err: ErrForbidden},
		{path: box + "/stdout", err: ErrNotFound},
	} {
		got, err := f.Read("", c.path, c.offset, c.length)
		if !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%.80q: error %v, want %v", c.path, err, c.err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%.80q at %d+%d: %s", c.path, c.offset, c.length, d)
		}
	}
	if c, err := f.Read("ops", "/private/secret", 0, -1); err != nil || string(c.Data) != "secret" {
		t.Errorf("ops reads %q, %v", c.Data, err)
	}
	f.Detach("/slave/log/")
	if _, err := f.Read("", "/slave/log", 0, -1); !errors.Is(err, ErrNotFound) {
		t.Error("it is still attached")
	}
}

func TestReadIsCapped(t *testing.T) {
	t.Parallel()
	f, box := sandbox(t)
	if err := os.WriteFile(filepath.Join(box, "big"), make([]byte, 3*MaxRead), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := f.Read("", "/frameworks/F/box/big", 10, 2*MaxRead)
	if err != nil || len(c.Data) != MaxRead || c.Offset != 10 {
		t.Errorf("%d bytes at %d, %v", len(c.Data), c.Offset, err)
	}
}

func TestLongestAttachmentWins(t *testing.T) {
	t.Parallel()
	f, box := sandbox(t)
	f.Attach(filepath.Join(box, "sub"), "/frameworks/F/box/sub", func(string) bool { return false })
	if _, err := f.Read("", "/frameworks/F/box/sub/deep/f", 0, -1); !errors.Is(err, ErrForbidden) {
		t.Error(err)
	}
	if _, err := f.Read("", "/frameworks/F/box/stdout", 0, -1); err != nil {
		t.Error(err)
	}
	if _, ok := f.Attached("")["/frameworks/F/box/sub"]; ok {
		t.Error("a forbidden attachment is shown")
	}
}

// TestSwappedLink has a task exchange a file for a link to a secret while it is read: it is never read.
func TestSwappedLink(t *testing.T) {
	t.Parallel()
	f, box := sandbox(t)
	target := filepath.Join(box, "flip")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			tmp := filepath.Join(box, "tmp")
			if i%2 == 0 {
				_ = os.Symlink("../outside/secret", tmp)
			} else {
				_ = os.WriteFile(tmp, []byte("mine"), 0o600)
			}
			_ = os.Rename(tmp, target)
		}
	}()
	for range 3000 {
		c, err := f.Read("", "/frameworks/F/box/flip", 0, -1)
		if err == nil && strings.Contains(string(c.Data), "secret") {
			t.Error("the secret was read")
			break
		}
	}
	close(stop)
	<-done
}

func TestList(t *testing.T) {
	t.Parallel()
	f, _ := sandbox(t)
	infos, err := f.List("", "/frameworks/F/box")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, Mode(i.Mode)[:1]+strings.TrimPrefix(i.Path, "/frameworks/F/box/"))
	}
	want := []string{"labs", "ldangling", "pfifo", "-in", "dindir", "-log one", "lloop", "-stdout", "dsub", "lup", "lupdir"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if infos, err := f.List("", "/frameworks/F/box/sub/"); err != nil || len(infos) != 2 || infos[0].Size != 11 {
		t.Errorf("a link inside a directory is not followed to the attachment: %+v, %v", infos, err)
	}
	if infos, err := f.List("", "/slave/log"); err != nil || len(infos) != 0 {
		t.Errorf("listing of a file: %v, %v", infos, err)
	}
	for path, want := range map[string]error{
		"/frameworks/F/box/updir": ErrEscape, "/frameworks/F/box/..": ErrEscape, "/none": ErrNotFound, "/private": ErrForbidden,
	} {
		if _, err := f.List("", path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestMode(t *testing.T) {
	t.Parallel()
	for mode, want := range map[fs.FileMode]string{
		0o644: "-rw-r--r--", fs.ModeDir | 0o755: "drwxr-xr-x", fs.ModeSymlink | 0o777: "lrwxrwxrwx", fs.ModeSetuid | 0o755: "-rwsr-xr-x",
		fs.ModeSetgid | 0o644: "-rw-r-Sr--", fs.ModeDir | fs.ModeSticky | 0o777: "drwxrwxrwt",
		fs.ModeDevice | fs.ModeCharDevice | 0o600: "crw-------", fs.ModeDevice | 0o600: "brw-------", fs.ModeSocket: "s---------",
	} {
		if got := Mode(mode); got != want {
			t.Errorf("Mode(%v) = %s, want %s", mode, got, want)
		}
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	f, box := sandbox(t)
	if err := os.WriteFile(filepath.Join(box, "runes"), []byte(strings.Repeat("é", MaxRead)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f.Handler("/files"))
	defer server.Close()
	get := func(path string) (int, string, http.Header) {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		rec := httptest.NewRecorder()
		f.Handler("/files").ServeHTTP(rec, req)
		return rec.Code, rec.Body.String(), rec.Header()
	}
	const v = "/frameworks/F/box/"
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/files/read?path=" + v + "stdout&offset=6&length=5", 200, `{"data":"world","offset":6}`},
		{"/files/read/?path=" + v + "stdout", 200, `{"data":"","offset":11}`},
		{"/files/read?path=" + v + "stdout&offset=-1", 200, `{"data":"","offset":11}`},
		{"/files/read?path=" + v + "stdout&offset=0&jsonp=cb", 200, `cb({"data":"hello world","offset":0});`},
		{"/files/read?path=" + url.QueryEscape(v+"log one") + "&offset=0", 200, `{"data":"x","offset":0}`},
		{"/files/read?path=" + v + "stdout&offset=x", 400, "Failed to parse offset: 'x' is not a whole number.\n"},
		{"/files/read?path=" + v + "stdout&length=-2", 400, "Negative length provided: -2.\n"},
		{"/files/read", 400, "Expecting 'path=value' in query.\n"},
		{"/files/read?path=/frameworks/F/box", 400, "Cannot read a directory.\n"},
		{"/files/read?path=/none", 404, ""},
		{"/files/read?path=" + v + "up", 403, "Cannot read '" + v + "up': a link on the path leads outside of what may be seen.\n"},
		{"/files/browse?path=/none", 404, ""},
		{"/files/browse?path=/slave/log", 200, "[]"},
		{"/files/download?path=" + v + "sub", 400, "Cannot download a directory.\n"},
		{"/files/download?path=" + v + "stdout", 200, "hello world"},
		{"/files/debug", 200, fmt.Sprintf(`{"/frameworks/F/box":%q,"/slave/log":%q}`, box, box+"/stdout")},
		{"/files/browse.json?path=/x", 404, "Unknown endpoint: files has browse, read, download and debug"},
	} {
		code, body, _ := get(c.path)
		if code != c.code || body != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, body, c.code, c.body)
		}
	}

	_, body, _ := get("/files/browse?path=" + v)
	var listing []struct {
		Path, Mode, UID, GID string
		Nlink                int
		Size                 int64
		Mtime                float64
	}
	if err := json.Unmarshal([]byte(body), &listing); err != nil {
		t.Fatal(err)
	}
	for _, l := range listing {
		if l.Path == v+"stdout" && (l.Mode != "-rw-r--r--" || l.Size != 11 || l.Nlink != 1 || l.Mtime < 1e9 || l.UID == "" || l.GID == "") {
			t.Errorf("stdout is listed as %+v", l)
		}
	}

	_, _, h := get("/files/download?path=" + url.QueryEscape(v+"log one"))
	if h.Get("Content-Disposition") != `attachment; filename="log one"` || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Length") != "1" {
		t.Errorf("download headers: %v", h)
	}

	// A chunk that would cut a character in two ends before it, and going on from there gives the whole file.
	var all string
	for {
		_, body, _ := get(fmt.Sprintf("/files/read?path=%srunes&offset=%d&length=%d", v, len(all), 1001))
		var chunk struct{ Data string }
		if err := json.Unmarshal([]byte(body), &chunk); err != nil {
			t.Fatal(err)
		}
		if chunk.Data == "" {
			break
		}
		if !utf8.ValidString(chunk.Data) || strings.ContainsRune(chunk.Data, utf8.RuneError) {
			t.Fatalf("a character was cut at %d", len(all))
		}
		all += chunk.Data
	}
	if all != strings.Repeat("é", MaxRead) {
		t.Errorf("read %d bytes", len(all))
	}
}

// FuzzPath asks for files by any path: nothing outside of what is attached is ever read.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"/frameworks/F/box/stdout", "/frameworks/F/box/../outside/secret", "/frameworks/F/box/updir/secret", "/frameworks/F/box/sub/back", "/slave/log", "//slave//log/", "/private/secret", "/frameworks/F/box/\x00", "."} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		f, _ := sandbox(t)
		if c, err := f.Read("", path, 0, -1); err == nil && strings.Contains(string(c.Data), "secret") {
			t.Fatalf("%q reads %q", path, c.Data)
		}
		_, _ = f.List("", path)
	})
}
