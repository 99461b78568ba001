//go:build !embed_helper

package launcher

// embedded is empty: this is a plain `go build`.
var embedded []byte
