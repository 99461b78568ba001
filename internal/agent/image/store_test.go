package image

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	. "github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

func open(t testing.TB, cfg Config, change ...func(*Deps)) *Store {
	t.Helper()
	realpart.Root(t)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	var d Deps
	for _, f := range change {
		f(&d)
	}
	s, err := Open(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t testing.TB, s *Store, image string) *Image {
	t.Helper()
	img, err := s.Get(t.Context(), image, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(img.Release)
	return img
}

// noRest fails when the store holds anything but what its records say.
func noRest(t testing.TB, s *Store, layers int) {
	t.Helper()
	for dir, want := range map[string]int{stagingDir: 0, layersDir: layers} {
		es, err := os.ReadDir(s.path(dir))
		if err != nil || len(es) != want {
			t.Errorf("%s: %d entries, want %d (%v)", dir, len(es), want, err)
		}
	}
}

func one(t testing.TB, c compression.Compression, files ...File) v1.Layer {
	return Layer(t, Tar(t, files...), c)
}

// TestGet: settings, order of layers, compressions, names by tag, digest and without a host, one layer shared by two.
func TestGet(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	base := one(t, compression.GZip, File{Name: "base", Body: "b"})
	cfg := v1.Config{Env: []string{"A=1"}, Entrypoint: []string{"/e"}, Cmd: []string{"c"}, WorkingDir: "/w", User: "u:g"}
	first := Build(t, cfg, base, one(t, compression.ZStd, File{Name: "top", Body: "zstd"}))
	name := r.Push(t, "lib/one:v1", first)
	other := r.Push(t, "lib/two:latest", Build(t, v1.Config{}, base, one(t, compression.None, File{Name: "plain", Body: "p"})))

	s := open(t, Config{Registry: "http://" + r.Host})
	img := get(t, s, name)
	if got := fmt.Sprintf("%+v", img.Settings); got != "{Env:[A=1] Entrypoint:[/e] Cmd:[c] WorkingDir:/w User:u:g}" {
		t.Errorf("settings %s", got)
	}
	if len(img.Layers) != 2 || read(t, img.Layers[0], "top") != "zstd" || read(t, img.Layers[1], "base") != "b" {
		t.Errorf("layers %v", img.Layers)
	}
	want, _ := first.Digest()
	if img.Digest != want.String() {
		t.Errorf("digest %s, want %s", img.Digest, want)
	}
	before := r.Blobs()
	two := get(t, s, "lib/two")
	if two.Name != other || two.Layers[1] != img.Layers[1] || read(t, two.Layers[0], "plain") != "p" {
		t.Errorf("two: %+v", two)
	}
	if n := r.Blobs() - before; n != 2 { // its configuration and its own layer
		t.Errorf("%d blobs fetched for a second image, want 2", n)
	}
	before = r.Blobs()
	if by := get(t, s, r.Host+"/lib/one@"+want.String()); by.Digest != img.Digest {
		t.Errorf("by digest: %+v", by)
	}
	get(t, s, name)
	if n := r.Blobs() - before; n != 1 { // the configuration, for the digest's own name
		t.Errorf("%d blobs fetched for what is there, want 1", n)
	}
	noRest(t, s, 3)

	// A new process finds all of it.
	s = open(t, Config{Dir: s.cfg.Dir, Registry: "http://" + r.Host})
	before = r.Blobs()
	if again := get(t, s, name); read(t, again.Layers[0], "top") != "zstd" || r.Blobs() != before {
		t.Errorf("after a restart: %+v, %d blobs", again, r.Blobs()-before)
	}

	// A tag that has moved is followed only when asked.
	r.Push(t, "lib/one:v1", Build(t, v1.Config{}, base))
	if same := get(t, s, name); same.Digest != img.Digest {
		t.Error("the cached image was not taken")
	}
	moved, err := s.Get(t.Context(), name, nil, true)
	if err != nil || moved.Digest == img.Digest || len(moved.Layers) != 1 {
		t.Fatalf("forced: %+v %v", moved, err)
	}
	moved.Release()
}

func read(t testing.TB, p ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPlatform(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	ours := Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "ours"}))
	theirs := Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "theirs"}))
	cf, _ := theirs.ConfigFile()
	cf = cf.DeepCopy()
	cf.Architecture = "s390x"
	theirs, _ = mutate.ConfigFile(theirs, cf)
	cf, _ = ours.ConfigFile()
	add := func(i v1.Image, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: i, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	both := r.PushIndex(t, "multi:1", mutate.AppendManifests(empty.Index, add(theirs, "s390x"), add(ours, cf.Architecture)))
	foreign := r.PushIndex(t, "foreign:1", mutate.AppendManifests(empty.Index, add(theirs, "s390x")))
	single := r.Push(t, "single:1", theirs)
	s := open(t, Config{})
	if img := get(t, s, both); read(t, img.Layers[0], "ours") != "" {
		t.Error("the wrong image")
	}
	for _, n := range []string{foreign, single} {
		if _, err := s.Get(t.Context(), n, nil, false); err == nil {
			t.Errorf("%s: an image for another processor was taken", n)
		}
	}
	noRest(t, s, 1)
}

