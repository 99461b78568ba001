package monitor

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/orchestrator/orchestrator/internal/monitor/view"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// apiError is a failure as the API tells it.
type apiError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
	retry   int
}

func (e *apiError) Error() string { return e.Message }

func fail(code, message, hint string) error {
	return &apiError{Code: code, Message: topology.Clean(message, 2048), Hint: hint}
}

var statusOf = map[string]int{
	"bad_request": http.StatusBadRequest, "unauthenticated": http.StatusUnauthorized, "forbidden": http.StatusForbidden,
	"not_found": http.StatusNotFound, "conflict": http.StatusConflict, "too_large": http.StatusRequestEntityTooLarge,
	"too_many": http.StatusTooManyRequests, "probe_failed": http.StatusBadGateway, "probe_gone": http.StatusServiceUnavailable,
	"timeout": http.StatusGatewayTimeout, "method_not_allowed": http.StatusMethodNotAllowed, "bad_gateway": http.StatusBadGateway,
}

// asAPI turns any error into the API's.
func asAPI(err error) *apiError {
	var a *apiError
	var v *view.Error
	switch {
	case errors.As(err, &a):
		return a
	case errors.As(err, &v):
		return &apiError{Code: v.Code, Message: v.Message, Hint: v.Hint}
	default:
		return &apiError{Code: "internal", Message: "the monitor failed while doing this", Hint: "its log says why"}
	}
}

// writeError is the one place where errors become HTTP answers.
func (m *Monitor) writeError(w http.ResponseWriter, err error) {
	a := asAPI(err)
	status, ok := statusOf[a.Code]
	if !ok {
		status = http.StatusInternalServerError
		m.log.Error("request failed", "err", err)
	}
	if a.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.retry))
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="orchestrator-monitor"`)
	}
	writeJSON(w, status, map[string]any{"error": a})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encode the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// maxBody bounds the body of a request.
const maxBody = 1 << 20

// readJSON reads a request's body. An empty one is fine. One with a key that means nothing here is refused: who mistypes dry_run or ttl_seconds must not get
// what happens without.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("more than one value")
		}
	}
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return fail("too_large", "the body is larger than 1 MB", "")
	}
	return fail("bad_request", "the body is not the JSON that is expected: "+strings.TrimPrefix(err.Error(), "json: "), "")
}
