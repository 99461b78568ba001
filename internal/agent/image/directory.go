package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// directory is the source of images from files below a directory (Mesos: a path as --docker_registry). Image name:tag is
// looked for as <name>:<tag>.tar and <name>.tar (what `docker save` or an OCI tool wrote), and as <name>:<tag> and <name>
// (an OCI image layout).
type directory struct{ path string }

func (d *directory) parse(image string) (reference, error) {
	ref, err := name.ParseReference(image, name.WithDefaultTag("latest"))
	if err != nil {
		return reference{}, fmt.Errorf("image name %q: %w", image, err)
	}
	return reference{Reference: ref, given: image}, nil
}

func (d *directory) resolve(_ context.Context, ref reference, _ credentials) (*manifest, error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, fmt.Errorf("docker_registry: %w", err)
	}
	defer root.Close() // what is open stays open
	plain := ref.given
	if at := strings.IndexByte(plain, '@'); at >= 0 {
		plain = plain[:at]
	}
	base := plain
	if colon := strings.LastIndexByte(base, ':'); colon > strings.LastIndexByte(base, '/') {
		base = base[:colon]
	}
	tagged := base + ":" + ref.Identifier()
	for _, p := range []string{tagged, plain, base} {
		for _, f := range []string{p + ".tar", p} {
			fi, err := root.Stat(f)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", ref.given, err)
			}
			m, err := d.open(filepath.Join(root.Name(), f), fi.IsDir(), ref)
			if err != nil {
				return nil, fmt.Errorf("image %s: %s: %w", ref.given, f, err)
			}
			return m, m.check(ref.given)
		}
	}
	return nil, fmt.Errorf("image %s: %w: neither %s.tar nor an OCI layout %s is in %s", ref.given, errNoImage, base, base, d.path)
}

// open reads one image. Its path has been found beneath the root.
func (d *directory) open(file string, isDir bool, ref reference) (*manifest, error) {
	if isDir {
		root, err := os.OpenRoot(file)
		if err != nil {
			return nil, err
		}
		return readLayout(func(p string) (io.ReadCloser, error) { return root.Open(p) }, ref)
	}
	t, err := scanTar(file)
	if err != nil {
		return nil, err
	}
	if _, ok := t.at["index.json"]; ok {
		return readLayout(t.open, ref)
	}
	if _, ok := t.at["manifest.json"]; !ok {
		return nil, errors.New("neither an archive of docker save (manifest.json) nor an OCI layout (index.json)")
	}
	return readSaved(file, ref)
}

// readSaved reads what docker save wrote before it wrote OCI layouts.
func readSaved(file string, ref reference) (*manifest, error) {
	opener := func() (io.ReadCloser, error) { return os.Open(file) }
	var tag *name.Tag
	if man, err := tarball.LoadManifest(opener); err == nil && len(man) > 1 {
		t, ok := ref.Reference.(name.Tag)
		if !ok {
			return nil, errors.New("it holds several images: name one by its tag")
		}
		tag = &t
	}
	img, err := tarball.Image(opener, tag)
	if err != nil {
		return nil, err
	}
	id, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	m := &manifest{digest: id.String(), index: id.String()}
	if m.config, err = img.ConfigFile(); err != nil {
		return nil, err
	}
	if d, ok := ref.Reference.(name.Digest); ok && d.DigestStr() != m.digest {
		return nil, fmt.Errorf("wrong digest: the image's is %s", m.digest)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		b := blob{open: l.Uncompressed}
		if i < len(m.config.RootFS.DiffIDs) {
			b.diffID = m.config.RootFS.DiffIDs[i].String()
		}
		m.blobs = append(m.blobs, b)
	}
	return m, nil
}