// TestUnpack looks at every kind of entry.
func TestUnpack(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=p
	n := r.Push(t, "x", Build(t, v1.Config{}, one(t, compression.GZip,
		File{Name: "./", Mode: 0o751},
		File{Name: "d/", Mode: 0o2770, UID: 1234, GID: 4321},
		File{Name: "d/f", Body: "text", Mode: 0o4755, UID: 7, GID: 8, Xattrs: map[string]string{
			"user.note": "hello", "security.capability": capability, "trusted.overlay.redirect": "/etc", "trusted.overlay.opaque": "y",
		}},
		File{Name: "hard", Hard: "d/f"},
		File{Name: "abs", Link: "/etc/passwd"},
		File{Name: "up", Link: "../../../../etc/passwd"},
		File{Name: "usr/lib/deep/made", Body: "m"},
		File{Name: "lib", Link: "/usr/lib"},
		File{Name: "lib/through", Body: "below our own usr/lib"},
		File{Name: "gone/.wh.file"},
		File{Name: "cover/.wh..wh..opq"},
		File{Name: "cover/new", Body: "n"},
		File{Name: "swap", Body: "file first"},
		File{Name: ".wh.swap"},
		File{Name: ".wh.again"},
		File{Name: "again/"},
		File{Name: "twice", Body: "1"}, File{Name: "twice", Body: "2"},
		File{Header: &tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o620, ModTime: time.Unix(5, 0)}},
		File{Header: &tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
		File{Header: &tar.Header{Name: "fake-whiteout", Typeflag: tar.TypeChar, Mode: 0o666}},
	)))
	s := open(t, Config{})
	root := get(t, s, n).Layers[0]
	stat := func(p string) *unix.Stat_t {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, p), &st); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		return &st
	}
	for p, want := range map[string]string{
		".": "40751 0 0", "d": "42770 1234 4321", "d/f": "104755 7 8", "pipe": "10620 0 0", "abs": "120777 0 0", "usr": "40755 0 0",
	} {
		st := stat(p)
		if got := fmt.Sprintf("%o %d %d", st.Mode, st.Uid, st.Gid); got != want {
			t.Errorf("%s: mode and owner %s, want %s", p, got, want)
		}
	}
	if a, b := stat("d/f"), stat("hard"); a.Ino != b.Ino || a.Mtim.Sec != 1_700_000_000 {
		t.Errorf("hard link: %d %d, time %d", a.Ino, b.Ino, a.Mtim.Sec)
	}
	if st := stat("d"); st.Mtim.Sec != 1_700_000_000 {
		t.Errorf("directory's time %d", st.Mtim.Sec)
	}
	for _, p := range []string{"gone/file"} {
		if st := stat(p); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("%s is no whiteout: %o %d", p, st.Mode, st.Rdev)
		}
	}
	attr := func(p, a string) string {
		b := make([]byte, 100)
		n, err := unix.Getxattr(filepath.Join(root, p), a, b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	none := unix.ENODATA.Error()
	for _, c := range [][3]string{
		{"d/f", "user.note", "hello"},
		{"d/f", "security.capability", capability},
		{"d/f", "trusted.overlay.redirect", none},
		{"d/f", "trusted.overlay.opaque", none},
		{"cover", "trusted.overlay.opaque", "y"},
		{"again", "trusted.overlay.opaque", "y"},
		{"d", "trusted.overlay.opaque", none},
	} {
		if got := attr(c[0], c[1]); got != c[2] {
			t.Errorf("%s %s = %q, want %q", c[0], c[1], got, c[2])
		}
	}
	if read(t, root, "usr/lib/through") != "below our own usr/lib" || read(t, root, "twice") != "2" || read(t, root, "swap") != "file first" {
		t.Error("contents")
	}
	for _, p := range []string{"null", "fake-whiteout"} {
		if _, err := os.Lstat(filepath.Join(root, p)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a device node was made: %s %v", p, err)
		}
	}
}

// TestBadLayers: each is refused with its reason, nothing is left, nothing outside is touched, and the next image comes.
func TestBadLayers(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	s := open(t, Config{MaxLayerBytes: 1 << 20, Stall: 200 * time.Millisecond})
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	raw := func(b []byte) v1.Layer { return Layer(t, b, compression.GZip) }
	good := Tar(t, File{Name: "f", Body: strings.Repeat("x", 5000)})
	for what, c := range map[string]struct {
		layer v1.Layer
		says  string
	}{
		"dotdot":         {one(t, compression.GZip, File{Name: "../../etc/evil", Body: "x"}), "'..' in a path"},
		"dotdot inside":  {one(t, compression.GZip, File{Name: "a/../../b", Body: "x"}), "'..' in a path"},
		"hard link out":  {one(t, compression.GZip, File{Name: "h", Hard: "../../../../../../" + outside}), "'..' in a path"},
		"hard link dir":  {one(t, compression.GZip, File{Name: "d/"}, File{Name: "h", Hard: "d"}), "no file"},
		"hard link none": {one(t, compression.GZip, File{Name: "h", Hard: outside}), "no such file"},
		"over a dir":     {one(t, compression.GZip, File{Name: "d/f"}, File{Name: "d", Body: "x"}), "place of a directory"},
		"too deep":       {one(t, compression.GZip, File{Name: strings.Repeat("d/", 200) + "f"}), "deeper than"},
		"too big":        {one(t, compression.GZip, File{Name: "f", Body: strings.Repeat("x", 1<<20+1)}), "more than 1048576 bytes"},
		"too big in sum": {one(t, compression.GZip, File{Name: "f", Body: strings.Repeat("x", 1<<19)}, File{Name: "g", Body: strings.Repeat("x", 1<<19+1)}), "more than 1048576 bytes"},
		"no tar":         {raw([]byte(strings.Repeat("no tar at all", 200))), "not a tar archive"},
		"cut tar":        {raw(good[:2000]), "truncated"},
		"whiteout of ..": {one(t, compression.GZip, File{Name: "a/.wh..."}), "whiteout of nothing"},
		"root is a file": {one(t, compression.GZip, File{Header: &tar.Header{Name: ".", Typeflag: tar.TypeReg, Mode: 0o644}}), "root must be a directory"},
	} {
		n := r.Push(t, "bad:"+strings.ReplaceAll(strings.ReplaceAll(what, " ", "-"), "..", "dd"), Build(t, v1.Config{}, c.layer))
		_, err := s.Get(t.Context(), n, nil, false)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
	if got := read(t, outside); got != "untouched" {
		t.Errorf("a file outside: %q", got)
	}
	noRest(t, s, 0)
	get(t, s, r.Push(t, "good", Build(t, v1.Config{}, raw(good))))
	noRest(t, s, 1)
}

// TestBomb: what becomes far bigger than it came is refused long before the limit on bytes.
func TestBomb(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		size := int64(320 << 20)
		_ = w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size, Mode: 0o644})
		zero := make([]byte, 1<<20)
		for range size >> 20 {
			_, _ = w.Write(zero)
		}
		_ = w.Close()
		pw.Close()
	}()
	b, err := compress(pr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(b))), nil }, tarball.WithCompression(compression.ZStd))
	if err != nil {
		t.Fatal(err)
	}
	n := r.Push(t, "bomb", Build(t, v1.Config{}, l))
	s := open(t, Config{})
	if _, err := s.Get(t.Context(), n, nil, false); err == nil || !strings.Contains(err.Error(), "compression bomb") {
		t.Errorf("a bomb: %v", err)
	}
	noRest(t, s, 0)
}

