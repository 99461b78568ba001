package monitor

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// What was read of a file or log is in the audit log also when the reading ended in an error, which breaks the connection off: else whoever reads what
// can't be read to its end leaves no trace.
func TestWhatIsReadInPartIsAudited(t *testing.T) {
	t.Parallel()
	m, mux := routesUnderTest(t)
	p := m.fake(t, "vm1")
	p.mu.Lock()
	p.answer = func(r *probev1.Request) {
		p.conn.mux.Handle(&probev1.Pipe{Id: r.Pipe, Stream: pipe.Stdout, Data: []byte("root:x:0:0\n"), Eof: true})
		p.conn.answer(&probev1.Response{Id: r.Id, Code: "probe_failed", Message: "the file is shorter than it was"})
	}
	p.mu.Unlock()
	for action, path := range map[string]string{
		"read.file": "/api/v1/nodes/container%3Bvm1%3Bweb/file?path=/etc/shadow",
		"read.logs": "/api/v1/nodes/container%3Bvm1%3Bweb/logs",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://monitor:4040"+path, nil)
		r.Header.Set("Authorization", "Bearer omt_admin")
		broken := func() (broken bool) {
			defer func() {
				err, _ := recover().(error)
				broken = errors.Is(err, http.ErrAbortHandler)
			}()
			mux.ServeHTTP(httptest.NewRecorder(), r)
			return false
		}()
		if !broken {
			t.Errorf("%s: half of it is taken for the whole", action)
		}
		entries := m.audit.before(0, 1)
		if len(entries) != 1 || entries[0].Action != action || entries[0].Outcome != "failed" || entries[0].Bytes != 11 {
			t.Errorf("%s: the audit log says %+v", action, entries)
		}
	}
}

// Only times are taken off lines: what a probe of Weave Scope's passes on has none.
func TestOnlyTimesAreTakenOff(t *testing.T) {
	t.Parallel()
	const in = "2026-11-26T10:00:00.123456789Z GET /\n2026-11-26T10:00:01Z \nlistening on :80\ndone\n\n" + "averyveryverylongwordthatisnotimeandhasnospaces here\n"
	const want = "GET /\n\nlistening on :80\ndone\n\n" + "averyveryverylongwordthatisnotimeandhasnospaces here\n"
	for _, size := range []int{1, 7, len(in)} {
		w := httptest.NewRecorder()
		u := &unstamped{ResponseWriter: w, out: w}
		for rest := []byte(in); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if n, err := u.Write(rest[:min(size, len(rest))]); err != nil || n != min(size, len(rest)) {
				t.Fatal(n, err)
			}
		}
		if got := w.Body.String(); got != want {
			t.Errorf("in pieces of %d: %q", size, got)
		}
	}
}
