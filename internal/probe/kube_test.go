package probe

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orchestrator/orchestrator/internal/probe/kubetest"
)

// sessionAPI is the client of an account of a session, which reads its token anew for every request, as a pod does.
func sessionAPI(t *testing.T, s *kubetest.Session, account string) *kubeAPI {
	t.Helper()
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(s.CA)
	api, err := newKubeAPI(s.URL, conf, func() (string, error) { return s.Token(account), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.http.CloseIdleConnections)
	return api
}

// sessionWatch watches some kinds until the test ends.
func sessionWatch(t *testing.T, s *kubetest.Session, watchFor time.Duration, kinds ...string) *kubeWatch {
	t.Helper()
	api := sessionAPI(t, s, "probe")
	api.watchFor = watchFor
	return watchKinds(t, api, kinds...)
}

// troubled tells of a kind that its trouble is known.
func (k *kubeWatch) troubled(kind string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble[kind] != ""
}

func watchKinds(t *testing.T, api *kubeAPI, kinds ...string) *kubeWatch {
	k := &kubeWatch{api: api, changed: make(chan struct{}, 1), poke: func() {}}
	for _, kind := range kubeKinds() {
		if slices.Contains(kinds, kind.name) {
			k.kinds = append(k.kinds, kind)
		}
	}
	k.reset()
	done, stop := make(chan struct{}), t.Context()
	go func() { k.run(stop); close(done) }()
	t.Cleanup(func() { <-done })
	return k
}

func (k *kubeWatch) says() string { s := *k.state.Load(); return s.state + ": " + s.message }

func (k *kubeWatch) has(id string) bool {
	for _, e := range *k.entities.Load() {
		if e.Id == id {
			return true
		}
	}
	return false
}

// wait waits for a condition, with a deadline that only a broken build reaches.
func (k *kubeWatch) wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for: %s; the last word was %q", what, k.says())
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

const (
	documentation = "../../docs/monitoring.md"
	kubeServices  = "/api/v1/services"
	ownServices   = "/api/v1/namespaces/default/services"
)

func makeService(c *kubetest.Cluster, name string) {
	c.Make(ownServices, `{"metadata":{"name":"`+name+`"},"spec":{"selector":{"app":"`+name+`"},"ports":[{"port":80}]}}`)
}

func TestKubeListsComeInPages(t *testing.T) {
	t.Parallel()
	const many = kubePage + 10
	plan := kubetest.Plan{Name: "pages", Rules: kubetest.Documented(t, documentation), Prepare: func(c *kubetest.Cluster) {
		for i := range many {
			c.Make("/api/v1/namespaces", fmt.Sprintf(`{"metadata":{"name":"many-%d"}}`, i))
		}
	}}
	plan.Run(t, func(t *testing.T, s *kubetest.Session) {
		api := sessionAPI(t, s, "probe")
		list := func() (names map[string]bool, version string, err error) {
			names = map[string]bool{}
			version, err = api.list(t.Context(), "/api/v1/namespaces", true, func(raw json.RawMessage) error {
				o, err := decodeKube(raw)
				if err == nil {
					if names[o.Metadata.Name] {
						t.Errorf("%s came twice", o.Metadata.Name)
					}
					names[o.Metadata.Name] = true
				}
				return err
			})
			return names, version, err
		}
		names, version, err := list()
		if err != nil || version == "" || !names["kube-system"] {
			t.Fatalf("%d objects, version %q: %v", len(names), version, err)
		}
		for i := range many {
			if !names[fmt.Sprintf("many-%d", i)] {
				t.Errorf("many-%d is missing", i)
			}
		}
		if n := s.Count("/api/v1/namespaces", false, "as=PartialObjectMetadataList"); n != 2 {
			t.Errorf("%d pages", n)
		}
		// Between two pages the server forgets the state of which the first one was.
		s.Step("history goes between pages", nil)
		s.Before(func(r *http.Request, c *kubetest.Cluster) {
			if r.URL.Query().Has("continue") {
				c.Make("/api/v1/namespaces", `{"metadata":{"name":"late"}}`)
				c.Compact()
				c.Restart(true)
			}
		})
		if _, _, err := list(); !errors.Is(err, errKubeGone) {
			t.Errorf("the rest of a list that is gone: %v", err)
		}
		s.Before(nil)
		s.Step("again", nil)
		if names, _, err := list(); err != nil || len(names) <= many || !names["late"] {
			t.Errorf("%d objects: %v", len(names), err)
		}
	})
}

func TestKubeWatchesGoOn(t *testing.T) {
	t.Parallel()
	plan := kubetest.Plan{Name: "watch", Rules: kubetest.Documented(t, documentation), Prepare: func(c *kubetest.Cluster) { makeService(c, "stays"); makeService(c, "goes") }}
	plan.Run(t, func(t *testing.T, s *kubetest.Session) {
		k := sessionWatch(t, s, 5*time.Second, "services", "namespaces")
		k.wait(t, "the first list", func() bool {
			return k.has("service;default;stays") && k.has("service;default;goes") && strings.HasPrefix(k.says(), "ok: ")
		})
		s.Step("changes", func(c *kubetest.Cluster) {
			c.Do("DELETE", ownServices+"/goes", "")
			makeService(c, "comes")
			c.Make("/api/v1/namespaces", `{"metadata":{"name":"fresh"}}`)
		})
		changed := func() bool {
			return k.has("service;default;comes") && !k.has("service;default;goes") && k.has("namespace;fresh")
		}
		k.wait(t, "the changes", changed)

		// The server ends a watch after the time that was asked for. It is taken up where it was.
		s.Step("time is up", nil)
		before := s.Count(kubeServices, true, "")
		k.wait(t, "two further watches", func() bool { return s.Count(kubeServices, true, "") >= before+2 })
		if n := s.Count(kubeServices, false, ""); n != 1 || !changed() || !strings.HasPrefix(k.says(), "ok: ") {
			t.Errorf("services were listed %d times; %s", n, k.says())
		}

		// The server is killed. One that has just started knows nobody's rights yet: what it refuses is asked again.
		s.Step("killed", func(c *kubetest.Cluster) { c.Restart(true); c.Do("DELETE", ownServices+"/comes", "") })
		k.wait(t, "the service that went", func() bool { return !k.has("service;default;comes") && k.has("service;default;stays") })
		k.wait(t, "an end of the trouble", func() bool { return strings.HasPrefix(k.says(), "ok: ") })

		// The network fails. When it is back the server remembers less than the watches do: what is gone is listed, without a word.
		lists := s.Count(kubeServices, false, "")
		s.Cut(true)
		s.Step("forgotten", func(c *kubetest.Cluster) {
			makeService(c, "unseen")
			for i := range 5 {
				c.Make("/api/v1/namespaces/default/configmaps", fmt.Sprintf(`{"metadata":{"name":"c%d"}}`, i))
			}
			c.Compact()
			c.Restart(true)
			c.Do("DELETE", ownServices+"/stays", "")
		})
		k.wait(t, "the network's trouble", func() bool { return strings.HasPrefix(k.says(), "failed: services: ask Kubernetes: ") })
		s.Cut(false)
		k.wait(t, "what went unseen", func() bool {
			if text := k.says(); strings.Contains(text, "too old") || strings.Contains(text, "history") {
				t.Fatal(text)
			}
			return k.has("service;default;unseen") && !k.has("service;default;stays") && strings.HasPrefix(k.says(), "ok: ")
		})
		if n := s.Count(kubeServices, false, ""); n != lists+1 {
			t.Errorf("services were listed %d times more", n-lists)
		}
	})
}

// fairness is what a version of the API server calls its objects of fairness.
func fairness(c *kubetest.Cluster) string {
	for _, v := range []string{"v1", "v1beta3", "v1beta1"} {
		if at := "/apis/flowcontrol.apiserver.k8s.io/" + v + "/"; c.Has(at + "flowschemas") {
			return at
		}
	}
	return ""
}

func TestKubeRefusalsAreSaidAndEnd(t *testing.T) {
	t.Parallel()
	rules := kubetest.Documented(t, documentation)
	few := []string{"--max-requests-inflight", "50", "--max-mutating-requests-inflight", "50"}
	plan := kubetest.Plan{Name: "refusals", Rules: rules, Flags: few, Prepare: func(c *kubetest.Cluster) { makeService(c, "stays") }}
	plan.Run(t, func(t *testing.T, s *kubetest.Session) {
		api := sessionAPI(t, s, "probe")
		api.watchFor = 5 * time.Second
		var onlyLists atomic.Pointer[kubeWatch] // set while services may be listed and not watched
		api.http.Transport = &before{api.http.Transport, func(r *http.Request) {
			if k := onlyLists.Load(); k != nil && r.URL.Path == kubeServices && r.URL.Query().Has("watch") && !k.troubled("services") {
				t.Error("a list took back that services can't be watched")
			}
		}}
		k := watchKinds(t, api, "services", "namespaces")
		fine := func() bool { return strings.HasPrefix(k.says(), "ok: ") }
		k.wait(t, "the first list", func() bool { return k.has("service;default;stays") && fine() })

		s.Step("the token is revoked", func(c *kubetest.Cluster) {
			c.Do("DELETE", "/api/v1/namespaces/default/serviceaccounts/probe", "")
			c.Allowed(s.Token("probe"), kubeServices, 401)
		})
		k.wait(t, "the refusal", func() bool { return k.says() == "failed: services: Unauthorized" })
		if !k.has("service;default;stays") {
			t.Error("what was known is gone")
		}
		s.Step("a new token", nil)
		s.Renew("probe")
		k.wait(t, "an end of the refusal", fine)

		s.Step("only lists are allowed", func(c *kubetest.Cluster) {
			c.Role("probe", `[{"apiGroups":[""],"resources":["services"],"verbs":["list"]},{"apiGroups":[""],"resources":["namespaces"],"verbs":["list","watch"]}]`)
			c.Allowed(s.Token("probe"), kubeServices+"?watch=1&timeoutSeconds=1", 403)
		})
		k.wait(t, "the refusal", func() bool {
			return k.says() == `degraded: services: services is forbidden: User "system:serviceaccount:default:probe" cannot watch resource "services" in API group "" at the cluster scope`
		})
		// Lists are asked for instead. That one succeeds is no end of what is wrong.
		onlyLists.Store(k)
		lists := s.Count(kubeServices, false, "")
		k.wait(t, "another list", func() bool { return s.Count(kubeServices, false, "") > lists })
		k.wait(t, "another refusal", func() bool { return s.Refused(kubeServices, true) > 1 })
		onlyLists.Store(nil)
		s.Step("all is allowed", func(c *kubetest.Cluster) {
			c.Role("probe", rules)
			c.Allowed(s.Token("probe"), kubeServices+"?watch=1&timeoutSeconds=1", 200)
		})
		k.wait(t, "an end of the refusal", fine)

		var end func()
		s.Step("too much is asked", func(c *kubetest.Cluster) {
			at := fairness(c)
			shares := "0"
			if strings.HasPrefix(c.Version, "v1.2") { // which want some, and make one request of it
				shares = "1"
			}
			c.Do("POST", at+"prioritylevelconfigurations", `{"metadata":{"name":"none"},"spec":{"type":"Limited","limited":{"nominalConcurrencyShares":`+shares+`,"lendablePercent":0,"borrowingLimitPercent":0,"limitResponse":{"type":"Reject"}}}}`)
			c.Do("POST", at+"flowschemas", `{"metadata":{"name":"probe"},"spec":{"priorityLevelConfiguration":{"name":"none"},"matchingPrecedence":2,
				"rules":[{"subjects":[{"kind":"ServiceAccount","serviceAccount":{"name":"probe","namespace":"default"}}],"resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"clusterScope":true,"namespaces":["*"]}]}]}}`)
			end = c.Hold(s.Token("probe"), "/apis/coordination.k8s.io/v1/namespaces/default/leases", kubeServices)
		})
		k.wait(t, "the refusal", func() bool {
			return strings.HasPrefix(k.says(), "failed: services: 429 Too Many Requests: Too many requests, please try again later.")
		})
		var refused *kubeStatusError
		if _, err := k.api.list(t.Context(), kubeServices, false, nil); !errors.As(err, &refused) || refused.status != 429 || refused.after != time.Second {
			t.Errorf("%#v", err)
		}
		s.Step("less is asked", func(c *kubetest.Cluster) {
			end()
			c.Do("DELETE", fairness(c)+"flowschemas/probe", "")
			c.Allowed(s.Token("probe"), kubeServices, 200)
		})
		k.wait(t, "an end of the refusal", func() bool { return fine() && k.has("service;default;stays") })
	})
}

// Servers before 1.21 have no cron jobs of version v1. What one answers is written here, after the documentation.
func TestKubeCronJobsOfAFakeOldServer(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path != "/apis/batch/v1beta1/cronjobs":
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404}`))
		case r.URL.Query().Has("watch"):
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			_, _ = w.Write([]byte(`{"kind":"CronJobList","apiVersion":"batch/v1beta1","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"report","namespace":"shop","uid":"cj-1"},"spec":{"schedule":"0 3 * * *"}}]}`))
		}
	}))
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	api, err := newKubeAPI(srv.URL, nil, func() (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	k := watchKinds(t, api, "cronjobs")
	k.wait(t, "the cron job", func() bool { return k.has("controller;shop;cronjob;report") && k.says() == "ok: 1 objects" })
}