// TestRegistryFaults: what a registry can do wrong.
func TestRegistryFaults(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	n := r.Push(t, "app:1", Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "f", Body: strings.Repeat("some text ", 100_000)})))
	s := open(t, Config{Stall: 300 * time.Millisecond})
	isLayer := func(req *http.Request) bool {
		return strings.Contains(req.URL.Path, "/blobs/sha256:") && req.Method == http.MethodGet
	}
	stalled := make(chan struct{})
	for _, c := range []struct {
		what, says string
		f          func(http.ResponseWriter, *http.Request, http.Handler)
	}{
		{"401", "denies access (401)", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(401) }},
		{"403", "denies access (403)", func(w http.ResponseWriter, req *http.Request, h http.Handler) {
			if strings.Contains(req.URL.Path, "/manifests/") {
				w.WriteHeader(403)
				return
			}
			h.ServeHTTP(w, req)
		}},
		{"500", "500", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(500) }},
		{"429", "limits how much", func(w http.ResponseWriter, req *http.Request, h http.Handler) {
			if strings.Contains(req.URL.Path, "/manifests/") {
				w.WriteHeader(429)
				return
			}
			h.ServeHTTP(w, req)
		}},
		{"cut off", "EOF", func(w http.ResponseWriter, req *http.Request, h http.Handler) {
			if !isLayer(req) {
				h.ServeHTTP(w, req)
				return
			}
			rec := &recorder{header: http.Header{}}
			h.ServeHTTP(rec, req)
			w.Header().Set("Content-Length", fmt.Sprint(len(rec.body)))
			_, _ = w.Write(rec.body[:len(rec.body)/2])
			panic(http.ErrAbortHandler)
		}},
		{"other content", "verifying sha256", func(w http.ResponseWriter, req *http.Request, h http.Handler) {
			if !isLayer(req) {
				h.ServeHTTP(w, req)
				return
			}
			rec := &recorder{header: http.Header{}}
			h.ServeHTTP(rec, req)
			b, err := compress(strings.NewReader(string(Tar(t, File{Name: "evil"}))))
			if err != nil {
				return
			}
			// As long as the right one: a frame of zstd that decoders skip fills it up.
			b = append(b, 0x50, 0x2a, 0x4d, 0x18)
			b = binary.LittleEndian.AppendUint32(b, uint32(len(rec.body)-len(b)-4))
			_, _ = w.Write(append(b, make([]byte, len(rec.body)-len(b))...))
		}},
		{"stalls", "has not moved", func(w http.ResponseWriter, req *http.Request, h http.Handler) {
			if !isLayer(req) {
				h.ServeHTTP(w, req)
				return
			}
			rec := &recorder{header: http.Header{}}
			h.ServeHTTP(rec, req)
			w.Header().Set("Content-Length", fmt.Sprint(len(rec.body)))
			_, _ = w.Write(rec.body[:100])
			w.(http.Flusher).Flush()
			select {
			case <-req.Context().Done():
			case <-stalled:
			}
		}},
	} {
		r.Wrap.Store(&c.f)
		_, err := s.Get(t.Context(), n, nil, false)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.what, err, c.says)
		}
		noRest(t, s, 0)
	}
	close(stalled)
	r.Wrap.Store(nil)
	if _, err := s.Get(t.Context(), r.Host+"/app:none", nil, false); !errors.Is(err, errNoImage) {
		t.Errorf("no such tag: %v", err)
	}
	for _, bad := range []string{"", "UPPER/case", "a b", r.Host + "/x@sha256:short"} {
		if _, err := s.Get(t.Context(), bad, nil, false); err == nil {
			t.Errorf("name %q was taken", bad)
		}
	}
	get(t, s, n)
}

