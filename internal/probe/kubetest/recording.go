package kubetest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

//go:embed testdata
var recordings embed.FS

// about is the first line of a recording.
type about struct {
	Server  string   `json:"server"` // its version, as it says itself
	Etcd    string   `json:"etcd"`
	Steps   []string `json:"steps"`
	Rules   string   `json:"rules,omitempty"` // of the role that the client had, as JSON
	Request int      `json:"requests"`
}

// exchange is a request and its answer.
type exchange struct {
	As     string            `json:"as"` // whose token it bore
	Step   int               `json:"step"`
	Method string            `json:"method"`
	Path   string            `json:"path"`
	Query  string            `json:"query,omitempty"`
	Accept string            `json:"accept"`
	Status int               `json:"status"`
	Proto  string            `json:"proto"`
	Header map[string]string `json:"header"`
	Body   []piece           `json:"body,omitempty"`
	// End is how the body ended: "" by itself, "cut" by the connection's end, "open" when nothing ended it before the client went away.
	End string `json:"end,omitempty"`
	// EndStep is when.
	EndStep int `json:"endStep,omitempty"`
}

// piece is what of a body came at once.
type piece struct {
	Step int    `json:"step"`
	Data string `json:"data"`
}

// The ends of a body.
const (
	endCut  = "cut"
	endOpen = "open"
)

// keptHeaders are those of an answer that a client may act on.
var keptHeaders = []string{"Content-Type", "Content-Encoding", "Retry-After", "Warning"}

func (x *exchange) watch() bool { return strings.Contains(x.Query, "watch=") }

// key is what exchanges have in common that answer each other's question at another time.
func (x *exchange) key() string {
	return fmt.Sprint(x.As, " ", x.Method, " ", x.Path, " ", x.watch(), " ", x.Accept)
}

// byClock reports whether it depends on time how often this is asked.
func (x *exchange) byClock() bool { return x.Status >= 400 || strings.Contains(x.Path, "/leases") }

func (x *exchange) text() string {
	var b strings.Builder
	for _, p := range x.Body {
		b.WriteString(p.Data)
	}
	return b.String()
}

// recording is a session's exchanges, in the order in which they were answered.
type recording struct {
	about

	mu        sync.Mutex
	exchanges []*exchange
}

// versions lists the versions of which there is a recording of a session.
func versions(name string) ([]string, error) {
	files, err := recordings.ReadDir("testdata")
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, f := range files {
		if f.IsDir() {
			if _, err := recordings.Open(path.Join("testdata", f.Name(), name+".jsonl.gz")); err == nil {
				found[f.Name()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func load(version, name string) (*recording, error) {
	raw, err := recordings.ReadFile(path.Join("testdata", version, name+".jsonl.gz"))
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bufio.NewReader(z))
	r := &recording{}
	if err := dec.Decode(&r.about); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", version, name, err)
	}
	for {
		x := &exchange{}
		if err := dec.Decode(x); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", version, name, err)
		}
		r.exchanges = append(r.exchanges, x)
	}
	if len(r.exchanges) != r.Request {
		return nil, fmt.Errorf("%s/%s: %d exchanges are there of %d", version, name, len(r.exchanges), r.Request)
	}
	return r, nil
}

// save writes a recording in place of another.
func (r *recording) save(dir, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir = filepath.Join(dir, r.Server)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	r.Request = len(r.exchanges)
	if err := enc.Encode(r.about); err != nil {
		return err
	}
	for _, x := range r.exchanges {
		if err := enc.Encode(x); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".jsonl.gz"), b.Bytes(), 0o644)
}

// uids gives the uids of all objects that lists and watches of a path have shown, by name; of objects in several namespaces by namespace/name too.
func (r *recording) uids(at string) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]string{}
	for _, x := range r.exchanges {
		if x.Path != at || x.Method != "GET" || x.Status != 200 {
			continue
		}
		type object struct {
			Metadata struct{ Name, Namespace, UID string }
		}
		dec := json.NewDecoder(strings.NewReader(x.text()))
		for {
			var v struct {
				Items  []object
				Object object
			}
			if dec.Decode(&v) != nil {
				break
			}
			for _, o := range append(v.Items, v.Object) {
				if m := o.Metadata; m.UID != "" {
					out[m.Name], out[m.Namespace+"/"+m.Name] = m.UID, m.UID
				}
			}
		}
	}
	return out
}
