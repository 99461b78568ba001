// Package image keeps container images: it fetches them from registries and from archives on disk, verifies every layer by
// digest, unpacks each layer once, shares it between images and containers, and deletes what nobody uses.
//
// The native containerizer calls it; it knows nothing of containers but the layers they hold. Invariants: a layer that is
// there is whole (it is unpacked aside, synced and renamed); a name leads only to an image whose layers are all there; a
// layer that somebody holds is never deleted; nothing that an image contains is followed, created or linked outside of its
// layer's directory; layers are in the form that overlayfs wants (whiteouts as devices 0:0, opaque directories by xattr).
//
// Unpacking gives files to other users and makes devices: it takes root.
package image
