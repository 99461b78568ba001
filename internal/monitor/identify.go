package monitor

import (
	"context"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const sessionCookie = "orchestrator_session"

// identify tells who makes a request: by a bearer token, else by a session cookie.
func (m *Monitor) identify(r *http.Request) (identity, error) {
	if m.cfg.Auth == "off" {
		return identity{name: "anonymous", role: RoleAdmin, cookie: true}, nil
	}
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, secretText, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return identity{}, fail("unauthenticated", "Authorization is not of the kind Bearer", "send Authorization: Bearer <token>")
		}
		return m.byToken(r, secretText)
	}
	if c, err := r.Cookie(sessionCookie); err == nil {
		if id, ok := m.accounts.unseal(c.Value); ok {
			return id, nil
		}
		return identity{}, fail("unauthenticated", "the session has ended", "log in again")
	}
	return identity{}, fail("unauthenticated", "nobody is logged in", "POST /api/v1/login, or send Authorization: Bearer <token>")
}

// byToken tells whose a token is. Who tries many is slowed down; who knows one is not, whoever else may be behind the same address.
func (m *Monitor) byToken(r *http.Request, secretText string) (identity, error) {
	id, ok := m.accounts.bearer(strings.TrimSpace(secretText))
	if ok {
		return id, nil
	}
	if _, err := m.accounts.attempt("token", clientAddr(r)); err != nil {
		return identity{}, err
	}
	return identity{}, fail("unauthenticated", "this token is not known or has expired", "an admin makes another: POST /api/v1/tokens, or the page Access of the console")
}

func clientAddr(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// staying gives the request a context that ends when who makes it may no longer: whatever it has opened ends with that. leave is for when it has
// been answered.
func (m *Monitor) staying(r *http.Request, id identity) (_ *http.Request, leave func()) {
	ctx, cancel := context.WithCancel(r.Context())
	stay := m.accounts.whileStill(id, cancel)
	return r.WithContext(ctx), func() {
		stay()
		cancel()
	}
}

// allow checks who makes a request, whether the role suffices, and that the request was not made by another site.
func (m *Monitor) allow(r *http.Request, least Role) (identity, error) {
	id, err := m.identify(r)
	if err != nil {
		return id, err
	}
	if id.probe {
		return id, fail("forbidden", "a probe's token can't be used here", "")
	}
	// A page of another site can make a browser send requests, with or without a cookie.
	if err := m.sameOrigin(r); err != nil {
		return id, err
	}
	if id.cookie && r.Method != http.MethodGet && r.Method != http.MethodHead && m.cfg.Auth == "on" {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-CSRF-Token")), []byte(id.csrf)) != 1 {
			return id, fail("forbidden", "the CSRF token is missing or wrong", "send X-CSRF-Token with the value that GET /api/v1/session gives")
		}
	}
	if id.role < least {
		return id, fail("forbidden", "role "+id.role.String()+" may not do this", "it needs the role "+least.String())
	}
	return id, nil
}

// sameOrigin refuses what a page of another site has made a browser send, and names by which a foreign page could reach a
// monitor on loopback (DNS rebinding) when there is no login.
func (m *Monitor) sameOrigin(r *http.Request) error {
	if m.cfg.Auth == "off" {
		host := r.Host
		if h, _, err := net.SplitHostPort(r.Host); err == nil {
			host = h
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !slices.Contains(m.cfg.AllowedOrigins, r.Host) {
			return fail("forbidden", "without login the monitor answers only under a loopback address", "")
		}
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" && r.Method != http.MethodGet {
			return fail("forbidden", "requests from other sites are refused", "")
		}
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) && !slices.Contains(m.cfg.AllowedOrigins, u.Host) {
		return fail("forbidden", "requests from other sites are refused", "--allowed-origins names the hosts from which the console may be used")
	}
	return nil
}

func (m *Monitor) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ User, Password, Token, Handover string }
	err := m.sameOrigin(r)
	if err == nil {
		err = readJSON(w, r, &in)
	}
	var id identity
	var ok bool
	what, wrong := "", fail("unauthenticated", "the name, password or token is wrong", "")
	switch {
	case err != nil:
	case in.Handover != "":
		id, ok = m.accounts.takeOver(in.Handover)
		what = "a session that another monitor had made"
		wrong = fail("unauthenticated", "the session of the other monitor is not known here, or has ended", "log in; monitors with the same accounts.json know each other's sessions")
	case in.Token != "":
		id, ok = m.accounts.bearer(in.Token)
		ok = ok && !id.probe
	default:
		var takeBack func()
		if takeBack, err = m.accounts.attempt("password", clientAddr(r)); err != nil {
			break
		}
		if id, ok = m.accounts.login(in.User, in.Password); ok {
			takeBack()
		}
	}
	if err == nil && !ok && in.Token+in.Handover != "" {
		_, err = m.accounts.attempt("token", clientAddr(r))
	}
	if err != nil {
		m.writeError(w, err)
		return
	}
	entry := auditEntry{At: m.hub.now().UnixMilli(), User: id.name, Role: id.role.String(), From: clientAddr(r), Action: "login", Outcome: "ok", Detail: what}
	if !ok {
		entry.User, entry.Outcome = in.User, "denied"
		if err := m.audit.add(entry); err != nil {
			m.log.Error("audit failed", "err", err)
		}
		m.writeError(w, wrong)
		return
	}
	if err := m.audit.add(entry); err != nil {
		m.writeError(w, err)
		return
	}
	cookie, s := m.accounts.seal(id)
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil, MaxAge: int((s.Until - m.hub.now().UnixMilli()) / 1000),
	})
	writeJSON(w, http.StatusOK, map[string]any{"user": id.name, "role": id.role.String(), "csrf": s.CSRF, "expires_ms": s.Until})
}

func (m *Monitor) session(w http.ResponseWriter, _ *http.Request, id identity) error {
	writeJSON(w, http.StatusOK, map[string]any{"user": id.name, "role": id.role.String(), "csrf": id.csrf, "expires_ms": id.expMs})
	return nil
}

func (m *Monitor) logout(w http.ResponseWriter, _ *http.Request, id identity) error {
	if err := m.accounts.endSession(id); err != nil {
		m.log.Error("the end of a session is not kept: after a restart it is good again until its time is over", "user", id.name, "err", err)
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	w.WriteHeader(http.StatusNoContent)
	return nil
}