// readLayout reads an OCI image layout through open, which gives the file at a path of it.
func readLayout(open func(string) (io.ReadCloser, error), ref reference) (*manifest, error) {
	raw, err := readAll(open, "index.json", maxManifest)
	if err != nil {
		return nil, err
	}
	want := ""
	if d, ok := ref.Reference.(name.Digest); ok {
		want = d.DigestStr()
	}
	digest, body, err := pick(open, raw, ref.Identifier(), want, 0)
	if err != nil {
		return nil, err
	}
	m := &manifest{digest: digest, index: digest}
	var man v1.Manifest
	if err := json.Unmarshal(body, &man); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest, err)
	}
	config, err := readBlob(open, man.Config.Digest, maxConfig)
	if err != nil {
		return nil, err
	}
	if m.config, err = v1.ParseConfigFile(bytes.NewReader(config)); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for i, l := range man.Layers {
		b := blob{open: func() (io.ReadCloser, error) { return open(blobPath(l.Digest)) }}
		if i < len(m.config.RootFS.DiffIDs) {
			b.diffID = m.config.RootFS.DiffIDs[i].String()
		}
		m.blobs = append(m.blobs, b)
	}
	return m, nil
}

// pick chooses the manifest that an index leads to: by digest, else by its reference name, else the only one; through
// indexes, the one for this platform.
func pick(open func(string) (io.ReadCloser, error), raw []byte, tag, want string, depth int) (string, []byte, error) {
	if depth > 4 {
		return "", nil, errors.New("indexes are nested too deeply")
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return "", nil, fmt.Errorf("index: %w", err)
	}
	var fit []v1.Descriptor
	for _, d := range index.Manifests {
		switch p := d.Platform; {
		case want != "" && d.Digest.String() == want:
			fit = []v1.Descriptor{d}
			want = ""
		case want != "" && !d.MediaType.IsIndex(), d.MediaType != "" && !d.MediaType.IsImage() && !d.MediaType.IsIndex():
			continue
		case p != nil && (p.OS != "linux" || p.Architecture != runtime.GOARCH):
			continue
		default:
			fit = append(fit, d)
			continue
		}
		break
	}
	if len(fit) > 1 {
		fit = slices.DeleteFunc(fit, func(d v1.Descriptor) bool {
			n := d.Annotations["org.opencontainers.image.ref.name"]
			return n != tag && !strings.HasSuffix(n, ":"+tag)
		})
	}
	if len(fit) == 0 {
		return "", nil, fmt.Errorf("%w: no manifest for %s on linux/%s", errNoImage, tag, runtime.GOARCH)
	}
	body, err := readBlob(open, fit[0].Digest, maxManifest)
	if err != nil {
		return "", nil, err
	}
	if fit[0].MediaType.IsIndex() || fit[0].MediaType == types.OCIImageIndex {
		return pick(open, body, tag, want, depth+1)
	}
	if want != "" && fit[0].Digest.String() != want {
		return "", nil, fmt.Errorf("%w: no manifest %s", errNoImage, want)
	}
	return fit[0].Digest.String(), body, nil
}

func blobPath(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// readBlob reads a small blob and verifies it.
func readBlob(open func(string) (io.ReadCloser, error), h v1.Hash, limit int64) ([]byte, error) {
	if h.Algorithm != "sha256" || len(h.Hex) != 64 {
		return nil, fmt.Errorf("digest %s: only sha256 is known", h)
	}
	b, err := readAll(open, blobPath(h), limit)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != h.Hex {
		return nil, fmt.Errorf("wrong digest: blob %s has the content of sha256:%x", h, sum)
	}
	return b, nil
}

func readAll(open func(string) (io.ReadCloser, error), p string, limit int64) ([]byte, error) {
	f, err := open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", p, limit)
	}
	return b, err
}

// scanned is a tar file and where its files begin.
type scanned struct {
	file string
	at   map[string]section
}

type section struct{ offset, size int64 }

// maxMembers bounds the files of an archive of an image.
const maxMembers = 100_000

func scanTar(file string) (*scanned, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &scanned{file: file, at: make(map[string]section)}
	r := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not a whole tar file: %w", err)
		}
		if n > maxMembers {
			return nil, fmt.Errorf("more than %d files", maxMembers)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		s.at[path.Clean(h.Name)] = section{offset, h.Size}
	}
}

func (s *scanned) open(p string) (io.ReadCloser, error) {
	at, ok := s.at[p]
	if !ok {
		return nil, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
	}
	f, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, at.offset, at.size), f}, nil
}
