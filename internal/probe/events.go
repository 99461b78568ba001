package probe

import (
	"io"
	"sync"
)

// maxEvents bounds the queue of connection events between two rounds; beyond it they are counted, and dumps have to do.
const maxEvents = 50_000

// eventSource queues what a kernel event source (eBPF) reports until the next round takes it.
type eventSource struct {
	mu      sync.Mutex
	queue   []netEvent
	lost    uint64
	program io.Closer
}

func (e *eventSource) push(ev netEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) >= maxEvents {
		e.lost++
		return
	}
	e.queue = append(e.queue, ev)
}

func (e *eventSource) pending() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.queue) > 0
}

// take gives the queued events. The next ones go where empty is.
func (e *eventSource) take(empty []netEvent) []netEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.queue
	e.queue = empty
	return out
}

// startEvents loads the eBPF program when it is wanted and the kernel allows it; without it dumps alone tell.
func (p *Probe) startEvents() {
	if p.cfg.NetSource != "auto" && p.cfg.NetSource != "ebpf" {
		return
	}
	e := &eventSource{}
	controller := ""
	if p.roots.v1["memory"] != "" {
		controller = "memory"
	}
	layout, unknown := findKernelLayout(controller)
	if unknown != nil {
		layout = nil
	}
	program, err := loadTracer(e.push, layout)
	if err != nil && layout != nil { // a kernel that does not let its memory be read
		layout, unknown = nil, err
		program, err = loadTracer(e.push, nil)
	}
	if err != nil {
		p.setState("net.ebpf", "off", "connections shorter than a round are seen only by what they leave behind: "+err.Error())
		return
	}
	e.program = program
	p.events = e
	if layout == nil {
		p.setState("net.ebpf", "ok", "containers that end within seconds are not told from their host: "+unknown.Error())
		return
	}
	p.setState("net.ebpf", "ok", "")
}

func (p *Probe) stopEvents() {
	if p.events != nil {
		_ = p.events.program.Close()
	}
}
