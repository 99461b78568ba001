package monitor

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"time"
)

// session is what a cookie holds, signed: every replica with the same key knows it. Kept is only which ones were logged out of, where that was.
type session struct {
	Name  string `json:"n"`
	Role  string `json:"r"`
	Epoch int    `json:"e"`
	Token string `json:"t,omitempty"` // by which it was begun: it ends with that
	Until int64  `json:"u"`
	CSRF  string `json:"c"`
}

func (a *accounts) seal(id identity) (cookie string, s session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s = session{Name: id.name, Role: id.role.String(), Epoch: id.epoch, Token: id.token, Until: a.now().Add(sessionLife).UnixMilli(), CSRF: secret("")}
	if id.expMs > 0 { // of the session of another monitor, or of the token
		s.Until = min(s.Until, id.expMs)
	}
	return a.signed("session", s), s
}

// signed writes something down so that it can't be changed, nor be taken for something of another kind.
func (a *accounts) signed(kind string, v any) string {
	b, _ := json.Marshal(v)
	body := base64.RawURLEncoding.EncodeToString(b)
	return body + "." + a.sign(kind, body)
}

func (a *accounts) sign(kind, body string) string {
	h := hmac.New(sha256.New, a.data.Key)
	h.Write([]byte(kind + ":" + body))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// read is the other way round. The caller holds the lock.
func (a *accounts) read(kind, text string, out any) bool {
	body, sig, ok := strings.Cut(text, ".")
	if !ok || len(text) > 4096 || subtle.ConstantTimeCompare([]byte(sig), []byte(a.sign(kind, body))) != 1 {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	return err == nil && json.Unmarshal(b, out) == nil
}

func (a *accounts) unseal(cookie string) (identity, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var s session
	if !a.read("session", cookie, &s) {
		return identity{}, false
	}
	return a.stands(s)
}

// stands tells whose session it is, if it has not ended and the user or token by which it was begun is still there and unchanged. The caller holds
// the lock.
func (a *accounts) stands(s session) (identity, bool) {
	role, err := parseRole(s.Role)
	if err != nil {
		return identity{}, false
	}
	id := identity{name: s.Name, role: role, epoch: s.Epoch, token: s.Token, cookie: true, csrf: s.CSRF, expMs: s.Until}
	if s.Token == "" && s.Name != "link" && s.Epoch == 0 { // of a user who is none
		return identity{}, false
	}
	return id, a.still(id)
}

// still reports whether somebody may still do what they might when they came. The caller holds the lock.
func (a *accounts) still(id identity) bool {
	if now := a.now().UnixMilli(); id.expMs > 0 && id.expMs < now {
		return false
	}
	if _, ended := a.data.Ended[sessionKey(id.csrf)]; ended && id.cookie {
		return false
	}
	switch {
	case id.token != "":
		t := a.data.Tokens[id.token]
		return t != nil && (t.Kind == "probe") == id.probe && t.Role == id.role.String() && !t.over(a.now())
	case id.epoch != 0:
		u := a.data.Users[id.name]
		return u != nil && u.Epoch == id.epoch && u.Role == id.role.String()
	}
	return true // by the configuration; whoever came by the link of a start, whose session outlives a restart
}

// sessionKey names a session in the list of those that have ended.
func sessionKey(csrf string) string {
	h := sha256.Sum256([]byte(csrf))
	return base64.RawURLEncoding.EncodeToString(h[:12])
}

// maxEnded bounds how many sessions that were logged out of are remembered. Beyond it those are forgotten first whose time is over soonest.
const maxEnded = 10_000

// endSession ends a browser's session, and what it has open, before its time: whoever has got hold of a copy of the cookie is out too.
func (a *accounts) endSession(id identity) error {
	if !id.cookie || id.csrf == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now().UnixMilli()
	maps.DeleteFunc(a.data.Ended, func(_ string, until int64) bool { return until < now })
	if a.data.Ended == nil {
		a.data.Ended = map[string]int64{}
	}
	a.data.Ended[sessionKey(id.csrf)] = id.expMs
	for len(a.data.Ended) > maxEnded {
		soonest := ""
		for key, until := range a.data.Ended {
			if soonest == "" || until < a.data.Ended[soonest] {
				soonest = key
			}
		}
		delete(a.data.Ended, soonest)
	}
	a.endStays()
	return a.save()
}

// stay is something that goes on for as long as somebody may.
type stay struct {
	id    identity
	ended func()
}

// whileStill calls ended when who it is may no longer go on: the user or token is changed or deleted, or its time is over. It does so once, or
// never when leave was called before. ended must not wait.
func (a *accounts) whileStill(id identity, ended func()) (leave func()) {
	s := &stay{id, ended}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.still(id) {
		ended()
		return func() {}
	}
	a.stays[s] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.stays, s)
	}
}

// endStays ends what may not go on. The caller holds the lock.
func (a *accounts) endStays() {
	for s := range a.stays {
		if !a.still(s.id) {
			delete(a.stays, s)
			s.ended()
		}
	}
}

// run ends what outlives its time.
func (a *accounts) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.mu.Lock()
			a.endStays()
			a.mu.Unlock()
		}
	}
}
