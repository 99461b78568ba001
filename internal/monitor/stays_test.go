package monitor

import (
	"testing"
	"time"
)

// What goes on for as long as somebody may ends when they may no longer, whatever the reason, and then only; what has left before is not called.
func TestWhatGoesOnEndsWithTheRightToIt(t *testing.T) {
	t.Parallel()
	user := func(a *accounts, name string) identity {
		if _, err := a.putUser(name, "operator", "correct horse"); err != nil {
			t.Fatal(err)
		}
		return a.byName(name)
	}
	token := func(a *accounts, name, kind string, ttl int64) identity {
		shown, secretText, err := a.newToken(name, "operator", kind, ttl)
		if err != nil {
			t.Fatal(err)
		}
		id, ok := a.bearer(secretText)
		if !ok || id.token != shown.ID {
			t.Fatalf("%+v", id)
		}
		return id
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(a *accounts, name, role, password string) {
		_, err := a.putUser(name, role, password)
		must(err)
	}
	tick := func(a *accounts) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.endStays()
	}
	for what, c := range map[string]struct {
		who  func(a *accounts) identity
		then func(a *accounts, id identity, now *time.Time)
		ends bool
	}{
		"a user is deleted":     {func(a *accounts) identity { return user(a, "ana") }, func(a *accounts, _ identity, _ *time.Time) { must(a.deleteUser("ana")) }, true},
		"a role is changed":     {func(a *accounts) identity { return user(a, "ana") }, func(a *accounts, _ identity, _ *time.Time) { put(a, "ana", "viewer", "") }, true},
		"a password is changed": {func(a *accounts) identity { return user(a, "ana") }, func(a *accounts, _ identity, _ *time.Time) { put(a, "ana", "operator", "battery staple") }, true},
		"another user":          {func(a *accounts) identity { return user(a, "ana") }, func(a *accounts, _ identity, _ *time.Time) { put(a, "vera", "operator", "battery staple") }, false},
		"a session is over":     {func(a *accounts) identity { return begun(t, a, user(a, "ana")) }, func(a *accounts, _ identity, now *time.Time) { *now = now.Add(sessionLife + time.Second); tick(a) }, true},
		"a session goes on":     {func(a *accounts) identity { return begun(t, a, user(a, "ana")) }, func(a *accounts, _ identity, now *time.Time) { *now = now.Add(sessionLife - time.Second); tick(a) }, false},
		"a session's user is deleted": {
			func(a *accounts) identity { return begun(t, a, user(a, "ana")) }, func(a *accounts, _ identity, _ *time.Time) { must(a.deleteUser("ana")) }, true,
		},
		"a token is deleted": {func(a *accounts) identity { return token(a, "robot", "user", 0) }, func(a *accounts, id identity, _ *time.Time) { must(a.deleteToken(id.token)) }, true},
		"a session's token is deleted": {
			func(a *accounts) identity { return begun(t, a, token(a, "robot", "user", 0)) }, func(a *accounts, id identity, _ *time.Time) { must(a.deleteToken(id.token)) }, true,
		},
		"a token is over":            {func(a *accounts) identity { return token(a, "robot", "user", 600) }, func(a *accounts, _ identity, now *time.Time) { *now = now.Add(601 * time.Second); tick(a) }, true},
		"a probe's token is deleted": {func(a *accounts) identity { return token(a, "host", "probe", 0) }, func(a *accounts, id identity, _ *time.Time) { must(a.deleteToken(id.token)) }, true},
		"another token is deleted": {
			func(a *accounts) identity { return token(a, "robot", "user", 0) },
			func(a *accounts, _ identity, _ *time.Time) { must(a.deleteToken(token(a, "robot", "user", 0).token)) }, false,
		},
		"a token of the configuration": {
			func(*accounts) identity { return identity{name: "link", role: RoleAdmin} }, func(a *accounts, _ identity, now *time.Time) { *now = now.Add(1000 * time.Hour); tick(a) }, false,
		},
		"nobody asks who it is": {func(*accounts) identity { return identity{probe: true} }, func(a *accounts, _ identity, _ *time.Time) { tick(a) }, false},
	} {
		a, _, now := twins(t)
		id := c.who(a)
		ended, left := 0, 0
		a.whileStill(id, func() { ended++ })
		a.whileStill(id, func() { left++ })()
		tick(a)
		if ended != 0 {
			t.Errorf("%s: ended before", what)
			continue
		}
		c.then(a, id, now)
		tick(a)
		if want := map[bool]int{true: 1}[c.ends]; ended != want {
			t.Errorf("%s: ended %d times, want %d", what, ended, want)
		}
		if left != 0 {
			t.Errorf("%s: what has left was ended", what)
		}
		if want := map[bool]int{false: 1}[c.ends]; len(a.stays) != want {
			t.Errorf("%s: %d are kept", what, len(a.stays))
		}
		late := 0
		a.whileStill(id, func() { late++ })
		if late != ended {
			t.Errorf("%s: what begins afterwards is ended %d times", what, late)
		}
	}
}

// Who gets the name of a user that was deleted does not get that one's sessions, nor the other way round.
func TestAUserOfTheSameNameIsAnother(t *testing.T) {
	t.Parallel()
	a, _, now := twins(t)
	if _, err := a.putUser("ana", "operator", "correct horse"); err != nil {
		t.Fatal(err)
	}
	cookie, _ := a.seal(a.byName("ana"))
	if err := a.deleteUser("ana"); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Second)
	if _, err := a.putUser("ana", "operator", "battery staple"); err != nil {
		t.Fatal(err)
	}
	if id, ok := a.unseal(cookie); ok {
		t.Errorf("the session of the one before: %+v", id)
	}
	if _, ok := a.login("ana", "battery staple"); !ok {
		t.Error("the new one can't log in")
	}
}