// recorder keeps what a handler writes.
type recorder struct {
	header http.Header
	body   []byte
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(int)             {}
func (r *recorder) Write(b []byte) (int, error) { r.body = append(r.body, b...); return len(b), nil }

// TestCredentials: a registry that wants a password gets the agent's, or the image's own.
func TestCredentials(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	n := r.Push(t, "private:1", Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "f"})))
	f := func(w http.ResponseWriter, req *http.Request, h http.Handler) {
		if u, p, ok := req.BasicAuth(); !ok || u != "ann" || p != "se:cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(401)
			return
		}
		h.ServeHTTP(w, req)
	}
	r.Wrap.Store(&f)
	file := func(password string) []byte {
		return fmt.Appendf(nil, `{"auths":{"http://%s/v2/":{"auth":%q}},"credsStore":"evil"}`, r.Host, base64.StdEncoding.EncodeToString([]byte("ann:"+password)))
	}
	if _, err := open(t, Config{}).Get(t.Context(), n, nil, false); err == nil || !strings.Contains(err.Error(), "denies access") {
		t.Errorf("no password: %v", err)
	}
	if _, err := open(t, Config{DockerConfig: file("wrong")}).Get(t.Context(), n, nil, false); err == nil || strings.Contains(err.Error(), "wrong\"") {
		t.Errorf("wrong password: %v", err)
	}
	get(t, open(t, Config{DockerConfig: file("se:cret")}), n)
	s := open(t, Config{})
	img, err := s.Get(t.Context(), n, file("se:cret"), false)
	if err != nil {
		t.Fatal(err)
	}
	img.Release()
	for _, bad := range []string{"{", `{"auths":{"x":{"auth":"%%%"}}}`, `{"auths":{"x":{"auth":"bm9jb2xvbg=="}}}`} {
		if _, err := s.Get(t.Context(), n, []byte(bad), true); err == nil {
			t.Errorf("docker config %s was taken", bad)
		}
	}
}

