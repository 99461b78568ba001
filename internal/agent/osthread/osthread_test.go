package osthread

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNeverTheMainThread(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			Run(func() {
				if unix.Gettid() == unix.Getpid() {
					t.Error("ran on the main thread")
				}
			})
		})
	}
	wg.Wait()
}
