package fetcher

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

func ptr[T any](v T) *T { return &v }

func newFetcher(t testing.TB, change func(*Config)) *Fetcher {
	t.Helper()
	cfg := Config{CacheDir: filepath.Join(t.TempDir(), "cache"), FrameworksHome: t.TempDir()}
	if change != nil {
		change(&cfg)
	}
	f, err := New(cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fetch fetches URIs into a new sandbox and gives it.
func fetch(t testing.TB, f *Fetcher, uris ...*mesosv1.CommandInfo_URI) (string, error) {
	t.Helper()
	dir := t.TempDir()
	return dir, f.Fetch(t.Context(), Request{Directory: dir, UID: -1, GID: -1, URIs: uris})
}

func uri(v string) *mesosv1.CommandInfo_URI { return &mesosv1.CommandInfo_URI{Value: &v} }

type item struct {
	name, body, link string
	kind             byte
	mode             int64
}

func tarOf(t testing.TB, es ...item) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range es {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.body)), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zipOf(t testing.TB, names map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for n, body := range names {
		f, err := w.Create(n)
		if err == nil {
			_, err = io.WriteString(f, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func serve(t testing.TB, files map[string][]byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(b)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/"
}

func TestSources(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, nil)
	local := filepath.Join(t.TempDir(), "local.txt")
	for path, body := range map[string]string{local: "local", filepath.Join(f.cfg.FrameworksHome, "rel.txt"): "relative"} {
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	base := serve(t, map[string][]byte{"a/web.txt": []byte("web"), "tool": []byte("#!/bin/sh")})
	exe := uri(base + "tool")
	exe.Executable = ptr(true)
	named := uri(base + "a/web.txt?x=1")
	named.OutputFile = ptr("sub/dir/other.txt")
	dir, err := fetch(t, f, uri(local), uri("file://"+local+""), uri("rel.txt"), uri(base+"a/web.txt"), named, exe)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"local.txt": "local", "rel.txt": "relative", "web.txt": "web", "sub/dir/other.txt": "web", "tool": "#!/bin/sh"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "tool")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("executable: %v %v", fi.Mode(), err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "stderr")); !strings.Contains(string(b), "Fetched '"+base+"tool' to 'tool'") {
		t.Errorf("stderr %q", b)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, func(c *Config) { c.MaxBytes, c.StallTimeout = 1000, 100*time.Millisecond })
	base := serve(t, map[string][]byte{"big": make([]byte, 2000), "f": []byte("f")})
	hang := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("some"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer hang.Close()
	jump := httptest.NewServer(http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	defer jump.Close()
	out := uri(base + "f")
	out.OutputFile = ptr("../f")
	abs := uri(base + "f")
	abs.OutputFile = ptr("/tmp/f")
	for name, c := range map[string]struct {
		u    *mesosv1.CommandInfo_URI
		want string
	}{
		"missing":    {uri(base + "nothing"), "404"},
		"no name":    {uri(base), "no file name"},
		"scheme":     {uri("hdfs://x/y"), `scheme "hdfs" is not supported`},
		"empty":      {uri(" "), "empty or malformed"},
		"outside":    {out, "leads out of the sandbox"},
		"absolute":   {abs, "must be relative"},
		"dots":       {uri("../../etc/passwd"), "leads out"},
		"too large":  {uri(base + "big"), "larger than the agent allows"},
		"directory":  {uri("/etc"), "not a regular file"},
		"stall":      {uri(hang.URL + "/x"), "nothing arrived for"},
		"redirect":   {uri(jump.URL + "/x"), "redirect to scheme"},
		"link-local": {uri("http://169.254.169.254/latest/meta-data/iam"), "link-local"},
		"device":     {uri("/dev/zero"), "not a regular file"},
	} {
		dir, err := fetch(t, f, c.u)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
			continue
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "stderr")); !strings.Contains(string(b), "failed to fetch") {
			t.Errorf("%s: the sandbox's stderr holds %q", name, b)
		}
		es, _ := os.ReadDir(dir)
		if len(es) != 1 {
			t.Errorf("%s: left in the sandbox: %v", name, es)
		}
	}
}

func TestArchives(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, nil)
	content := tarOf(t, item{name: "top/", kind: tar.TypeDir, mode: 0o755}, item{name: "top/f", body: "inside", mode: 0o4755},
		item{name: "top/link", kind: tar.TypeSymlink, link: "f"}, item{name: "top/hard", kind: tar.TypeLink, link: "top/f"},
		item{name: "/abs", body: "absolute"}, item{name: "no/dir/entry", body: "made"})
	files := map[string][]byte{
		"a.tar": content, "a.tgz": gz(t, content), "a.tar.gz": gz(t, content), "single.gz": gz(t, []byte("single")),
		"a.zip": zipOf(t, map[string]string{"z/f": "zipped"}),
	}
	for ext, tool := range map[string]string{"a.tar.xz": "xz", "a.tbz2": "bzip2"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Errorf("%s is not installed", tool)
			}
			t.Logf("%s is not installed: %s is not tried", tool, ext)
			continue
		}
		cmd := exec.Command(tool, "-c")
		cmd.Stdin = bytes.NewReader(content)
		b, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		files[ext] = b
	}
	base := serve(t, files)
	for name := range files {
		for _, cached := range []bool{false, true} {
			u := uri(base + name)
			u.Cache = &cached
			dir, err := fetch(t, f, u)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			want := map[string]string{"top/f": "inside", "top/link": "inside", "top/hard": "inside", "abs": "absolute", "no/dir/entry": "made"}
			switch name {
			case "a.zip":
				want = map[string]string{"z/f": "zipped"}
			case "single.gz":
				want = map[string]string{"single": "single"}
			}
			for p, body := range want {
				if b, err := os.ReadFile(filepath.Join(dir, p)); err != nil || string(b) != body {
					t.Errorf("%s: %s: %q %v", name, p, b, err)
				}
			}
			if fi, err := os.Stat(filepath.Join(dir, "top/f")); err == nil && fi.Mode()&os.ModeSetuid != 0 {
				t.Errorf("%s: setuid came out of an archive", name)
			}
		}
	}
	plain := uri(base + "a.tar")
	plain.Extract = ptr(false)
	dir, err := fetch(t, f, plain)
	if _, serr := os.Stat(filepath.Join(dir, "top")); err != nil || serr == nil {
		t.Errorf("extract=false: %v; unpacked: %v", err, serr == nil)
	}
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	f := newFetcher(t, func(c *Config) { c.MaxEntries = 50 })
	f.ratioFloor = 1 << 20
	var many []item
	for i := range 60 {
		many = append(many, item{name: fmt.Sprint("f", i)})
	}
	files := map[string][]byte{
		"dots.tar":    tarOf(t, item{name: "../evil", body: "x"}),
		"deep.tar":    tarOf(t, item{name: "a/../../evil", body: "x"}),
		"link.tar":    tarOf(t, item{name: "l", kind: tar.TypeSymlink, link: outside}, item{name: "l/evil", body: "x"}),
		"uplink.tar":  tarOf(t, item{name: "l", kind: tar.TypeSymlink, link: "../../../../../../../.." + outside}, item{name: "l/evil", body: "x"}),
		"hard.tar":    tarOf(t, item{name: "h", kind: tar.TypeLink, link: "../../etc/passwd"}),
		"hard2.tar":   tarOf(t, item{name: "l", kind: tar.TypeSymlink, link: outside}, item{name: "h", kind: tar.TypeLink, link: "l/secret"}),
		"device.tar":  tarOf(t, item{name: "d", kind: tar.TypeChar}),
		"fifo.tar":    tarOf(t, item{name: "d", kind: tar.TypeFifo}),
		"many.tar":    tarOf(t, many...),
		"bomb.gz":     gz(t, make([]byte, 20<<20)),
		"cut.tgz":     gz(t, tarOf(t, item{name: "f", body: strings.Repeat("x", 5000)}))[:40],
		"noise.zip":   []byte("this is no zip"),
		"slip.zip":    zipOf(t, map[string]string{"../evil": "x"}),
		"garbage.tar": bytes.Repeat([]byte{0xff}, 2048),
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := serve(t, files)
	for name := range files {
		if dir, err := fetch(t, f, uri(base+name)); err == nil {
			es, _ := os.ReadDir(dir)
			t.Errorf("%s was unpacked: %v", name, es)
		}
	}
	es, _ := os.ReadDir(outside)
	if len(es) != 1 {
		t.Errorf("written outside the sandbox: %v", es)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-release
		_, _ = w.Write(make([]byte, 400))
	}))
	defer s.Close()
	f := newFetcher(t, func(c *Config) { c.CacheBytes = 1000 })
	cached := func(name string) *mesosv1.CommandInfo_URI {
		u := uri(s.URL + "/" + name)
		u.Cache = ptr(true)
		return u
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if dir, err := fetch(t, f, cached("one")); err != nil {
				t.Error(err)
			} else if fi, err := os.Stat(filepath.Join(dir, "one")); err != nil || fi.Size() != 400 {
				t.Errorf("%v %v", fi, err)
			}
		})
	}
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("%d downloads for ten at once", n)
	}
	get := func(name string, want int32) {
		t.Helper()
		asked.Store(0)
		if _, err := fetch(t, f, cached(name)); err != nil {
			t.Fatal(err)
		}
		if n := asked.Load(); n != want {
			t.Errorf("%s: %d downloads, want %d", name, n, want)
		}
	}
	get("one", 0)
	get("two", 1)
	get("one", 0)
	get("three", 1) // two was longest unused and goes
	get("one", 0)
	get("two", 1)
	es, _ := os.ReadDir(f.cfg.CacheDir)
	if len(es) != 2 {
		t.Errorf("%d files in a cache for two", len(es))
	}
	// One who gives up does not take it from the others, and leaves nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Fetch(ctx, Request{Directory: t.TempDir(), UID: -1, GID: -1, URIs: []*mesosv1.CommandInfo_URI{cached("four")}}); err == nil {
		t.Error("a fetch that was given up succeeded")
	}
}

