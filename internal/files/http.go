package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/orchestrator/orchestrator/internal/wire"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// Handler serves <prefix>/browse, read, download and debug (each also with Mesos' trailing slash). It asks
// wire.PrincipalOf who is there, so it stands behind wire.Authenticated.
func (f *Files) Handler(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			wire.MethodNotAllowed(w, r, http.MethodGet)
			return
		}
		switch strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, prefix), "/") {
		case "/browse":
			f.browse(w, r)
		case "/read":
			f.read(w, r)
		case "/download":
			f.download(w, r)
		case "/debug":
			f.debug(w, r)
		default:
			wire.Error(w, http.StatusNotFound, "Unknown endpoint: files has browse, read, download and debug")
		}
	})
}

// Status is the HTTP status of an error of this package.
func Status(err error) int {
	switch {
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrForbidden), errors.Is(err, ErrEscape):
		return http.StatusForbidden
	case errors.Is(err, ErrDirectory), errors.Is(err, ErrNotRegular):
		return http.StatusBadRequest
	default:
		return http.StatusInternalServerError
	}
}

func requestedPath(w http.ResponseWriter, r *http.Request) (string, bool) {
	p := r.URL.Query().Get("path")
	if p == "" {
		wire.Error(w, http.StatusBadRequest, "Expecting 'path=value' in query.\n")
		return "", false
	}
	return p, true
}

func fail(w http.ResponseWriter, verb, virtual string, err error) {
	switch {
	case errors.Is(err, ErrDirectory):
		wire.Error(w, Status(err), "Cannot "+verb+" a directory.\n")
	case errors.Is(err, ErrNotFound):
		wire.Error(w, Status(err), "")
	default:
		wire.Error(w, Status(err), fmt.Sprintf("Cannot %s '%s': %v.\n", verb, virtual, err))
	}
}

func (f *Files) browse(w http.ResponseWriter, r *http.Request) {
	virtual, ok := requestedPath(w, r)
	if !ok {
		return
	}
	infos, err := f.List(wire.PrincipalOf(r.Context()).Name, virtual)
	if err != nil {
		fail(w, "browse", virtual, err)
		return
	}
	var names nameCache
	var out mesosjson.Writer
	out.BeginArray()
	for _, i := range infos {
		out.BeginObject()
		out.Key("gid").String(names.group(i.GID))
		out.Key("mode").String(Mode(i.Mode))
		out.Key("mtime").Float(float64(i.MTime.Unix()))
		out.Key("nlink").Uint(i.Links)
		out.Key("path").String(i.Path)
		out.Key("size").Int(i.Size)
		out.Key("uid").String(names.user(i.UID))
		out.EndObject()
	}
	out.EndArray()
	wire.RespondJSON(w, r, out.Buf)
}

func (f *Files) read(w http.ResponseWriter, r *http.Request) {
	virtual, ok := requestedPath(w, r)
	if !ok {
		return
	}
	number := func(name string) (int64, bool) {
		text := r.URL.Query().Get(name)
		if text == "" {
			return -1, true
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Failed to parse %s: '%s' is not a whole number.\n", name, text))
			return 0, false
		}
		if n < -1 {
			wire.Error(w, http.StatusBadRequest, fmt.Sprintf("Negative %s provided: %d.\n", name, n))
			return 0, false
		}
		return n, true
	}
	offset, ok := number("offset")
	if !ok {
		return
	}
	length, ok := number("length")
	if !ok {
		return
	}
	chunk, err := f.Read(wire.PrincipalOf(r.Context()).Name, virtual, offset, length)
	if err != nil {
		fail(w, "read", virtual, err)
		return
	}
	var out mesosjson.Writer
	out.BeginObject()
	out.Key("data").String(string(wholeRunes(chunk)))
	out.Key("offset").Int(chunk.Offset)
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// wholeRunes leaves a character that the chunk cuts in two for the next read: JSON can't carry half of one.
func wholeRunes(c Chunk) []byte {
	data := c.Data
	if c.Offset+int64(len(data)) >= c.Size {
		return data
	}
	for i := 1; i < utf8.UTFMax && i < len(data); i++ {
		if at := len(data) - i; utf8.RuneStart(data[at]) {
			if !utf8.FullRune(data[at:]) {
				return data[:at]
			}
			break
		}
	}
	return data
}

func (f *Files) download(w http.ResponseWriter, r *http.Request) {
	virtual, ok := requestedPath(w, r)
	if !ok {
		return
	}
	file, info, err := f.Open(wire.PrincipalOf(r.Context()).Name, virtual)
	if err != nil {
		fail(w, "download", virtual, err)
		return
	}
	defer file.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(virtual)}))
	// The size is fixed now: what a task appends meanwhile belongs to the next download.
	http.ServeContent(w, r, "", info.ModTime(), io.NewSectionReader(file, 0, info.Size()))
}

func (f *Files) debug(w http.ResponseWriter, r *http.Request) {
	attached := f.Attached(wire.PrincipalOf(r.Context()).Name)
	names := make([]string, 0, len(attached))
	for v := range attached {
		names = append(names, v)
	}
	slices.Sort(names)
	var out mesosjson.Writer
	out.BeginObject()
	for _, v := range names {
		out.Key(v).String(attached[v])
	}
	out.EndObject()
	wire.RespondJSON(w, r, out.Buf)
}

// Mode writes a mode like ls: "drwxr-xr-x".
func Mode(m fs.FileMode) string {
	out := []byte("----------")
	switch {
	case m.IsDir():
		out[0] = 'd'
	case m&fs.ModeSymlink != 0:
		out[0] = 'l'
	case m&fs.ModeNamedPipe != 0:
		out[0] = 'p'
	case m&fs.ModeSocket != 0:
		out[0] = 's'
	case m&fs.ModeCharDevice != 0:
		out[0] = 'c'
	case m&fs.ModeDevice != 0:
		out[0] = 'b'
	}
	for i, c := range "rwxrwxrwx" {
		if m&(1<<(8-i)) != 0 {
			out[i+1] = byte(c)
		}
	}
	special := func(at int, set bool, c byte) {
		if !set {
			return
		}
		if out[at] == '-' {
			c -= 'a' - 'A'
		}
		out[at] = c
	}
	special(3, m&fs.ModeSetuid != 0, 's')
	special(6, m&fs.ModeSetgid != 0, 's')
	special(9, m&fs.ModeSticky != 0, 't')
	return string(out)
}

// Owner names the user and group of a listing as Mesos does: by name where there is one, else by number.
func (i Info) Owner() (userName, groupName string) {
	var c nameCache
	return c.user(i.UID), c.group(i.GID)
}

// nameCache remembers the names of one listing: most files have the same owner.
type nameCache struct{ users, groups map[uint32]string }

func (c *nameCache) user(id uint32) string {
	return remember(&c.users, id, func(text string) (string, error) {
		u, err := user.LookupId(text)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (c *nameCache) group(id uint32) string {
	return remember(&c.groups, id, func(text string) (string, error) {
		g, err := user.LookupGroupId(text)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func remember(names *map[uint32]string, id uint32, lookup func(string) (string, error)) string {
	if name, ok := (*names)[id]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(id), 10)
	if known, err := lookup(name); err == nil {
		name = known
	}
	if *names == nil {
		*names = map[uint32]string{}
	}
	(*names)[id] = name
	return name
}
