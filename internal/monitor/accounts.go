package monitor

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Role says what somebody may do. A higher one may do all that a lower one may.
type Role int

// The roles.
const (
	RoleNone Role = iota
	RoleViewer
	RoleOperator
	RoleAdmin
)

var roleNames = []string{"none", "viewer", "operator", "admin"}

func (r Role) String() string { return roleNames[r] }

func parseRole(s string) (Role, error) {
	if i := slices.Index(roleNames, s); i > 0 {
		return Role(i), nil
	}
	return RoleNone, fail("bad_request", fmt.Sprintf("role %q is none of viewer, operator, admin", s), "")
}

type user struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	CreatedMs int64  `json:"created_ms"`
	Hash      string `json:"hash,omitempty"`
	// Epoch grows with every change: sessions of before are void.
	Epoch int `json:"epoch,omitempty"`
}

type token struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Role      string `json:"role"`
	Kind      string `json:"kind"` // user or probe
	CreatedMs int64  `json:"created_ms"`
	ExpiresMs int64  `json:"expires_ms"`
	Hash      string `json:"hash,omitempty"` // SHA-256 of the secret, which has 256 random bits of its own
}

// over reports whether its time is over.
func (t *token) over(now time.Time) bool {
	return t.ExpiresMs > 0 && t.ExpiresMs < now.UnixMilli()
}

// Saved is a view that somebody keeps.
type Saved struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Owner     string          `json:"owner"`
	Shared    bool            `json:"shared"`
	View      string          `json:"view"`
	Options   json.RawMessage `json:"options"`
	CreatedMs int64           `json:"created_ms"`
	UpdatedMs int64           `json:"updated_ms"`
}

// accounts keeps users, tokens, saved views and the key of sessions, in one file that is replaced whole.
type accounts struct {
	path string // "" keeps it in memory
	now  func() time.Time
	cost int // of a password's hash: bcrypt's own, but in tests

	mu   sync.Mutex
	data struct {
		Key    []byte            `json:"key"`
		Users  map[string]*user  `json:"users"`
		Tokens map[string]*token `json:"tokens"`
		Saved  map[string]*Saved `json:"saved"`
		Ended  map[string]int64  `json:"ended,omitempty"` // sessions that were logged out of, by the hash of their CSRF token, and when their time would be over, ms
	}
	fixed map[string]identity // hash of a secret from the configuration to who it is
	tries map[string][]int64  // failed logins by address, ms
	spent map[string]int64    // handed over sessions that were taken, and until when they would be valid, ms
	// stays are what goes on for as long as somebody may, such as open sockets: they end with the user, token or session.
	stays map[*stay]struct{}
	// nobody gives a hash that makes an unknown name take as long as a wrong password. It is made when it is first needed: it takes
	// long by design, and a monitor that was started again has probes waiting.
	nobody func() []byte
}

// Limits of what is kept.
const (
	maxUsers    = 1000
	maxTokens   = 5000
	maxSaved    = 200 // per owner
	sessionLife = 12 * time.Hour
	maxTries    = 10
	tryWindow   = time.Minute
)

// identity is who makes a request.
type identity struct {
	name   string
	role   Role
	probe  bool
	token  string // the id of the one by which it came, "" for others
	epoch  int    // of the user that it is, 0 for others
	cookie bool   // by a session cookie: changes need the CSRF token
	csrf   string
	expMs  int64
}

