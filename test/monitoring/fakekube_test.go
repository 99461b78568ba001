package monitoring

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const kubeToken = "the-probe's-token"

// fakeKubernetes is no Kubernetes: it serves written answers in the form of the API server's, over TLS and with a token. It lists
// in pages, watches from a version on, sends bookmarks, forgets its history when told to, gives only metadata to who asks for
// that, and keeps leases with optimistic locking.
type fakeKubernetes struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	version  int
	forgot   int // versions up to this one are no longer watched from
	objects  map[string]map[string]map[string]any
	events   map[string][]fakeEvent
	changed  chan struct{}
	denied   map[string]bool
	missing  map[string]bool
	requests map[string]int // "list <path>", "watch <path>", "metadata <path>"
	watching map[string]int // now, by the holder's token
}

type fakeEvent struct {
	version int
	kind    string
	object  map[string]any
}

func newFakeKubernetes(t testing.TB) *fakeKubernetes {
	f := &fakeKubernetes{
		t: t, version: 100, objects: map[string]map[string]map[string]any{}, events: map[string][]fakeEvent{}, changed: make(chan struct{}),
		denied: map[string]bool{}, missing: map[string]bool{}, requests: map[string]int{}, watching: map[string]int{},
	}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

// kubeconfig writes a file that leads here.
func (f *fakeKubernetes) kubeconfig(dir string) string {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	path := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts:
- name: elsewhere
  context: {cluster: none, user: none}
- name: here
  context: {cluster: c, user: u, namespace: monitoring}
clusters:
- name: c
  cluster: {server: %q, certificate-authority: ca.crt}
users:
- name: u
  user: {token: %q}
`, f.URL, kubeToken)
	for name, b := range map[string][]byte{"kubeconfig": []byte(text), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	return path
}

// put makes or changes an object; text is JSON without kind and version.
func (f *fakeKubernetes) put(path, text string) {
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		f.t.Fatalf("%v: %s", err, text)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	uid := o["metadata"].(map[string]any)["uid"].(string)
	kind := "MODIFIED"
	if f.objects[path] == nil {
		f.objects[path] = map[string]map[string]any{}
	}
	if f.objects[path][uid] == nil {
		kind = "ADDED"
	}
	f.objects[path][uid] = o
	f.tell(path, kind, o)
}

func (f *fakeKubernetes) remove(path, uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[path][uid]
	delete(f.objects[path], uid)
	f.tell(path, "DELETED", o)
}

func (f *fakeKubernetes) tell(path, kind string, o map[string]any) {
	f.version++
	o["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(f.version)
	copied := map[string]any{}
	b, _ := json.Marshal(o)
	_ = json.Unmarshal(b, &copied)
	f.events[path] = append(f.events[path], fakeEvent{f.version, kind, copied})
	f.wake()
}

func (f *fakeKubernetes) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// forget ends all watches, and lets none go on from where it was.
func (f *fakeKubernetes) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version += 10
	f.forgot = f.version
	f.events = map[string][]fakeEvent{}
	f.wake()
}

func (f *fakeKubernetes) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[what]
}

func fail(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"code":%d}`, message, code)
}

func (f *fakeKubernetes) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	f.mu.Lock()
	denied, missing := f.denied[path], f.missing[path]
	f.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+kubeToken:
		fail(w, 401, "Unauthorized")
	case denied:
		fail(w, 403, path+` is forbidden: User "probe" cannot list it`)
	case missing:
		fail(w, 404, "the server could not find the requested resource")
	case strings.Contains(path, "/leases"):
		f.lease(w, r)
	case r.Method != http.MethodGet:
		fail(w, 405, "only reading is allowed")
	case r.URL.Query().Get("watch") != "":
		f.watch(w, r)
	default:
		f.list(w, r)
	}
}

// only strips an object to what the Accept header asks for.
func (f *fakeKubernetes) only(r *http.Request, o map[string]any) map[string]any {
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return o
	}
	return map[string]any{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]}
}

// fakePage is how many objects a page has at most, whatever is asked for.
const fakePage = 2

func (f *fakeKubernetes) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests["list "+r.URL.Path]++
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		f.requests["metadata "+r.URL.Path]++
	}
	var uids []string
	for uid := range f.objects[r.URL.Path] {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	meta := map[string]any{"resourceVersion": strconv.Itoa(f.version)}
	to := min(len(uids), from+fakePage)
	if to < len(uids) {
		meta["continue"] = strconv.Itoa(to)
	}
	items := []any{}
	for _, uid := range uids[from:to] {
		items = append(items, f.only(r, f.objects[r.URL.Path][uid]))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})
}

func (f *fakeKubernetes) watch(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	at, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	f.mu.Lock()
	f.requests["watch "+path]++
	f.watching[path]++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.watching[path]--
		f.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	for {
		f.mu.Lock()
		gone := at < f.forgot
		var list []fakeEvent
		for _, e := range f.events[path] {
			if e.version > at {
				list = append(list, e)
			}
		}
		version, changed := f.version, f.changed
		f.mu.Unlock()
		if gone {
			_ = enc.Encode(map[string]any{"type": "ERROR", "object": map[string]any{"kind": "Status", "code": 410, "message": "too old resource version"}})
			return
		}
		for _, e := range list {
			if enc.Encode(map[string]any{"type": e.kind, "object": f.only(r, e.object)}) != nil {
				return
			}
		}
		at = version
		if enc.Encode(map[string]any{"type": "BOOKMARK", "object": map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(version)}}}) != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (f *fakeKubernetes) lease(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := r.URL.Path
	var in map[string]any
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			fail(w, 400, err.Error())
			return
		}
		if r.Method == http.MethodPost {
			path += "/" + in["metadata"].(map[string]any)["name"].(string)
		}
	}
	was := f.objects[path]["lease"]
	version := func(o map[string]any) any { return o["metadata"].(map[string]any)["resourceVersion"] }
	switch {
	case r.Method == http.MethodGet && was == nil:
		fail(w, 404, "leases not found")
		return
	case r.Method == http.MethodPost && was != nil:
		fail(w, 409, "already exists")
		return
	case r.Method == http.MethodPut && (was == nil || version(was) != version(in)):
		fail(w, 409, "the object has been modified")
		return
	case r.Method != http.MethodGet:
		f.version++
		in["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(f.version)
		f.objects[path] = map[string]map[string]any{"lease": in}
		was = in
	}
	_ = json.NewEncoder(w).Encode(was)
}

// holder is who has the lease.
func (f *fakeKubernetes) holder(path string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.objects[path]["lease"]; l != nil {
		return l["spec"].(map[string]any)["holderIdentity"].(string)
	}
	return ""
}
