package probe

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Times of the lease: it is renewed often enough that the holder has stopped watching before anybody else may begin.
const (
	leaseRenew = 4 * time.Second
	leaseGive  = 10 * time.Second // without a renewal the holder stops
	leaseTake  = 15 * time.Second // without a renewal others take it
)

// kubeLease is Kubernetes' own object for electing one of several.
type kubeLease struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion,omitempty"`
	} `json:"metadata"`
	Spec struct {
		HolderIdentity       string `json:"holderIdentity"`
		LeaseDurationSeconds int    `json:"leaseDurationSeconds"`
		AcquireTime          string `json:"acquireTime,omitempty"`
		RenewTime            string `json:"renewTime,omitempty"`
		LeaseTransitions     int    `json:"leaseTransitions"`
	} `json:"spec"`
}

// elector tells whether this probe is the one that watches the cluster. Other hosts' clocks are not trusted: what counts is how
// long this probe has seen the lease unchanged.
type elector struct {
	api             *kubeAPI
	namespace, name string
	self            string
	seen            string // the newest version
	since           time.Time
	renewed         time.Time
}

// try renews, takes or watches the lease once. holder is who has it.
func (e *elector) try(ctx context.Context, now time.Time) (mine bool, holder string, err error) {
	ctx, stop := context.WithTimeout(ctx, leaseRenew)
	defer stop()
	path := "/apis/coordination.k8s.io/v1/namespaces/" + e.namespace + "/leases"
	var l kubeLease
	err = e.api.call(ctx, http.MethodGet, path+"/"+e.name, nil, &l)
	var s *kubeStatusError
	fresh := errors.As(err, &s) && s.status == http.StatusNotFound
	if err != nil && !fresh {
		return e.still(now), "", err
	}
	if l.Metadata.ResourceVersion != e.seen {
		e.seen, e.since = l.Metadata.ResourceVersion, now
	}
	stamp := now.UTC().Format("2006-01-02T15:04:05.000000Z")
	switch {
	case fresh || l.Spec.HolderIdentity == "":
		l.Spec.AcquireTime = stamp
	case l.Spec.HolderIdentity == e.self:
	case now.Sub(e.since) < leaseTake:
		e.renewed = time.Time{}
		return false, l.Spec.HolderIdentity, nil
	default:
		l.Spec.AcquireTime = stamp
		l.Spec.LeaseTransitions++
	}
	l.APIVersion, l.Kind = "coordination.k8s.io/v1", "Lease"
	l.Metadata.Name, l.Metadata.Namespace = e.name, e.namespace
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = e.self, stamp, int(leaseTake.Seconds())
	method, at := http.MethodPut, path+"/"+e.name
	if fresh {
		method, at = http.MethodPost, path
	}
	var out kubeLease
	err = e.api.call(ctx, method, at, &l, &out)
	if errors.As(err, &s) && s.status == http.StatusConflict { // somebody was faster
		e.renewed = time.Time{}
		return false, "", nil
	}
	if err != nil {
		return e.still(now), "", err
	}
	e.renewed, e.seen, e.since = now, out.Metadata.ResourceVersion, now
	return true, e.self, nil
}

// release gives the lease back at the end, so that another probe need not wait for it to run out.
func (e *elector) release() {
	if e.renewed.IsZero() {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), leaseRenew)
	defer stop()
	path := "/apis/coordination.k8s.io/v1/namespaces/" + e.namespace + "/leases/" + e.name
	var l kubeLease
	if e.api.call(ctx, http.MethodGet, path, nil, &l) == nil && l.Spec.HolderIdentity == e.self {
		l.Spec.HolderIdentity = ""
		_ = e.api.call(ctx, http.MethodPut, path, &l, &l) // when it fails the lease runs out
	}
	e.renewed = time.Time{}
}

// still reports whether a lease that could not be renewed now still holds.
func (e *elector) still(now time.Time) bool {
	return !e.renewed.IsZero() && now.Sub(e.renewed) < leaseGive
}
