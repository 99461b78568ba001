package image

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	. "github.com/orchestrator/orchestrator/internal/agent/image/imagetest"
	"github.com/orchestrator/orchestrator/internal/realpart"
)

// compress makes a zstd stream.
func compress(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(w, r); err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}

// BenchmarkPull fetches and unpacks an image of four layers, 64 MB in 4,096 files of half compressible bytes, from a
// registry on loopback into an empty store.
func BenchmarkPull(b *testing.B) {
	realpart.Root(b)
	for _, c := range []compression.Compression{compression.GZip, compression.ZStd} {
		b.Run(string(c), func(b *testing.B) {
			r := Serve(b)
			rng := rand.New(rand.NewPCG(1, 2))
			var layers []v1.Layer
			total := int64(0)
			for l := range 4 {
				var fs []File
				for i := range 1024 {
					body := make([]byte, 16<<10)
					for j := range len(body) / 2 {
						body[j] = byte(rng.IntN(256))
					}
					fs = append(fs, File{Name: fmt.Sprintf("usr/lib/%d/%d/%d", l, i/64, i), Body: string(body)})
					total += int64(len(body))
				}
				layers = append(layers, one(b, c, fs...))
			}
			n := r.Push(b, "bench", Build(b, v1.Config{}, layers...))
			b.SetBytes(total)
			for b.Loop() {
				b.StopTimer()
				s := open(b, Config{})
				b.StartTimer()
				img, err := s.Get(b.Context(), n, nil, false)
				if err != nil {
					b.Fatal(err)
				}
				img.Release()
			}
		})
	}
}
