// Package osthread runs code on an operating system thread of its own, for what belongs to a thread and must not leak to
// others: cgroups entered, namespaces joined, file rights taken on, the file mode mask.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that ends afterwards, and returns when f has. It is never the process's main thread: that one
// can't end, the runtime would only park it, and what f did to it would stay on the process as the world sees it
// (/proc/PID/cgroup, /proc/PID/ns).
func Run(f func()) {
	done := make(chan struct{})
	go run(f, done)
	<-done
}

func run(f func(), done chan<- struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Held by this goroutine, the main thread can't be the next one's.
		inner := make(chan struct{})
		go run(f, inner)
		<-inner
		runtime.UnlockOSThread()
		close(done)
		return
	}
	defer close(done)
	f() // still locked at the end of the goroutine: the thread ends with it
}