// TestJoin: many who want the same fetch it once; one who gives up does not take the others along.
func TestJoin(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	shared := one(t, compression.GZip, File{Name: "f", Body: "shared"})
	var names []string
	for i := range 3 {
		names = append(names, r.Push(t, fmt.Sprintf("j%d", i), Build(t, v1.Config{Cmd: []string{fmt.Sprint(i)}}, shared)))
	}
	s := open(t, Config{})
	gate, reached := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hash, _ := shared.Digest()
	f := func(w http.ResponseWriter, req *http.Request, h http.Handler) {
		if strings.HasSuffix(req.URL.Path, hash.String()) {
			once.Do(func() { close(reached) })
			<-gate
		}
		h.ServeHTTP(w, req)
	}
	r.Wrap.Store(&f)
	before := r.Blobs()
	early, giveUp := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		_, err := s.Get(early, names[0], nil, false)
		gaveUp <- err
	}()
	<-reached
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			img, err := s.Get(t.Context(), names[i%3], nil, false)
			if err != nil {
				t.Error(err)
				return
			}
			defer img.Release()
			if read(t, img.Layers[0], "f") != "shared" {
				t.Error("content")
			}
		})
	}
	for {
		s.images.mu.Lock()
		n := 0
		for _, f := range s.images.now {
			n += f.waiting
		}
		s.images.mu.Unlock()
		if n == 13 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	giveUp()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("gave up: %v", err)
	}
	close(gate)
	wg.Wait()
	if n := r.Blobs() - before; n != 4 { // three configurations, one layer
		t.Errorf("%d blobs fetched, want 4", n)
	}
	noRest(t, s, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) != 0 {
		t.Errorf("still held: %v", s.held)
	}
}

