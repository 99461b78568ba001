package zk

import "github.com/orchestrator/orchestrator/internal/zk/jute"

// EventType is what happened to a watched node (Watcher.Event.EventType).
type EventType int32

// Types of events. EventSession tells a watch of a change of the session's state, never of a node.
const (
	EventSession                EventType = -1
	EventCreated                EventType = 1
	EventDeleted                EventType = 2
	EventDataChanged            EventType = 3
	EventChildrenChanged        EventType = 4
	EventDataWatchRemoved       EventType = 5
	EventChildWatchRemoved      EventType = 6
	EventPersistentWatchRemoved EventType = 7
)

func (t EventType) String() string {
	switch t {
	case EventSession:
		return "session"
	case EventCreated:
		return "created"
	case EventDeleted:
		return "deleted"
	case EventDataChanged:
		return "changed"
	case EventChildrenChanged:
		return "children"
	case EventDataWatchRemoved, EventChildWatchRemoved, EventPersistentWatchRemoved:
		return "watch-removed"
	}
	return "unknown"
}

// Event is what a watch is told.
type Event struct {
	Type  EventType
	State State // the session's state
	Path  string
	// Zxid of the change; -1 from servers below 3.9, which do not tell.
	Zxid int64
}

// Watch is one registration. Its function is called in order with the answers, on the client's callback goroutine, and must
// not block. One-shot watches fire once, or get a final EventSession when the session ends. Persistent ones get every event
// and an EventSession whenever the connection is lost or regained: after one, read again, for nothing is replayed.
type Watch struct {
	fn func(Event)
}

// NewWatch returns a registration that calls fn.
func NewWatch(fn func(Event)) *Watch { return &Watch{fn} }

// WatchMode selects a sort of watch.
type WatchMode int32

// Sorts of watches, numbered as RemoveWatches wants them (Watcher.WatcherType).
const (
	WatchChildren            WatchMode = 1
	WatchData                WatchMode = 2
	WatchAny                 WatchMode = 3
	WatchPersistent          WatchMode = 4
	WatchPersistentRecursive WatchMode = 5
)

// addMode is the number that AddWatch wants (ZooDefs.AddWatchModes).
func (m WatchMode) addMode() int32 {
	if m == WatchPersistentRecursive {
		return 1
	}
	return 0
}

type watchSet map[string][]*Watch

func (s watchSet) add(path string, w *Watch) {
	for _, have := range s[path] {
		if have == w {
			return
		}
	}
	s[path] = append(s[path], w)
}

func (s watchSet) take(path string, out []*Watch) []*Watch {
	out = append(out, s[path]...)
	delete(s, path)
	return out
}

// watches are a session's registrations, by server paths.
type watches struct {
	data, exist, child, persistent, recursive watchSet
}

func newWatches() watches {
	return watches{watchSet{}, watchSet{}, watchSet{}, watchSet{}, watchSet{}}
}

// register keeps the watch of an answered request.
func (w *watches) register(op *Op, path string, err Error) {
	if op.Watch == nil {
		return
	}
	switch {
	case op.Code == OpAddWatch && err == 0 && op.WatchMode == WatchPersistentRecursive:
		w.recursive.add(path, op.Watch)
	case op.Code == OpAddWatch && err == 0:
		w.persistent.add(path, op.Watch)
	case op.Code == OpExists && err == ErrNoNode:
		w.exist.add(path, op.Watch)
	case err != 0:
	case op.Code == OpGet || op.Code == OpExists:
		w.data.add(path, op.Watch)
	case op.Code == OpChildren:
		w.child.add(path, op.Watch)
	}
}

// fire takes the watches that an event concerns; one-shot ones are gone afterwards.
func (w *watches) fire(t EventType, path string, out []*Watch) []*Watch {
	switch t {
	case EventCreated, EventDataChanged:
		out = w.data.take(path, out)
		out = w.exist.take(path, out)
		out = append(out, w.persistent[path]...)
	case EventChildrenChanged:
		out = w.child.take(path, out)
		out = append(out, w.persistent[path]...)
	case EventDeleted:
		out = w.data.take(path, out)
		out = w.exist.take(path, out)
		out = w.child.take(path, out)
		out = append(out, w.persistent[path]...)
	case EventDataWatchRemoved:
		out = w.data.take(path, out)
		return w.exist.take(path, out)
	case EventChildWatchRemoved:
		return w.child.take(path, out)
	case EventPersistentWatchRemoved:
		out = w.persistent.take(path, out)
		return w.recursive.take(path, out)
	default:
		return out
	}
	if t != EventChildrenChanged && len(w.recursive) > 0 {
		for p := path; ; p = Parent(p) {
			out = append(out, w.recursive[p]...)
			if p == "/" {
				break
			}
		}
	}
	return out
}

// remove forgets what a successful RemoveWatches named; the server does not say so again.
func (w *watches) remove(mode WatchMode, path string) {
	switch mode {
	case WatchChildren:
		delete(w.child, path)
	case WatchData:
		delete(w.data, path)
		delete(w.exist, path)
	case WatchPersistent:
		delete(w.persistent, path)
	case WatchPersistentRecursive:
		delete(w.recursive, path)
	case WatchAny:
		for _, s := range []watchSet{w.data, w.exist, w.child, w.persistent, w.recursive} {
			delete(s, path)
		}
	}
}

// all returns every registration, and empties the tables when the session has ended.
func (w *watches) all(persistentOnly bool) []*Watch {
	var out []*Watch
	seen := map[*Watch]bool{}
	sets := []watchSet{w.persistent, w.recursive}
	if !persistentOnly {
		sets = append(sets, w.data, w.exist, w.child)
	}
	for _, s := range sets {
		for _, list := range s {
			for _, one := range list {
				if !seen[one] {
					seen[one] = true
					out = append(out, one)
				}
			}
		}
	}
	return out
}

// setWatchesLimit bounds one SetWatches request: a session with a million watches must stay under jute.maxbuffer.
const setWatchesLimit = 128 << 10

// appendSetWatches appends frames that restore every registration on a new connection.
func (w *watches) appendSetWatches(b []byte, zxid int64) []byte {
	var lists [5][]string
	size := 0
	flush := func() {
		if size == 0 {
			return
		}
		code := OpSetWatches
		if len(lists[3])+len(lists[4]) > 0 {
			code = OpSetWatches2
		}
		start := len(b)
		b = append(b, 0, 0, 0, 0)
		b = jute.AppendInt(b, xidSetWatches)
		b = jute.AppendInt(b, int32(code))
		b = jute.AppendLong(b, zxid)
		for i := range lists {
			if i < 3 || code == OpSetWatches2 {
				b = jute.AppendStrings(b, lists[i])
			}
			lists[i] = lists[i][:0]
		}
		patchLength(b, start)
		size = 0
	}
	for i, s := range []watchSet{w.data, w.exist, w.child, w.persistent, w.recursive} {
		for path := range s {
			lists[i] = append(lists[i], path)
			if size += len(path) + 4; size >= setWatchesLimit {
				flush()
			}
		}
	}
	flush()
	return b
}
