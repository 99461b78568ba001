// Package console serves the web console, whose built files are embedded. The source is web/; `make console` builds it.
package console

import (
	"bytes"
	"compress/gzip"
	"embed"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

//go:embed all:dist
var files embed.FS

// handler serves the embedded files. A file that is worth it is compressed once, when it is first asked for.
type handler struct {
	dist   fs.FS
	server http.Handler

	mu     sync.Mutex
	packed map[string][]byte
}

// Handler serves the console. Paths that name no file are the console's own routes: they get its page.
func Handler() http.Handler {
	dist, err := fs.Sub(files, "dist")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return &handler{dist: dist, server: http.FileServerFS(dist), packed: map[string][]byte{}}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if st, err := fs.Stat(h.dist, name); name != "" && (err != nil || st.IsDir()) {
		if strings.Contains(path.Base(name), ".") {
			http.NotFound(w, r)
			return
		}
		r = r.Clone(r.Context())
		r.URL.Path = "/"
		name = ""
	}
	if strings.HasPrefix(name, "assets/") {
		// Their names hold a hash of their content.
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Header().Set("Vary", "Accept-Encoding")
		if kind := mime.TypeByExtension(path.Ext(name)); accepts(r) && strings.HasPrefix(kind, "text/") {
			if b := h.pack(name); b != nil {
				w.Header().Set("Content-Type", kind)
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
				if r.Method != http.MethodHead {
					_, _ = w.Write(b)
				}
				return
			}
		}
	} else {
		w.Header().Set("Cache-Control", "no-cache")
	}
	h.server.ServeHTTP(w, r)
}

func accepts(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.Header.Get("Range") == "" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip")
}

// pack gives a file compressed, or nil when it can't be read.
func (h *handler) pack(name string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, ok := h.packed[name]; ok {
		return b
	}
	plain, err := fs.ReadFile(h.dist, name)
	if err != nil {
		return nil
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(plain)
	_ = z.Close()
	h.packed[name] = buf.Bytes()
	return buf.Bytes()
}