func openAccounts(dir string, now func() time.Time) (*accounts, error) {
	a := &accounts{now: now, cost: bcrypt.DefaultCost, fixed: map[string]identity{}, tries: map[string][]int64{}, spent: map[string]int64{}, stays: map[*stay]struct{}{}}
	a.data.Users, a.data.Tokens, a.data.Saved = map[string]*user{}, map[string]*token{}, map[string]*Saved{}
	a.nobody = sync.OnceValue(func() []byte {
		hash, err := bcrypt.GenerateFromPassword([]byte(secret("")[:32]), a.cost)
		if err != nil {
			panic(err) // constant cost and length
		}
		return hash
	})
	if dir != "" {
		a.path = filepath.Join(dir, "accounts.json")
		b, err := os.ReadFile(a.path)
		if err == nil {
			err = json.Unmarshal(b, &a.data)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read accounts (move %s away to begin anew): %w", a.path, err)
		}
	}
	if len(a.data.Key) < 32 {
		a.data.Key = make([]byte, 32)
		_, _ = rand.Read(a.data.Key)
		if err := a.save(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// save writes the file: new beside old, then in its place. The caller holds the lock, or is the only one.
func (a *accounts) save() error {
	if a.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(&a.data, "", " ")
	if err != nil {
		return err
	}
	return replaceFile(a.path, b)
}

// replaceFile puts new content in a file's place so that either is there whole, whatever happens.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		_ = d.Sync()
		d.Close()
	}
	return nil
}

func secret(prefix string) string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

func hashSecret(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// fix accepts a secret from the configuration.
func (a *accounts) fix(s string, id identity) {
	if s != "" {
		a.fixed[hashSecret(s)] = id
	}
}

// bearer finds who a token belongs to. Tokens are looked up by hash, so the time it takes tells nothing about them.
func (a *accounts) bearer(s string) (identity, bool) {
	h := hashSecret(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	if id, ok := a.fixed[h]; ok {
		return id, true
	}
	for _, t := range a.data.Tokens {
		if subtle.ConstantTimeCompare([]byte(t.Hash), []byte(h)) != 1 {
			continue
		}
		if t.over(a.now()) {
			return identity{}, false
		}
		role, _ := parseRole(t.Role)
		return identity{name: "token:" + t.Name, role: role, probe: t.Kind == "probe", token: t.ID, expMs: t.ExpiresMs}, true
	}
	return identity{}, false
}

// attempt notes that an address tries to be somebody, and refuses one that has failed too often; what is under way counts as failed until taken
// back. Passwords and tokens are counted apart.
func (a *accounts) attempt(what, addr string) (takeBack func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key, now := what+" "+addr, a.now()
	since := now.Add(-tryWindow).UnixMilli()
	list := slices.DeleteFunc(a.tries[key], func(at int64) bool { return at < since })
	if len(list) >= maxTries {
		a.tries[key] = list
		return nil, &apiError{Code: "too_many", Message: "too many failed logins from this address", Hint: "wait a minute", retry: 60}
	}
	if len(a.tries) > 10_000 {
		clear(a.tries)
	}
	at := now.UnixMilli()
	a.tries[key] = append(list, at)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		list := a.tries[key]
		if i := slices.Index(list, at); i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
		if len(list) == 0 {
			delete(a.tries, key)
		} else {
			a.tries[key] = list
		}
	}, nil
}

// login checks a password.
func (a *accounts) login(name, password string) (identity, bool) {
	nobody := a.nobody()
	a.mu.Lock()
	u := a.data.Users[name]
	hash, epoch := nobody, 0
	if u != nil {
		hash, epoch = []byte(u.Hash), u.Epoch
	}
	a.mu.Unlock()
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	if u == nil || err != nil {
		return identity{}, false
	}
	role, _ := parseRole(u.Role)
	return identity{name: u.Name, role: role, epoch: epoch}, true
}

var reName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

func (a *accounts) putUser(name, role, password string) (user, error) {
	if !reName.MatchString(name) {
		return user{}, fail("bad_request", "a user's name is 1 to 64 letters, digits or ._@-", "")
	}
	if name == "link" { // whose sessions are not looked up among the users
		return user{}, fail("bad_request", "link is the name of whoever came by the link of the first start", "choose another")
	}
	if _, err := parseRole(role); err != nil {
		return user{}, err
	}
	if password != "" && (len(password) < 8 || len(password) > 72) {
		return user{}, fail("bad_request", "a password has 8 to 72 bytes", "")
	}
	hash := ""
	if password != "" {
		b, err := bcrypt.GenerateFromPassword([]byte(password), a.cost)
		if err != nil {
			return user{}, err
		}
		hash = string(b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.data.Users[name]
	var u user
	if was == nil {
		if hash == "" {
			return user{}, fail("bad_request", "a new user needs a password", "")
		}
		if len(a.data.Users) >= maxUsers {
			return user{}, fail("too_many", "there are too many users", "")
		}
		// Not from the beginning again: one of the same name may have been before.
		u = user{Name: name, CreatedMs: a.now().UnixMilli(), Epoch: int(a.now().UnixMilli())}
	} else if u = *was; u.Role == "admin" && role != "admin" && a.admins() == 1 {
		return user{}, fail("conflict", "this is the last admin", "make another one first")
	}
	u.Role = role
	u.Epoch++
	if hash != "" {
		u.Hash = hash
	}
	if err := keep(a, a.data.Users, name, &u); err != nil {
		return user{}, err
	}
	a.endStays()
	shown := u
	shown.Hash, shown.Epoch = "", 0
	return shown, nil
}

// keep puts something into one of the tables and writes the file. When that fails the table is as before. The caller holds the lock.
func keep[T any](a *accounts, table map[string]*T, id string, v *T) error {
	was, there := table[id]
	table[id] = v
	err := a.save()
	switch {
	case err == nil:
	case there:
		table[id] = was
	default:
		delete(table, id)
	}
	return err
}

func (a *accounts) admins() (n int) {
	for _, u := range a.data.Users {
		if u.Role == "admin" {
			n++
		}
	}
	return n
}

// hasAdmin reports whether anybody can log in as an administrator.
func (a *accounts) hasAdmin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.data.Tokens {
		if t.Kind == "user" && t.Role == "admin" && !t.over(a.now()) {
			return true
		}
	}
	return a.admins() > 0
}

func (a *accounts) deleteUser(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.data.Users[name]
	switch {
	case u == nil:
		return fail("not_found", "no such user", "")
	case u.Role == "admin" && a.admins() == 1:
		return fail("conflict", "this is the last admin", "make another one first")
	}
	delete(a.data.Users, name) // also when that can't be kept: who is not wanted any more is not let in meanwhile
	a.endStays()
	return a.save()
}

func (a *accounts) users() []user {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []user{}
	for _, u := range a.data.Users {
		shown := *u
		shown.Hash, shown.Epoch = "", 0
		out = append(out, shown)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (a *accounts) newToken(name, role, kind string, ttl int64) (token, string, error) {
	if !reName.MatchString(name) {
		return token{}, "", fail("bad_request", "a token's name is 1 to 64 letters, digits or ._@-", "")
	}
	switch kind {
	case "", "user":
		kind = "user"
		if _, err := parseRole(role); err != nil {
			return token{}, "", err
		}
	case "probe":
		role = "none"
	default:
		return token{}, "", fail("bad_request", fmt.Sprintf("kind %q is neither user nor probe", kind), "")
	}
	if ttl < 0 || ttl > 10*365*86400 {
		return token{}, "", fail("bad_request", "ttl_seconds is not between 0 and ten years", "")
	}
	s := secret("omt_")
	t := &token{ID: secret("t-")[:14], Name: name, Role: role, Kind: kind, CreatedMs: a.now().UnixMilli(), Hash: hashSecret(s)}
	if ttl > 0 {
		t.ExpiresMs = t.CreatedMs + ttl*1000
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.data.Tokens) >= maxTokens {
		return token{}, "", fail("too_many", "there are too many tokens", "delete some")
	}
	if err := keep(a, a.data.Tokens, t.ID, t); err != nil {
		return token{}, "", err
	}
	shown := *t
	shown.Hash = ""
	return shown, s, nil
}

func (a *accounts) deleteToken(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.data.Tokens[id] == nil {
		return fail("not_found", "no such token", "")
	}
	delete(a.data.Tokens, id)
	a.endStays()
	return a.save()
}

func (a *accounts) tokens() []token {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []token{}
	for _, t := range a.data.Tokens {
		shown := *t
		shown.Hash = ""
		out = append(out, shown)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].CreatedMs < out[j].CreatedMs || out[i].CreatedMs == out[j].CreatedMs && out[i].ID < out[j].ID
	})
	return out
}

// saved lists the views that somebody may see.
func (a *accounts) saved(name string) []Saved {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []Saved{}
	for _, s := range a.data.Saved {
		if s.Shared || s.Owner == name {
			out = append(out, *s)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Name < out[j].Name || out[i].Name == out[j].Name && out[i].ID < out[j].ID
	})
	return out
}

// putSaved makes (id "") or changes a saved view.
func (a *accounts) putSaved(id string, who identity, in Saved) (Saved, error) {
	if in.Name == "" || len(in.Name) > 200 || len(in.Options) > 16<<10 {
		return Saved{}, fail("bad_request", "a saved view needs a name of at most 200 bytes and options of at most 16 KB", "")
	}
	if in.Shared && who.role < RoleOperator {
		return Saved{}, fail("forbidden", "viewers save for themselves; operators may share", "")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now().UnixMilli()
	was := a.data.Saved[id]
	var s Saved
	switch {
	case id == "":
		n := 0
		for _, x := range a.data.Saved {
			if x.Owner == who.name {
				n++
			}
		}
		if n >= maxSaved {
			return Saved{}, fail("too_many", fmt.Sprintf("at most %d saved views", maxSaved), "delete some")
		}
		s = Saved{ID: secret("s-")[:12], Owner: who.name, CreatedMs: now}
	case was == nil || !was.Shared && was.Owner != who.name && who.role < RoleAdmin:
		return Saved{}, fail("not_found", "no such saved view", "")
	case was.Owner != who.name && who.role < RoleAdmin:
		return Saved{}, fail("forbidden", "only its owner and admins change a saved view", "")
	default:
		s = *was
	}
	s.Name, s.Shared, s.View, s.Options, s.UpdatedMs = in.Name, in.Shared, in.View, in.Options, now
	return s, keep(a, a.data.Saved, s.ID, &s)
}

func (a *accounts) deleteSaved(id string, who identity) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.data.Saved[id]
	if s == nil || !s.Shared && s.Owner != who.name && who.role < RoleAdmin {
		return fail("not_found", "no such saved view", "")
	}
	if s.Owner != who.name && who.role < RoleAdmin {
		return fail("forbidden", "only its owner and admins delete a saved view", "")
	}
	delete(a.data.Saved, id)
	err := a.save()
	if err != nil {
		a.data.Saved[id] = s
	}
	return err
}
