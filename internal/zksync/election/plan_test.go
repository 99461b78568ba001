package election

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// world is two ensembles' groups, their contenders and engines; everything happens in single steps in an order that a seed picks.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	sides   [2]View
	zxid    int64
	fence   [2]int
	state   State
	leaders map[string]bool // contenders that have seen themselves first and live
	engines []*engine
	log     []string
	handed  int
	led     [2]int
}

// engine is one engine between two of its effects. It decides on views that may be old by then.
type engine struct {
	id     int
	phase  int
	fence  [2]int
	state  State
	views  [2]View
	refuse bool
}

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// settle lets contenders see the lists: who is first leads until it dies, whatever comes before it later.
func (w *world) settle() {
	for s := range w.sides {
		var low *Child
		for i := range w.sides[s].Children {
			if c := &w.sides[s].Children[i]; low == nil || c.Number < low.Number {
				low = c
			}
		}
		if low != nil && low.Own && !w.leaders[low.Name] {
			w.leaders[low.Name] = true
			w.led[s]++
			w.note("%v: %s leads", Side(s), low.Name)
		}
	}
	if len(w.leaders) > 1 {
		w.t.Fatalf("two leaders: %v\n%s", w.leaders, join(w.log))
	}
}

func join(log []string) string {
	out := ""
	for _, l := range log {
		out += l + "\n"
	}
	return out
}

func (w *world) add(s Side, name string, own bool, version int32) {
	n, _ := number(name)
	w.zxid++
	w.sides[s].Children = append(w.sides[s].Children, Child{Name: name, Number: n, Own: own, Version: version, Czxid: w.zxid})
	w.sides[s].Counter++
}

func (w *world) remove(s Side, name string) {
	w.sides[s].Children = slices.DeleteFunc(w.sides[s].Children, func(c Child) bool { return c.Name == name })
}

func (w *world) join(s Side) {
	name := fmt.Sprintf("%v-%010d", s, w.sides[s].Counter)
	w.note("%v: %s joins", s, name)
	w.add(s, name, true, 0)
}

func (w *world) die(s Side) {
	var own []string
	for _, c := range w.sides[s].Children {
		if c.Own {
			own = append(own, c.Name)
		}
	}
	if len(own) == 0 {
		return
	}
	name := own[w.rng.IntN(len(own))]
	w.note("%v: %s dies", s, name)
	w.remove(s, name)
	delete(w.leaders, name)
}

const claimed = 4

// work makes the next effect of an engine.
func (w *world) work(e *engine) {
	switch e.phase {
	case 0, 1: // raise both fences
		s := Side(e.phase)
		w.fence[s]++
		e.fence[s] = w.fence[s]
	case 2: // the first may have been raised by another meanwhile, who has the second one before us
		if w.fence[0] != e.fence[0] {
			e.phase = 0
			return
		}
	case 3:
		e.state = w.state
	case claimed, claimed + 1:
		s := Side((e.phase - claimed + e.id) % 2)
		e.views[s] = View{slices.Clone(w.sides[s].Children), w.sides[s].Counter}
	case claimed + 2:
		w.write(e)
		return
	}
	e.phase++
}

func (w *world) write(e *engine) {
	step := Plan(e.state, [2]*View{&e.views[0], &e.views[1]}, 6)
	e.phase = claimed
	if step.Kind == None || step.Kind == Wait {
		return
	}
	if step.Kind == Refuse {
		e.refuse = true
		return
	}
	at := step.Side
	if step.Kind == Senior {
		at = Target // where the record is
	}
	if w.fence[at] != e.fence[at] {
		e.phase = 0 // superseded
		return
	}
	w.note("engine %d: %+v", e.id, step)
	switch step.Kind {
	case Mirror:
		if w.sides[at].find(step.Name) == nil {
			w.add(at, step.Name, false, 0)
		}
	case Remove:
		if c := w.sides[at].find(step.Name); c == nil || c.Own {
			w.t.Fatalf("removes %+v\n%s", c, join(w.log))
		}
		w.remove(at, step.Name)
	case Push:
		w.sides[at].Counter += step.To - e.views[at].Counter
	case Senior:
		if w.state.Known {
			w.handed++
		}
		w.state = State{true, step.Side}
		e.state = w.state
	}
}

