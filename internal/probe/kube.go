package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	probev1 "github.com/orchestrator/orchestrator/api/probe/v1"
	"github.com/orchestrator/orchestrator/internal/topology"
)

// What --kubernetes may be.
const (
	KubernetesOff   = "off"
	KubernetesOn    = "on"    // this probe watches the cluster
	KubernetesLease = "lease" // the one of all probes that holds the lease does
)

const (
	kubeBackoff    = time.Second
	kubeBackoffMax = 30 * time.Second
	// kubeSettle lets the events of one happening arrive together.
	kubeSettle = 200 * time.Millisecond
)

// kubeWatch keeps what Kubernetes' API tells of the cluster. Only one probe of a cluster watches: the API server pays for each.
type kubeWatch struct {
	api   *kubeAPI
	elect *elector // nil: always
	poke  func()
	kinds []kubeKind

	entities atomic.Pointer[[]*probev1.Entity] // shared with hubs: never changed
	state    atomic.Pointer[collectorState]

	mu      sync.Mutex
	objects kubeCluster
	listed  map[string]bool
	trouble map[string]string // by kind
	over    map[string]bool
	changed chan struct{}
}

func newKubeWatch(cfg *Config, poke func()) (*kubeWatch, error) {
	var api *kubeAPI
	var err error
	if cfg.KubeConfig != "" {
		api, err = fromKubeConfig(cfg.KubeConfig)
	} else {
		api, err = inCluster(os.Getenv, serviceAccountDir)
	}
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	k := &kubeWatch{api: api, poke: poke, kinds: kubeKinds(), changed: make(chan struct{}, 1)}
	if cfg.Kubernetes == KubernetesLease {
		namespace, name, ok := strings.Cut(cfg.KubeLease, "/")
		if !ok {
			namespace, name = api.namespace, cfg.KubeLease
		}
		if namespace == "" {
			namespace = "default"
		}
		k.elect = &elector{api: api, namespace: namespace, name: name, self: cfg.ID}
	}
	k.reset()
	return k, nil
}

// reset forgets the cluster.
func (k *kubeWatch) reset() {
	k.mu.Lock()
	k.objects, k.listed, k.trouble, k.over = kubeCluster{}, map[string]bool{}, map[string]string{}, map[string]bool{}
	k.mu.Unlock()
	k.entities.Store(&[]*probev1.Entity{})
	k.state.Store(&collectorState{"off", "not asked yet"})
}

func (k *kubeWatch) run(ctx context.Context) {
	defer k.api.http.CloseIdleConnections()
	if k.elect == nil {
		k.watchAll(ctx)
		return
	}
	var end func() // of the watching that goes on
	stop := func() {
		if end != nil {
			end()
			end = nil
		}
	}
	defer k.elect.release()
	defer stop()
	for ctx.Err() == nil {
		mine, holder, err := k.elect.try(ctx, time.Now())
		switch {
		case mine && end == nil:
			end = k.begin(ctx)
		case !mine:
			stop()
			state := collectorState{"ok", "the probe " + topology.Printable(holder, 100) + " watches this cluster"}
			if err != nil {
				state = collectorState{"failed", "lease: " + err.Error()}
			}
			k.state.Store(&state)
		}
		select {
		case <-ctx.Done():
		case <-time.After(leaseRenew/2 + rand.N(leaseRenew/4)):
		}
	}
}

// begin watches until the function that it gives is called, which waits for the end and forgets the cluster.
func (k *kubeWatch) begin(ctx context.Context) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { k.watchAll(ctx) })
	return func() {
		stop()
		wg.Wait()
		k.reset()
		k.poke()
	}
}

// watchAll watches every kind until ctx ends.
func (k *kubeWatch) watchAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range k.kinds {
		wg.Go(func() { k.follow(ctx, &k.kinds[i]) })
	}
	seed, held := maphash.MakeSeed(), map[string]kubeHeld{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(kubeSettle):
		}
		held = k.publish(seed, held)
		k.poke()
	}
}

