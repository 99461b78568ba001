//go:build embed_helper

package launcher

import _ "embed"

// embedded is cmd/executor, statically linked: `make build` puts it here.
//
//go:embed helper.bin
var embedded []byte
