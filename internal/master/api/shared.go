package api

import (
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/wire"
)

// maxRest is how many times as long as its making may lie between two answers.
const maxRest = 3

// sharedAnswer is a large answer, made for the version of the snapshot that somebody asks for and shared by all who ask
// meanwhile. One is made at a time, of the newest version that anybody waits for. The maker rests between its pieces, and after the last one
// for what it owes, the longer the more had asked, up to maxRest times its work: however many ask, making answers takes a quarter of one
// processor, and a single client never waits for a rest. Only what is encoded on several processors at once (see encode) has all of its rest
// afterwards. The zero value is ready.
type sharedAnswer struct {
	once   sync.Once
	making chan struct{} // capacity 1, full while one is made

	mu     sync.Mutex
	last   *heldBody
	newest uint64 // version that build is for
	build  buildAnswer
	asked  int       // since the last was begun
	rested time.Time // no sooner the next
	spare  []byte    // of an answer that nobody reads any more
}

// buildAnswer appends an answer to a buffer, at a pace.
type buildAnswer func(buf []byte, pace *wire.Pace) []byte

// heldBody is an answer and how many are sending it.
type heldBody struct {
	*wire.Body

	owner   *sharedAnswer
	version uint64
	users   int
	old     bool // another has taken its place
}

// get returns the answer for this version or a later one, made by build when it is not there: it appends to the buffer that it
// is given. The caller releases what it gets. With zipped the compressed form belongs to the making.
func (a *sharedAnswer) get(version uint64, zipped bool, build buildAnswer) *heldBody {
	a.once.Do(func() { a.making = make(chan struct{}, 1) })
	if b := a.wanted(version, build); b != nil {
		return b
	}
	a.making <- struct{}{}
	defer func() { <-a.making }()
	a.mu.Lock()
	if b := a.take(version); b != nil {
		a.mu.Unlock()
		return b
	}
	rested := a.rested
	a.mu.Unlock()
	time.Sleep(time.Until(rested)) // also for those who ask meanwhile: they get what is made then
	a.mu.Lock()
	version, build = a.newest, a.build
	a.build = nil
	asked, spare, size := a.asked, a.spare, 4096
	a.asked, a.spare = 0, nil
	if a.last != nil {
		size += len(a.last.JSON) // as long as the last one, so the next
	}
	a.mu.Unlock()
	start := time.Now()
	if cap(spare) < size {
		spare = make([]byte, 0, size+size/16)
	}
	rest := func(asked int) int { return min(max(asked-1, 0), maxRest) }
	pace := &wire.Pace{Rest: func() float64 {
		a.mu.Lock()
		defer a.mu.Unlock()
		return float64(rest(asked + a.asked)) // who has come meanwhile waits for the next one, and is one of many as well
	}}
	pace.Begin()
	body := wire.NewBody(build(spare[:0], pace))
	if zipped {
		body.Compress(pace)
	}
	end := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	worked := end.Sub(start) - pace.Rested()
	a.rested = end.Add(worked*time.Duration(rest(asked)) - pace.Rested())
	if a.last != nil {
		a.last.old = true
		a.last.recycle()
	}
	a.last = &heldBody{Body: body, owner: a, version: version}
	if a.newest <= version {
		a.build = nil // who asked for it gets this one
	}
	return a.take(version)
}

// wanted returns the answer if it is there, and otherwise notes that this version is wanted.
func (a *sharedAnswer) wanted(version uint64, build buildAnswer) *heldBody {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.take(version); b != nil {
		return b
	}
	a.asked++
	if a.build == nil || a.newest < version {
		a.newest, a.build = version, build
	}
	return nil
}

// take returns the last answer if it is of this version or a later one. a.mu is held.
func (a *sharedAnswer) take(version uint64) *heldBody {
	if a.last == nil || a.last.version < version {
		return nil
	}
	a.last.users++
	return a.last
}

// forget drops the answer.
func (a *sharedAnswer) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil {
		a.last.old = true
	}
	a.last, a.spare = nil, nil
}

// release says that the caller has sent it.
func (b *heldBody) release() {
	b.owner.mu.Lock()
	defer b.owner.mu.Unlock()
	b.users--
	b.recycle()
}

// recycle keeps the buffer of an answer that nobody sends or will send, for the next. owner.mu is held.
func (b *heldBody) recycle() {
	if b.old && b.users == 0 && b.owner.last != nil && cap(b.JSON) > cap(b.owner.spare) {
		b.owner.spare = b.JSON
	}
}
