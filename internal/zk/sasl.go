package zk

import (
	"crypto/md5" //nolint:gosec // DIGEST-MD5 is defined by it
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/orchestrator/orchestrator/internal/zk/jute"
)

// SASLDigest authenticates a connection by SASL DIGEST-MD5 (RFC 2831), as servers with a DigestLoginModule want it.
type SASLDigest struct {
	Username, Password string
}

// The service and host that ZooKeeper's servers use in digest-uri, whatever their names are.
const saslURI = "zookeeper/zk-sasl-md5"

const (
	saslIdle = iota
	saslAsked
	saslAnswered
)

// startSASL begins the exchange with an empty token; requests wait until it is done.
func (c *core) startSASL(to State) {
	c.saslStep = saslAsked
	c.sendSASL([]byte{}, to)
}

func (c *core) sendSASL(token []byte, to State) {
	c.xid++
	if c.xid <= 0 {
		c.xid = 1
	}
	cl := &call{xid: c.xid, sent: c.lastSent, op: Op{Code: OpSASL}}
	cl.internal = func(d *jute.Decoder, code Error) ([]byte, error) {
		if code != 0 {
			return nil, code
		}
		challenge := d.Buffer()
		if d.Err() != nil {
			return nil, errProtocol("sasl answer: " + d.Err().Error())
		}
		if c.saslStep == saslAnswered {
			c.saslStep = saslIdle
			c.wantPrime = to
			return nil, nil
		}
		answer, err := c.sasl.respond(string(challenge), c.nonce())
		if err != nil {
			return nil, err
		}
		c.saslStep = saslAnswered
		c.sendSASL(answer, to)
		return []byte{}, nil
	}
	c.inflight = append(c.inflight, cl)
	c.urgent = c.appendFrame(c.urgent, c.xid, OpSASL, func(b []byte) []byte { return jute.AppendBuffer(b, token) })
}

func (c *core) saslDone(out []delivery) []delivery { return c.prime(c.wantPrime, out) }

func (c *core) saslFailed(err error, out []delivery) ([]delivery, error) {
	out = c.failAll(ErrAuthFailed, out)
	return c.setState(StateAuthFailed, out), fmt.Errorf("%w: SASL DIGEST-MD5: %w", ErrAuthFailed, err)
}

// respond computes the client's answer to the server's challenge, for qop=auth.
func (s *SASLDigest) respond(challenge, cnonce string) ([]byte, error) {
	ch := parseDirectives(challenge)
	nonce := ch["nonce"]
	if nonce == "" {
		return nil, errProtocol("sasl challenge has no nonce; is the server's mechanism DIGEST-MD5?")
	}
	if q := ch["qop"]; q != "" && !containsToken(q, "auth") {
		return nil, errProtocol("sasl challenge asks for " + q + "; only auth is spoken")
	}
	realm := ch["realm"]
	h := func(s string) string { sum := md5.Sum([]byte(s)); return string(sum[:]) } //nolint:gosec // see the import
	hx := func(s string) string { return hex.EncodeToString([]byte(h(s))) }
	const nc = "00000001"
	a1 := h(s.Username+":"+realm+":"+s.Password) + ":" + nonce + ":" + cnonce
	response := hx(hx(a1) + ":" + nonce + ":" + nc + ":" + cnonce + ":auth:" + hx("AUTHENTICATE:"+saslURI))
	q := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	out := "charset=utf-8,username=" + q(s.Username) + ",realm=" + q(realm) + ",nonce=" + q(nonce) + ",nc=" + nc +
		",cnonce=" + q(cnonce) + ",digest-uri=" + q(saslURI) + ",maxbuf=65536,response=" + response + ",qop=auth"
	return []byte(out), nil
}

func containsToken(list, token string) bool {
	for f := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(f) == token {
			return true
		}
	}
	return false
}

// parseDirectives reads key=value and key="value" pairs separated by commas.
func parseDirectives(s string) map[string]string {
	m := map[string]string{}
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		key = strings.Trim(strings.ToLower(key), " ,\t")
		var val strings.Builder
		if strings.HasPrefix(rest, `"`) {
			rest = rest[1:]
			for len(rest) > 0 && rest[0] != '"' {
				if rest[0] == '\\' && len(rest) > 1 {
					rest = rest[1:]
				}
				val.WriteByte(rest[0])
				rest = rest[1:]
			}
			rest = strings.TrimPrefix(rest, `"`)
			_, rest, _ = strings.Cut(rest, ",")
		} else {
			var v string
			v, rest, _ = strings.Cut(rest, ",")
			val.WriteString(strings.TrimSpace(v))
		}
		m[key] = val.String()
		s = rest
	}
	return m
}
