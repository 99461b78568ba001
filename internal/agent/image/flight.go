package image

import (
	"context"
	"sync"
)

// flights joins those who want the same thing at the same time: one works, all get what came of it. The work goes on as
// long as somebody waits for it.
type flights[T any] struct {
	mu  sync.Mutex
	now map[string]*flight[T]
}

type flight[T any] struct {
	done    chan struct{}
	waiting int
	cancel  context.CancelFunc
	value   T
	err     error
}

// do runs work, or joins a run of it that is under way.
func (f *flights[T]) do(ctx context.Context, key string, work func(context.Context) (T, error)) (value T, joined bool, err error) {
	f.mu.Lock()
	fl := f.now[key]
	joined = fl != nil
	if fl == nil {
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		fl = &flight[T]{done: make(chan struct{}), cancel: cancel}
		if f.now == nil {
			f.now = make(map[string]*flight[T])
		}
		f.now[key] = fl
		go func() {
			fl.value, fl.err = work(fctx)
			cancel()
			f.mu.Lock()
			if f.now[key] == fl {
				delete(f.now, key)
			}
			f.mu.Unlock()
			close(fl.done)
		}()
	}
	fl.waiting++
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.value, joined, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	fl.waiting--
	last := fl.waiting == 0
	if last && f.now[key] == fl {
		delete(f.now, key) // who comes now begins anew
	}
	f.mu.Unlock()
	if last {
		fl.cancel()
		<-fl.done // nothing of it goes on behind the caller's back
	}
	return value, joined, context.Cause(ctx)
}