var histories = flag.Int("histories", 1500, "histories of the simulation")

// In any order of contenders that come and die, engines that are paused, killed and superseded between any two effects, on views
// as old as that makes them: never two leaders. And when all is quiet again, there is one if anybody contends.
func TestNeverTwoLeaders(t *testing.T) {
	t.Parallel()
	handed, led := 0, [2]int{}
	for seed := range *histories {
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		w := &world{t: t, rng: rng, leaders: map[string]bool{}, engines: []*engine{{id: 0}, {id: 1}}}
		w.join(Side(rng.IntN(2))) // one side alone at first
		w.settle()
		for i := range 400 {
			gate := !w.state.Known // until then the other side has to wait: Refuse says so
			switch k := rng.IntN(100); {
			case k < 12 && !gate:
				w.join(Side(rng.IntN(2)))
			case k < 25 && !gate:
				w.die(Side(rng.IntN(2)))
			case k < 26:
				w.engines[rng.IntN(2)] = &engine{id: i} // killed, and started again
			default:
				e := w.engines[rng.IntN(2)]
				for range 1 + rng.IntN(4) {
					w.work(e)
					w.settle()
				}
			}
			w.settle()
			w.check()
		}
		// Quiet: one engine, nobody comes or goes.
		e := &engine{}
		for range 600 {
			w.work(e)
			w.settle()
		}
		contenders := 0
		for s := range w.sides {
			for _, c := range w.sides[s].Children {
				if c.Own {
					contenders++
					if w.sides[1-s].find(c.Name) == nil && (Side(s) == w.state.Senior || w.sides[1-s].last() < c.Number) {
						t.Fatalf("seed %d: %s has no mirror\n%s", seed, c.Name, join(w.log))
					}
				}
			}
		}
		if contenders > 0 && len(w.leaders) != 1 {
			t.Fatalf("seed %d: %d contenders and %d leaders\n%+v %+v\n%s", seed, contenders, len(w.leaders), w.sides, w.state, join(w.log))
		}
		handed += w.handed
		led[0] += w.led[0]
		led[1] += w.led[1]
	}
	t.Logf("%d histories: %d leaders on the source, %d on the target, seniority moved %d times, never two leaders", *histories, led[0], led[1], handed)
	if handed < *histories || led[0] < *histories || led[1] < *histories {
		t.Error("the histories are too tame")
	}
}

// check is what the proof rests on: the junior side always shows a mirror before all of its own contenders.
func (w *world) check() {
	if !w.state.Known {
		return
	}
	j := w.state.Senior.Other()
	v := &w.sides[j]
	if m := v.first(false); m == nil || m.Number >= min(numberOf(v.first(true)), v.Counter) {
		w.t.Fatalf("the junior side %v is not held: %+v\n%s", j, v, join(w.log))
	}
}

// Contenders on both sides before anything was mirrored: nobody can know who leads.
func TestBothAtOnce(t *testing.T) {
	t.Parallel()
	a := &View{Children: []Child{{Name: "n-0000000000", Own: true, Czxid: 1}}, Counter: 1}
	b := &View{Children: []Child{{Name: "m-0000000000", Own: true, Czxid: 1}}, Counter: 1}
	if s := Plan(State{}, [2]*View{a, b}, 100); s.Kind != Refuse {
		t.Errorf("%+v", s)
	}
	// One that came between the look and the first mirror.
	b = &View{Children: []Child{{Name: "m-0000000101", Number: 101, Own: true, Czxid: 1}, {Name: "n-0000000000", Czxid: 2}}, Counter: 102}
	if s := Plan(State{}, [2]*View{a, b}, 100); s.Kind != Refuse {
		t.Errorf("%+v", s)
	}
	if s := Plan(State{}, [2]*View{{}, {}}, 100); s.Kind != Wait {
		t.Errorf("%+v", s)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int32{"json.info_0000000012": 12, "_c_1-latch-0000000003": 3, "log_replicas": -1, "x": -1, "a-00000000-1": -1} {
		n, ok := number(name)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%s: %d", name, n)
		}
	}
}
