package monitor

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// start makes a monitor over a directory, as its start does, and ends it again.
func start(t *testing.T, dir string) (link string) {
	t.Helper()
	m, err := New(Config{Listen: "127.0.0.1:0", DataDir: dir}, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	m.listener.Close()
	m.audit.close()
	return m.Link()
}

// A start prints a link when nobody can log in as an administrator, whoever else can: else there is no way back.
func TestAStartLetsAnAdministratorIn(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		then func(t *testing.T, a *accounts, first string)
		link bool
	}{
		"nothing happened":     {func(*testing.T, *accounts, string) {}, false},
		"its token is deleted": {func(t *testing.T, a *accounts, first string) { check(t, a.deleteToken(first)) }, true},
		"its token is deleted, others can look": {func(t *testing.T, a *accounts, first string) {
			put(t, a, "vera", "viewer")
			check(t, a.deleteToken(first))
		}, true},
		"its token is deleted, a user is one": {func(t *testing.T, a *accounts, first string) {
			put(t, a, "ana", "admin")
			check(t, a.deleteToken(first))
		}, false},
		"another token is one": {func(t *testing.T, a *accounts, first string) { another(t, a, 0); check(t, a.deleteToken(first)) }, false},
		"another token has run out": {func(t *testing.T, a *accounts, first string) {
			another(t, a, 1)
			check(t, a.deleteToken(first))
			for _, x := range a.data.Tokens {
				x.ExpiresMs = time.Now().Add(-time.Hour).UnixMilli()
			}
			check(t, a.save())
		}, true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if link := start(t, dir); !strings.Contains(link, "#token=omt_") {
				t.Fatalf("the first start prints %s", link)
			}
			a, err := openAccounts(dir, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			c.then(t, a, a.tokens()[0].ID)
			link := start(t, dir)
			if got := strings.Contains(link, "#token=omt_"); got != c.link {
				t.Fatalf("the second start prints %s", link)
			}
			if !c.link {
				return
			}
			if a, err = openAccounts(dir, time.Now); err != nil {
				t.Fatal(err)
			}
			_, secretText, _ := strings.Cut(link, "#token=")
			if id, ok := a.bearer(secretText); !ok || id.role != RoleAdmin {
				t.Errorf("the link lets in %+v", id)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, a *accounts, name, role string) {
	t.Helper()
	a.cost = bcrypt.MinCost
	_, err := a.putUser(name, role, "correct horse")
	check(t, err)
}

func another(t *testing.T, a *accounts, ttl int64) {
	t.Helper()
	_, _, err := a.newToken("another", "admin", "user", ttl)
	check(t, err)
}

// A monitor that was killed, or whose disk was full, while it wrote into the audit log leaves half a line. What is written next stands on a line of its own.
func TestTheAuditLogGoesOnAfterHalfALine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	a, err := openAudit(dir, log)
	check(t, err)
	check(t, a.add(auditEntry{Action: "first"}))
	a.close()
	path := filepath.Join(dir, "audit.jsonl")
	b, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(path, append(b, b[:len(b)/2]...), 0o600))
	if a, err = openAudit(dir, log); err != nil {
		t.Fatal(err)
	}
	check(t, a.add(auditEntry{Action: "second"}))
	a.close()
	if a, err = openAudit(dir, log); err != nil {
		t.Fatal(err)
	}
	defer a.close()
	list := a.before(0, 10)
	if len(list) != 2 || list[0].Action != "second" || list[0].Seq != 2 || list[1].Action != "first" {
		t.Errorf("entries %+v", list)
	}
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	good := 0
	for line := range strings.Lines(string(b)) {
		if json.Valid([]byte(line)) {
			good++
		}
	}
	if good != 2 {
		t.Errorf("%d good lines: %s", good, b)
	}
}

// A full file is set aside. When it has been already, and the new one could not be begun then (no descriptor was free), it is begun later.
func TestTheAuditLogIsBegunAnewWhenItCan(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, err := openAudit(dir, slog.New(slog.DiscardHandler))
	check(t, err)
	defer a.close()
	path := filepath.Join(dir, "audit.jsonl")
	check(t, a.add(auditEntry{Action: "old"}))
	check(t, os.Rename(path, path+".1"))
	a.size = auditFileMax + 1
	check(t, a.add(auditEntry{Action: "new"}))
	for name, want := range map[string]string{path: "new", path + ".1": "old"} {
		if b, err := os.ReadFile(name); err != nil || strings.Count(string(b), "\n") != 1 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s %v", name, b, err)
		}
	}
}

// Whoever may not log in can't fill the audit log, nor keep the monitor from starting again, by what they say their name is.
func TestALongNameIsNoHarm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := New(Config{Listen: "127.0.0.1:0", DataDir: dir}, Deps{Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	m.listener.Close()
	name, err := json.Marshal(strings.Repeat("\x1b", 160_000))
	check(t, err)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://monitor:4040/api/v1/login", strings.NewReader(`{"password":"x","user":`+string(name)+`}`))
	if got := answer(m.handler, r); got != http.StatusUnauthorized {
		t.Fatalf("answered %d", got)
	}
	check(t, m.audit.add(auditEntry{Action: "control." + strings.Repeat("\x1b[2J", 100_000), Role: "none"}))
	m.audit.close()
	path := filepath.Join(dir, "audit.jsonl")
	b, err := os.ReadFile(path)
	check(t, err)
	if len(b) > 8<<10 || strings.Contains(string(b), `\u001b`) {
		t.Errorf("the audit log is %d bytes: %.300s", len(b), b)
	}
	// One that is there already, of an earlier version, is passed over.
	check(t, os.WriteFile(path, append(append([]byte(`{"seq":7,"user":"`), append([]byte(strings.Repeat("x", 3<<20)), "\"}\n"...)...), b...), 0o600))
	a, err := openAudit(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if list := a.before(0, 10); len(list) != 2 || list[1].Action != "login" || list[1].Outcome != "denied" {
		t.Errorf("%d entries", len(list))
	}
}
