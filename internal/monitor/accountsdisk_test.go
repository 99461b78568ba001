package monitor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// When the disk takes nothing, what was to be made or changed is as it was, also after the disk is well again; what was deleted lets nobody in, though the
// file still has it and the answer says so.
func TestAccountsOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	check(t, os.Mkdir(dir, 0o700))
	a, err := openAccounts(dir, time.Now)
	check(t, err)
	put(t, a, "ana", "admin")
	put(t, a, "bob", "viewer")
	shown, secretText, err := a.newToken("old", "admin", "user", 0)
	check(t, err)
	ana := a.byName("ana")
	view, err := a.putSaved("", ana, Saved{Name: "hot", View: "containers", Options: json.RawMessage("{}")})
	check(t, err)
	type all struct {
		Users  []user
		Tokens []token
		Saved  []Saved
	}
	have := func(a *accounts) all { return all{a.users(), a.tokens(), a.saved("ana")} }
	before := have(a)
	cookie, _ := a.seal(a.byName("bob"))
	// What stands for a full disk: there is no directory to write to.
	check(t, os.Rename(dir, dir+".away"))
	for what, f := range map[string]func() error{
		"a new user":     func() error { _, err := a.putUser("eve", "admin", "correct horse"); return err },
		"a changed user": func() error { _, err := a.putUser("bob", "admin", "battery staple"); return err },
		"a new token":    func() error { _, _, err := a.newToken("new", "admin", "user", 0); return err },
		"a new view": func() error {
			_, err := a.putSaved("", ana, Saved{Name: "new", View: "hosts", Options: json.RawMessage("{}")})
			return err
		},
		"a changed view": func() error {
			_, err := a.putSaved(view.ID, ana, Saved{Name: "cold", View: "hosts", Options: json.RawMessage("{}")})
			return err
		},
		"a view that goes": func() error { return a.deleteSaved(view.ID, ana) },
	} {
		if err := f(); err == nil {
			t.Errorf("%s is said to be kept", what)
		}
	}
	if d := cmp.Diff(before, have(a)); d != "" {
		t.Errorf("something has changed: %s", d)
	}
	if _, ok := a.unseal(cookie); !ok {
		t.Error("who was not changed is logged out")
	}
	if _, ok := a.login("bob", "correct horse"); !ok {
		t.Error("the old password does not let in")
	}
	if a.deleteToken(shown.ID) == nil || a.deleteUser("bob") == nil {
		t.Error("a deletion is said to be kept")
	}
	if _, ok := a.bearer(secretText); ok {
		t.Error("a token that was deleted lets in")
	}
	if _, ok := a.unseal(cookie); ok {
		t.Error("a user that was deleted is let in")
	}
	check(t, os.Rename(dir+".away", dir))
	put(t, a, "ana", "admin") // the next that is kept keeps all
	again, err := openAccounts(dir, time.Now)
	check(t, err)
	if d := cmp.Diff(have(a), have(again)); d != "" {
		t.Errorf("in the file: %s", d)
	}
}