// TestGiveUp: the last one who gives up ends the transfer and leaves nothing.
func TestGiveUp(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	n := r.Push(t, "slow", Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "f"})))
	s := open(t, Config{})
	reached := make(chan struct{})
	var once sync.Once
	f := func(_ http.ResponseWriter, req *http.Request, _ http.Handler) {
		once.Do(func() { close(reached) })
		<-req.Context().Done()
	}
	r.Wrap.Store(&f)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := s.Get(ctx, n, nil, false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	noRest(t, s, 0)
	r.Wrap.Store(nil)
	get(t, s, n)
}

// TestDiskFull: on a small disk a pull ends with the reason, gives back its room, and a smaller one follows.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	r := Serve(t)
	s := open(t, Config{Dir: filepath.Join(dir, "store")})
	big := r.Push(t, "big", Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "f", Body: strings.Repeat("x", 4<<20)})))
	small := r.Push(t, "small", Build(t, v1.Config{}, one(t, compression.GZip, File{Name: "f", Body: strings.Repeat("x", 1<<20)})))
	_, err := s.Get(t.Context(), big, nil, false)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "PRUNE_IMAGES") {
		t.Errorf("disk full: %v", err)
	}
	noRest(t, s, 0)
	img, err := s.Get(t.Context(), small, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	img.Release()
}