func TestTooLargeForTheCacheGoesAround(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, func(c *Config) { c.CacheBytes = 100 })
	base := serve(t, map[string][]byte{"big": make([]byte, 500)})
	u := uri(base + "big")
	u.Cache = ptr(true)
	dir, err := fetch(t, f, u)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "big")); err != nil || fi.Size() != 500 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestTheUsersRights(t *testing.T) {
	t.Parallel()
	realpart.Root(t) // to fetch for another user
	f := newFetcher(t, nil)
	src := t.TempDir()
	for p := src; len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755)
	}
	for name, mode := range map[string]os.FileMode{"public": 0o644, "private": 0o600} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	r := Request{Directory: t.TempDir(), User: "nobody", UID: 65534, GID: 65534, URIs: []*mesosv1.CommandInfo_URI{uri(filepath.Join(src, "public"))}}
	if err := f.Fetch(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(r.Directory, "public")); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("owner of what was fetched: %v %v", fi, err)
	}
	r.URIs = []*mesosv1.CommandInfo_URI{uri(filepath.Join(src, "private"))}
	if err := f.Fetch(t.Context(), r); err == nil {
		t.Error("a file that only root may read was fetched for nobody")
	}
}

func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, item{name: "a/b", body: "x"}, item{name: "l", kind: tar.TypeSymlink, link: ".."}, item{name: "l/../../e", body: "y"}))
	f.Add(tarOf(f, item{name: "h", kind: tar.TypeLink, link: "../x"}))
	ft := newFetcher(f, func(c *Config) { c.MaxEntries, c.MaxBytes = 100, 1<<20 })
	f.Fuzz(func(t *testing.T, in []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "sandbox")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := &unpacker{ctx: t.Context(), f: ft, root: root, req: &Request{UID: -1, GID: -1}, in: int64(len(in))}
		_ = u.tar(bytes.NewReader(in))
		if es, _ := os.ReadDir(outer); len(es) != 1 {
			t.Fatalf("written outside: %v", es)
		}
	})
}

func FuzzZip(f *testing.F) {
	add := func(names ...string) {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		for _, n := range names {
			e, err := w.Create(n)
			if err != nil {
				f.Fatal(err)
			}
			_, _ = e.Write([]byte("x"))
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	add("a/b", "../../e", "/abs", "a/b")
	add("dir/", "dir/x")
	ft := newFetcher(f, func(c *Config) { c.MaxEntries, c.MaxBytes = 100, 1<<20 })
	f.Fuzz(func(t *testing.T, in []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "sandbox")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		path := filepath.Join(t.TempDir(), "in.zip")
		if err := os.WriteFile(path, in, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		u := &unpacker{ctx: t.Context(), f: ft, root: root, req: &Request{UID: -1, GID: -1}, in: int64(len(in))}
		_ = u.zip(file, int64(len(in)))
		if es, _ := os.ReadDir(outer); len(es) != 1 {
			t.Fatalf("written outside: %v", es)
		}
	})
}
