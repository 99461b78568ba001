package marathon

import (
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"syscall"
	"time"
)

// viaHeader names the processes that a request went through.
const viaHeader = "X-Marathon-Via"

// How long a standby waits until a leader is known.
const (
	leaderTries = 10
	leaderPause = 250 * time.Millisecond
)

// handler serves requests here while this process leads, and passes them on to the leader otherwise.
func (m *Marathon) handler() http.Handler {
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: time.Duration(m.cfg.LeaderConnect) * time.Millisecond}).DialContext,
		ResponseHeaderTimeout: time.Duration(m.cfg.LeaderRead) * time.Millisecond, MaxConnsPerHost: 64, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
	}
	if m.deps.Dial != nil {
		transport.DialContext = m.deps.Dial
	}
	if m.scheme == "https" {
		transport.TLSClientConfig = m.cert.clientTLS()
	}
	me := "1.1 " + m.address
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.current.Load() != nil || r.URL.Path == "/" {
			m.api.ServeHTTP(w, r)
			return
		}
		refuse := func(status int, text string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"message":"` + text + `"}`))
		}
		for _, v := range r.Header.Values(viaHeader) {
			for part := range strings.SplitSeq(v, ",") {
				if strings.TrimSpace(part) == me {
					refuse(http.StatusBadGateway, "Detected proxying loop.")
					return
				}
			}
		}
		leader := m.Leader()
		for i := 0; leader == "" || leader == m.address && m.current.Load() == nil; i++ {
			if i == leaderTries {
				refuse(http.StatusBadGateway, "Could not determine the current leader")
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(leaderPause):
			}
			leader = m.Leader()
		}
		if m.current.Load() != nil {
			m.api.ServeHTTP(w, r)
			return
		}
		if strings.TrimSuffix(r.URL.Path, "/") == "/v2/events" {
			u := *r.URL
			u.Scheme, u.Host = m.scheme, leader
			http.Redirect(w, r, u.String(), http.StatusFound)
			return
		}
		proxy := httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL.Scheme, p.Out.URL.Host = m.scheme, leader
				p.Out.Host = p.In.Host
				p.SetXForwarded()
				p.Out.Header.Add(viaHeader, me)
			},
			Transport: transport,
			ModifyResponse: func(resp *http.Response) error {
				resp.Header.Add(viaHeader, me)
				return nil
			},
			ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
				if errors.Is(err, syscall.ECONNREFUSED) {
					refuse(http.StatusBadGateway, "Connection to leader refused.")
					return
				}
				refuse(http.StatusInternalServerError, "Failed to connect to the leader.")
			},
		}
		proxy.ServeHTTP(w, r)
	})
}