// TestCrash: what a crash can leave is cleaned up, and what is damaged is fetched again.
func TestCrash(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	l1, l2 := one(t, compression.GZip, File{Name: "1"}), one(t, compression.GZip, File{Name: "2"})
	a, b := r.Push(t, "a", Build(t, v1.Config{}, l1, l2)), r.Push(t, "b", Build(t, v1.Config{}, l1))
	s := open(t, Config{})
	img := get(t, s, a)
	get(t, s, b)
	for p, content := range map[string]string{
		filepath.Join(stagingDir, "layer-1", treeDir, "half"): "x", // killed while unpacking
		filepath.Join(imagesDir, ".new-1"):                    "{", // killed while writing a record
		filepath.Join(layersDir, "77", "junk"):                "x", // not ours to make, but it must not stop us
	} {
		if err := os.MkdirAll(filepath.Dir(s.path(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.path(p), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(img.Layers[0])); err != nil { // the upper layer of a
		t.Fatal(err)
	}
	s = open(t, Config{Dir: s.cfg.Dir})
	if got := s.Images(); len(got) != 1 || got[0] != b {
		t.Errorf("images %v", got)
	}
	before := r.Blobs()
	again := get(t, s, a)
	if len(again.Layers) != 2 || r.Blobs()-before != 2 {
		t.Errorf("%+v after %d blobs", again, r.Blobs()-before)
	}
	noRest(t, s, 2)
}

// TestCollect: what is held or excluded stays; the rest goes by age, under pressure the longest unused first, and by order.
func TestCollect(t *testing.T) {
	t.Parallel()
	r := Serve(t)
	now := time.Now()
	used := 0.5
	base := one(t, compression.GZip, File{Name: "base"})
	var names []string
	for i := range 4 {
		names = append(names, r.Push(t, fmt.Sprintf("c%d:1", i), Build(t, v1.Config{}, base, one(t, compression.GZip, File{Name: fmt.Sprint(i)}))))
	}
	var s *Store
	deps := func(d *Deps) {
		d.Now = func() time.Time { return now }
		d.Usage = func(string) (float64, error) { return used - 0.1*float64(4-len(s.byName)), nil }
	}
	cfg := Config{Collect: Policy{Headroom: 0.1, MaxUnused: time.Hour, Excluded: []string{names[3]}}}
	s = open(t, cfg, deps)
	var imgs []*Image
	for _, n := range names {
		img, err := s.Get(t.Context(), n, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		imgs = append(imgs, img)
	}
	collect := func(what string, want ...string) {
		t.Helper()
		p, err := s.Collect(t.Context())
		if err != nil || fmt.Sprint(p.Images) != fmt.Sprint(want) {
			t.Errorf("%s: deleted %v (%v), want %v", what, p.Images, err, want)
		}
	}
	now = now.Add(2 * time.Hour)
	collect("all held")
	used = 0.99
	collect("held on a full disk")
	used = 0.5
	imgs[1].Release()
	collect("just released")
	now = now.Add(10 * time.Minute)
	imgs[0].Release()
	imgs[3].Release()
	used = 0.95
	collect("full disk: the longest unused, then enough is free", names[1])
	now = now.Add(61 * time.Minute)
	used = 0.5
	collect("old", names[0])
	if read(t, imgs[2].Layers[0], "2") != "" || read(t, imgs[2].Layers[1], "base") != "" {
		t.Error("a held layer is gone")
	}
	noRest(t, s, 3)
	p, err := s.Prune(t.Context(), []string{names[3]})
	if err != nil || len(p.Images) != 0 {
		t.Errorf("prune: %+v %v", p, err)
	}
	// After a restart only the container's record holds the layers; what was used when is still known.
	lastUse := s.byName[names[3]].used.Truncate(time.Microsecond)
	s = open(t, Config{Dir: s.cfg.Dir}, deps)
	if got := s.byName[names[3]].used.Truncate(time.Microsecond); !got.Equal(lastUse) {
		t.Errorf("last used %v, want %v", got, lastUse)
	}
	release := s.Hold(imgs[2].DiffIDs)
	if p, err = s.Prune(t.Context(), nil); err != nil || fmt.Sprint(p.Images) != fmt.Sprint([]string{names[3]}) {
		t.Errorf("prune: %+v %v", p, err)
	}
	release()
	if p, err = s.Prune(t.Context(), nil); err != nil || len(p.Images) != 1 || p.Layers != 2 {
		t.Errorf("prune: %+v %v", p, err)
	}
	noRest(t, s, 0)
}

// TestDirectory: archives of docker save and OCI layouts, packed or not, below a directory instead of a registry.
func TestDirectory(t *testing.T) {
	t.Parallel()
	realpart.Root(t)
	dir := t.TempDir()
	img := Build(t, v1.Config{Cmd: []string{"x"}}, one(t, compression.GZip, File{Name: "f", Body: "saved"}))
	tag, err := name.NewTag("team/app:v2")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "team"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "team", "app:v2.tar"), tag, img); err != nil {
		t.Fatal(err)
	}
	p, err := layout.Write(filepath.Join(dir, "oci"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	other := Build(t, v1.Config{Cmd: []string{"y"}}, one(t, compression.ZStd, File{Name: "f", Body: "other"}))
	for ref, i := range map[string]v1.Image{"one": img, "two": other} {
		if err := p.AppendImage(i, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})); err != nil {
			t.Fatal(err)
		}
	}
	var files []File
	for _, f := range []string{"oci-layout", "index.json"} {
		files = append(files, File{Name: f, Body: read(t, dir, "oci", f)})
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "oci", "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		files = append(files, File{Name: "./blobs/sha256/" + filepath.Base(b), Body: read(t, b)})
	}
	if err := os.WriteFile(filepath.Join(dir, "packed.tar"), Tar(t, files...), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, _ := other.Digest()
	s := open(t, Config{Registry: dir})
	for image, want := range map[string]string{
		"team/app:v2": "saved", "oci:one": "saved", "oci:two": "other", "packed:two": "other", "oci@" + digest.String(): "other",
	} {
		if got := read(t, get(t, s, image).Layers[0], "f"); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	for image, says := range map[string]string{"none": "no such image", "oci:three": "", "../etc": ""} {
		if _, err := s.Get(t.Context(), image, nil, false); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", image, err)
		}
	}
	// A layer that was tampered with on disk.
	layers, _ := img.Layers()
	h, _ := layers[0].Digest()
	if err := os.WriteFile(filepath.Join(dir, "oci", "blobs", "sha256", h.Hex), Tar(t, File{Name: "f", Body: "evil"}), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Registry: dir})
	if _, err := s.Get(t.Context(), "oci:one", nil, false); err == nil || !strings.Contains(err.Error(), "wrong digest") {
		t.Errorf("tampered: %v", err)
	}
}