// follow lists a kind and then watches it, again and again.
func (k *kubeWatch) follow(ctx context.Context, kind *kubeKind) {
	wait, path := kubeBackoff, 0
	version := ""
	for ctx.Err() == nil {
		var err error
		if version == "" {
			version, err = k.list(ctx, kind, kind.paths[path])
		}
		if err == nil {
			began := time.Now()
			version, err = k.api.watch(ctx, kind.paths[path], kind.metadata, version, func() { k.setTrouble(kind, nil) },
				func(what string, raw json.RawMessage) error { return k.put(kind, what, raw) })
			if time.Since(began) > kubeBackoffMax {
				wait = kubeBackoff
			}
		}
		var s *kubeStatusError
		var after time.Duration
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errKubeGone):
			version, err = "", nil
		case errors.As(err, &s) && s.status == http.StatusNotFound && path+1 < len(kind.paths):
			path++
			version = ""
			continue
		case err != nil:
			k.setTrouble(kind, err)
			if s != nil { // what the server does not like about a watch, it may like about a list
				version, after = "", s.after
			}
		}
		if err == nil {
			wait = kubeBackoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(after, wait/2) + rand.N(wait/2)):
		}
		if err != nil {
			wait = min(2*wait, kubeBackoffMax)
		}
	}
}

// list takes the whole of a kind in place of what is held.
func (k *kubeWatch) list(ctx context.Context, kind *kubeKind, path string) (string, error) {
	next, over := map[string]*kubeObject{}, false
	version, err := k.api.list(ctx, path, kind.metadata, func(raw json.RawMessage) error {
		o, err := decodeKube(raw)
		switch {
		case err != nil || o == nil:
			return err
		case len(next) >= kind.limit:
			over = true
		default:
			next[o.Metadata.UID] = o
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	k.objects[kind.name], k.listed[kind.name], k.over[kind.name] = next, true, over
	k.mu.Unlock()
	k.notify()
	return version, nil
}

func (k *kubeWatch) put(kind *kubeKind, what string, raw json.RawMessage) error {
	o, err := decodeKube(raw)
	if err != nil || o == nil {
		return err
	}
	k.mu.Lock()
	list := k.objects[kind.name]
	switch _, known := list[o.Metadata.UID]; {
	case what == "DELETED":
		delete(list, o.Metadata.UID)
	case known || len(list) < kind.limit:
		list[o.Metadata.UID] = o
	default:
		k.over[kind.name] = true
	}
	k.mu.Unlock()
	k.notify()
	return nil
}

func (k *kubeWatch) notify() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (k *kubeWatch) setTrouble(kind *kubeKind, err error) {
	k.mu.Lock()
	if err == nil {
		delete(k.trouble, kind.name)
	} else {
		k.trouble[kind.name] = kind.name + ": " + err.Error()
	}
	k.mu.Unlock()
	k.notify()
}

// kubeHeld is an entity that was published, and the sum of what it holds.
type kubeHeld struct {
	e   *probev1.Entity
	sum uint64
}

// publish makes the objects into entities. One that has not changed stays the same message, which spares hubs the comparison.
func (k *kubeWatch) publish(seed maphash.Seed, held map[string]kubeHeld) map[string]kubeHeld {
	k.mu.Lock()
	list := k.objects.entities()
	state := k.judge(len(list))
	k.mu.Unlock()
	next := make(map[string]kubeHeld, len(list))
	out := list[:0]
	for _, e := range list {
		if _, twice := next[e.Id]; twice {
			continue
		}
		raw, err := e.MarshalVT()
		if err != nil {
			continue
		}
		x := kubeHeld{e, maphash.Bytes(seed, raw)}
		if was, ok := held[e.Id]; ok && was.sum == x.sum {
			x = was
		}
		next[e.Id] = x
		out = append(out, x.e)
	}
	k.entities.Store(&out)
	k.state.Store(&state)
	return next
}

// judge says how the collector is. It is locked.
func (k *kubeWatch) judge(n int) collectorState {
	if len(k.trouble) == len(k.kinds) {
		return collectorState{"failed", k.trouble[k.kinds[0].name]}
	}
	if len(k.trouble) > 0 {
		return collectorState{"degraded", topology.Printable(strings.Join(slices.Sorted(maps.Values(k.trouble)), "; "), 400)}
	}
	for kind, over := range k.over {
		if over {
			return collectorState{"degraded", "the cluster has more " + kind + " than are taken"}
		}
	}
	if len(k.listed) < len(k.kinds) {
		return collectorState{"degraded", "still listing the cluster"}
	}
	return collectorState{"ok", fmt.Sprintf("%d objects", n)}
}
