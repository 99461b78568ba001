package monitor

import (
	"maps"
	"net/http"
	"time"
)

// A browser keeps a session's cookie for the host that set it, and rightly sends it to no other. So that a page whose monitor is
// gone can go on with a replica, it asks its monitor, while that lives, for a hand-over every few minutes: the session's own
// content, signed with the key that the replicas share, under a name that no cookie can be mistaken for. The page keeps it in
// memory, and takes it along in the fragment of the address when it goes to the replica, which no server and no log sees. There
// it is worth one session, with the same user, role and end as the one it was made of.

// handover is what such a text holds.
type handover struct {
	Session session `json:"s"`
	ID      string  `json:"i"`
	Until   int64   `json:"u"` // ms
}

const (
	handoverLife = 10 * time.Minute
	// maxSpent bounds how many taken ones are remembered at a time. Beyond it none is taken until some have run out.
	maxSpent = 10_000
)

// handOver writes a session down for a replica.
func (a *accounts) handOver(id identity) (text string, until int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	until = min(a.now().Add(handoverLife).UnixMilli(), id.expMs)
	s := session{Name: id.name, Role: id.role.String(), Epoch: id.epoch, Token: id.token, Until: id.expMs, CSRF: id.csrf} // and so it is void here when the session is logged out of
	return a.signed("handover", handover{s, secret(""), until}), until
}

// takeOver tells whose session was handed over. It is told once.
func (a *accounts) takeOver(text string) (identity, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now().UnixMilli()
	maps.DeleteFunc(a.spent, func(_ string, until int64) bool { return until < now })
	var h handover
	if !a.read("handover", text, &h) || h.Until < now || len(a.spent) >= maxSpent {
		return identity{}, false
	}
	if _, taken := a.spent[h.ID]; taken {
		return identity{}, false
	}
	id, ok := a.stands(h.Session)
	if ok {
		a.spent[h.ID] = h.Until
	}
	return id, ok
}

func (m *Monitor) handOver(w http.ResponseWriter, _ *http.Request, id identity) error {
	if !id.cookie || id.expMs == 0 {
		return fail("conflict", "there is no session to hand over", "only who has logged in with a browser needs it")
	}
	text, until := m.accounts.handOver(id)
	writeJSON(w, http.StatusOK, map[string]any{"handover": text, "expires_ms": until})
	return nil
}
