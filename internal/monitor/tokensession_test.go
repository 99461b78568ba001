package monitor

import (
	"testing"
	"time"
)

// A session that was begun with a token ends with it: when it is deleted, when it runs out, when it may do less. It does so at every monitor that took it
// over, and at one that does not know the token it never begins.
func TestASessionEndsWithItsToken(t *testing.T) {
	t.Parallel()
	begin := func(a *accounts, secretText string) (cookie string, s session) {
		t.Helper()
		id, ok := a.bearer(secretText)
		if !ok {
			t.Fatal("the token is not known")
		}
		return a.seal(id)
	}
	stands := func(a *accounts, cookie string) bool {
		_, ok := a.unseal(cookie)
		return ok
	}
	one, two, now := twins(t)
	for what, end := range map[string]func(a *accounts, tok *token){
		"deleted": func(a *accounts, tok *token) {
			if err := a.deleteToken(tok.ID); err != nil {
				t.Fatal(err)
			}
		},
		"may do less": func(a *accounts, tok *token) { tok.Role = "viewer" },
		"has run out": func(a *accounts, tok *token) { tok.ExpiresMs = a.now().UnixMilli() - 1 },
	} {
		shown, secretText, err := one.newToken("robot", "admin", "user", 0)
		if err != nil {
			t.Fatal(err)
		}
		cookie, _ := begin(one, secretText)
		id, ok := one.unseal(cookie)
		if !ok || id.role != RoleAdmin || id.name != "token:robot" {
			t.Fatalf("%s: %+v %v", what, id, ok)
		}
		early, _ := one.handOver(id)
		if id, ok := two.takeOver(early); ok {
			t.Errorf("%s: a monitor that does not know the token takes its session: %+v", what, id)
		}
		known := *one.data.Tokens[shown.ID]
		two.data.Tokens[shown.ID] = &known
		again, ok := two.takeOver(early)
		if !ok {
			t.Fatalf("%s: the session is not taken over", what)
		}
		there, _ := two.seal(again)
		onward, _ := two.handOver(begun(t, two, again))
		late, _ := one.handOver(id)
		end(one, one.data.Tokens[shown.ID])
		end(two, two.data.Tokens[shown.ID])
		if stands(one, cookie) || stands(two, there) {
			t.Errorf("%s: its session goes on", what)
		}
		for _, text := range []string{late, onward} {
			for _, a := range []*accounts{one, two} {
				if id, ok := a.takeOver(text); ok {
					t.Errorf("%s: its session is taken over: %+v", what, id)
				}
			}
		}
	}
	// One that will run out within the life of a session: that says so from the beginning.
	_, secretText, err := one.newToken("brief", "viewer", "user", 600)
	if err != nil {
		t.Fatal(err)
	}
	cookie, s := begin(one, secretText)
	if want := now.Add(10 * time.Minute).UnixMilli(); s.Until != want {
		t.Errorf("until %d, the token until %d", s.Until, want)
	}
	*now = now.Add(10*time.Minute + time.Second)
	if stands(one, cookie) {
		t.Error("a session outlives its token")
	}
	// One that will not: a session of the usual length.
	_, secretText, err = one.newToken("lasting", "viewer", "user", 365*86400)
	if err != nil {
		t.Fatal(err)
	}
	if _, s = begin(one, secretText); s.Until != now.Add(sessionLife).UnixMilli() {
		t.Errorf("until %d", s.Until)
	}
}
