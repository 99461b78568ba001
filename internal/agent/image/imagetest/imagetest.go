// Package imagetest makes images and serves them from a registry on loopback, for tests.
package imagetest

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// Busybox is Debian's static busybox, which test/deps.sh installs.
const Busybox = "/bin/busybox"

// File is one entry of a layer. A name that ends in a slash is a directory; Link a symbolic link, Hard a hard link.
type File struct {
	Name, Body, Link, Hard string
	Mode                   int64
	UID, GID               int
	Xattrs                 map[string]string
	Header                 *tar.Header // instead of all that
}

var epoch = time.Unix(1_700_000_000, 0)

// Tar makes an archive.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		if h == nil {
			h = &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, ModTime: epoch, Typeflag: tar.TypeReg, Size: int64(len(f.Body)), Format: tar.FormatPAX}
			switch {
			case strings.HasSuffix(f.Name, "/"):
				h.Typeflag = tar.TypeDir
			case f.Link != "":
				h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
			case f.Hard != "":
				h.Typeflag, h.Linkname = tar.TypeLink, f.Hard
			}
			if h.Mode == 0 {
				h.Mode = 0o644
				if h.Typeflag == tar.TypeDir {
					h.Mode = 0o755
				}
			}
			for k, v := range f.Xattrs {
				if h.PAXRecords == nil {
					h.PAXRecords = map[string]string{}
				}
				h.PAXRecords["SCHILY.xattr."+k] = v
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, f.Body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Layer makes a layer of an archive.
func Layer(t testing.TB, archive []byte, c compression.Compression) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil },
		tarball.WithCompression(c), tarball.WithCompressedCaching)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Build makes an image.
func Build(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err == nil {
		var cf *v1.ConfigFile
		if cf, err = img.ConfigFile(); err == nil {
			cf = cf.DeepCopy()
			cf.Config, cf.OS, cf.Architecture = config, "linux", runtime.GOARCH
			img, err = mutate.ConfigFile(img, cf)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// BusyboxFiles are a small system: busybox, its commands as links, accounts.
func BusyboxFiles(t testing.TB) []File {
	t.Helper()
	box, err := os.ReadFile(Busybox)
	if err != nil {
		realpart.Missing(t, "this test needs busybox-static: run test/deps.sh: %v", err)
	}
	fs := []File{
		{Name: "bin/"},
		{Name: "bin/busybox", Body: string(box), Mode: 0o755},
		{Name: "etc/"},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "root/", Mode: 0o700},
		{Name: "etc/passwd", Body: "root:x:0:0:root:/root:/bin/sh\nwebapp:x:4711:4712:web:/home/webapp:/bin/sh\n"},
		{Name: "etc/group", Body: "root:x:0:\nwebapp:x:4712:\nextra:x:4713:webapp\n"},
		{Name: "home/webapp/", UID: 4711, GID: 4712},
	}
	for _, c := range strings.Fields("sh sleep cat echo ls id env true false kill ps mount hostname touch mkdir rm dd stat pwd test ln readlink grep head wc trap nc ip sync chmod find sed awk umount mknod setsid stty tty printf seq od xargs") {
		fs = append(fs, File{Name: "bin/" + c, Link: "busybox"})
	}
	return fs
}

// Registry is go-containerregistry's registry on loopback.
type Registry struct {
	Host string
	// Wrap, when set, answers instead of the registry; it is given the registry to pass on to.
	Wrap atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler)]
	// Gets counts what was asked for, by path.
	gets atomic.Int64
}

// Blobs is how many blobs have been asked for.
func (r *Registry) Blobs() int { return int(r.gets.Load()) }

// Serve serves until the test ends.
func Serve(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/sha256:") {
			r.gets.Add(1)
		}
		if f := r.Wrap.Load(); f != nil {
			(*f)(w, req, inner)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	r.Host = strings.TrimPrefix(s.URL, "http://")
	return r
}

// Push stores an image and gives its whole name.
func (r *Registry) Push(t testing.TB, as string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(r.Host + "/" + as)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

// PushIndex stores an index of images for several platforms.
func (r *Registry) PushIndex(t testing.TB, as string, idx v1.ImageIndex) string {
	t.Helper()
	ref, err := name.ParseReference(r.Host + "/" + as)
	if err == nil {
		err = remote.WriteIndex(ref, idx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}
