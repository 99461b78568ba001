package checkpoint

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const metaDir = "/w/meta"

var quiet = slog.New(slog.DiscardHandler)

// record is one appended record, with the header that the store's reader of old files expects.
func record(text string) []byte {
	return append([]byte{byte(len(text)), 0, 0, 0}, text...)
}

// model is what the files must hold after a sequence of batches.
type model map[string]string

func (m model) apply(ops []Op) model {
	m = maps.Clone(m)
	for _, op := range ops {
		switch op.kind {
		case opPut:
			m[op.path] = string(op.data)
		case opAppend:
			m[op.path] += string(op.data)
		case opRemove:
			delete(m, op.path)
			maps.DeleteFunc(m, func(p, _ string) bool { return strings.HasPrefix(p, op.path+"/") })
		}
	}
	return m
}

// files is what is really there.
func files(f *crashFS) model {
	m := model{}
	for p, n := range f.now {
		rel, ok := strings.CutPrefix(p, metaDir+"/")
		if ok && !n.dir && !strings.HasPrefix(rel, journalPrefix) && !strings.HasSuffix(rel, ".tmp") {
			m[rel] = string(n.data)
		}
	}
	return m
}

func randomBatch(r *rand.Rand, n *int) []Op {
	var ops []Op
	for range 1 + r.IntN(5) {
		*n++
		task := fmt.Sprintf("run%d/task%d", r.IntN(3), r.IntN(3))
		switch r.IntN(8) {
		case 0, 1, 2, 3:
			ops = append(ops, Append(task+"/updates", record(fmt.Sprintf("update %d", *n))))
		case 4, 5, 6:
			ops = append(ops, Put(task+"/info", fmt.Appendf(nil, "info %d %s", *n, strings.Repeat("x", r.IntN(20)))))
		case 7:
			ops = append(ops, Remove(path.Dir(task)))
		}
	}
	return ops
}

// Whatever the moment of the crash and whatever part of the unsynced writes the disk kept: after a restart the files
// hold exactly the batches whose Commit returned, and perhaps, whole, the one that was under way.
func TestCrashAtAnyWriteLosesNoCommittedBatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		r := rand.New(rand.NewPCG(seed, 2))
		fsys := newCrashFS(seed)
		committed, n := model{}, 0
		for life := range 1 + r.IntN(4) {
			fsys.crashAt = 1 + r.IntN(120)
			if r.IntN(2) == 0 {
				fsys.failEvery = 3 + r.IntN(30)
			}
			next := committed
			s, err := open(fsys, metaDir, true, quiet, 400)
			for err == nil || !fsys.crashed {
				if s == nil { // a full disk at the start: the daemon would exit with the error and be started again
					s, err = open(fsys, metaDir, true, quiet, 400)
					continue
				}
				if r.IntN(3) == 0 { // the files follow at any distance
					if err = s.flush(); err == nil {
						if got := files(fsys); !cmp.Equal(got, committed) {
							t.Fatalf("life %d: running process sees\n%s", life, cmp.Diff(committed, got))
						}
					} else if fsys.crashed {
						break
					}
				}
				ops := randomBatch(r, &n)
				next = committed.apply(ops)
				for err = s.Commit(ops); err != nil && !fsys.crashed; err = s.Commit(ops) {
				}
				if err == nil {
					committed = next
				}
			}
			if s != nil {
				s.Close()
			}
			fsys = fsys.reboot()
			s, err = open(fsys, metaDir, true, quiet, 400)
			if err != nil {
				t.Fatalf("open after the crash: %v", err)
			}
			got := files(fsys)
			if !cmp.Equal(got, committed) && !cmp.Equal(got, next) {
				t.Fatalf("life %d: after the crash (-committed +found):\n%s", life, cmp.Diff(committed, got))
			}
			committed = got
			s.Close()
			fsys = fsys.reboot() // what Open promised must hold as well
		}
	})
}

func TestJournalIsDeletedOnceItsFilesAreDurable(t *testing.T) {
	t.Parallel()
	fsys := newCrashFS(1)
	s, err := open(fsys, metaDir, true, quiet, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := s.Commit([]Op{Append("updates", record(fmt.Sprint(i)))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	numbers, err := s.journals()
	if err != nil {
		t.Fatal(err)
	}
	if len(numbers) != 1 || numbers[0] < 10 {
		t.Errorf("journals left: %v, want the newest one only", numbers)
	}
	s.Close()
}

func TestRealFileSystem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(OS{}, dir, true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ops := []Op{Put("a/b", []byte("1")), Append("a/c", record("x")), Append("a/c", record("y")), Link("a/latest", "b"), Put("gone/x", nil), Remove("gone")}
	if err := s.Commit(ops); err != nil {
		t.Fatal(err)
	}
	// No Close until the end: kill -9.
	defer s.Close()
	s2, err := Open(OS{}, dir, true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s2.Commit([]Op{Append("a/c", record("z"))}); err != nil {
		t.Fatal(err)
	}
	s2.Close()
	got, err := os.ReadFile(dir + "/a/c")
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(record("x"), record("y"), record("z"))
	if !cmp.Equal(got, want) {
		t.Errorf("a/c = %q, want %q", got, want)
	}
	if link, err := (OS{}).Readlink(dir + "/a/latest"); err != nil || link != "b" {
		t.Errorf("link = %q, %v", link, err)
	}
	if _, err := os.Stat(dir + "/gone"); err == nil {
		t.Error("gone is still there")
	}
}

// A batch in the middle of a journal that the disk has damaged was promised: with strict nothing starts and nothing is
// touched; without it everything else is there.
func TestDamageBeforeTheEndOfAJournal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(journal []byte, second int) []byte
		want   model // nil: strict stops
	}{
		{"a bit of the body", func(j []byte, at int) []byte { j[at+batchHeader+5] ^= 4; return j }, nil},
		{"the length", func(j []byte, at int) []byte { j[at+6] ^= 0xff; return j }, nil},
		{"the mark", func(j []byte, at int) []byte { j[at] ^= 1; return j }, nil},
		{"a hole of zeros", func(j []byte, at int) []byte { clear(j[at : at+15]); return j }, nil},
		{"the header", func(j []byte, _ int) []byte { j[2] ^= 1; return j }, nil},
		{"the last batch", func(j []byte, _ int) []byte { j[len(j)-1] ^= 1; return j }, model{"a": "1", "b": "2"}},
		{"cut", func(j []byte, _ int) []byte { return j[:len(j)-3] }, model{"a": "1", "b": "2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := open(OS{}, dir, true, quiet, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			// What a task wrote can't pass for a batch, whatever it has seen elsewhere.
			crafted := string(salt{1, 2, 3}.encodeBatch(nil, []Op{Put("evil", []byte("x"))}))
			at := map[int]int{}
			for i, op := range []Op{Put("a", []byte("1")), Put("b", []byte("2")), Put("c", []byte(crafted))} {
				at[i] = int(s.length)
				if err := s.Commit([]Op{op}); err != nil {
					t.Fatal(err)
				}
			}
			path := s.journalPath(s.number)
			s.Close()
			journal, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			journal = tt.damage(journal, at[1])
			if err := os.WriteFile(path, journal, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err = open(OS{}, dir, true, quiet, 1<<20)
			if tt.want != nil {
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
				if got := disk(t, dir, "a", "b", "c", "evil"); !cmp.Equal(got, tt.want) {
					t.Error(cmp.Diff(tt.want, got))
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "is corrupt") || !strings.Contains(err.Error(), "--no-strict") {
				t.Fatalf("strict: %v", err)
			}
			if got := disk(t, dir, "a", "b", "c", "evil"); len(got) > 0 {
				t.Errorf("strict has written %v", got)
			}
			if s, err = open(OS{}, dir, false, quiet, 1<<20); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if len(s.Problems()) != 1 {
				t.Errorf("problems: %v", s.Problems())
			}
			want := model{"a": "1", "c": crafted}
			if tt.name == "the header" {
				want = model{}
			}
			if got := disk(t, dir, "a", "b", "c", "evil"); !cmp.Equal(got, want) {
				t.Error(cmp.Diff(want, got))
			}
		})
	}
}

// disk reads those of the files that are there.
func disk(t *testing.T, dir string, names ...string) model {
	t.Helper()
	m := model{}
	for _, name := range names {
		if data, err := os.ReadFile(dir + "/" + name); err == nil {
			m[name] = string(data)
		}
	}
	return m
}

func FuzzDecodeBatch(f *testing.F) {
	mark := salt([]byte("saltsalt"))
	f.Add(mark.encodeBatch(nil, []Op{Put("a", []byte("b")), Append("c", []byte("d")), Remove("e"), Link("f", "g")}), false)
	f.Add(mark.encodeBatch(nil, []Op{Put("../a", []byte("b"))}), false)
	f.Add(appendOp(appendOp(nil, Put("a", []byte("b"))), Remove("c/d")), true)
	f.Add([]byte("salt\xff\xff\xff\xff"), false)
	f.Fuzz(func(t *testing.T, data []byte, body bool) {
		if body { // the checksum holds: what is behind it is read
			batch := mark.encodeBatch(nil, nil)
			batch = append(batch, data...)
			binary.LittleEndian.PutUint32(batch[4:], uint32(len(data)))
			binary.LittleEndian.PutUint32(batch[8:], mark.checksum(data))
			data = batch
		}
		if next := mark.nextBatch(data); next == 0 || next >= len(data) {
			t.Fatalf("the next batch is at %d of %d", next, len(data))
		}
		ops, size, err := mark.decodeBatch(data)
		if err != nil {
			return
		}
		for _, op := range ops {
			if !filepath.IsLocal(op.path) {
				t.Fatalf("an operation on %q", op.path)
			}
		}
		again, n, err := mark.decodeBatch(mark.encodeBatch(nil, ops))
		if err != nil || n > size || len(again) != len(ops) {
			t.Fatalf("round trip: %d ops, %d bytes, %v", len(again), n, err)
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("ops=%d", size), func(b *testing.B) {
			s, err := Open(OS{}, b.TempDir(), true, quiet)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			data := make([]byte, 300)
			data[0], data[1] = 40, 1
			for i := 0; b.Loop(); i++ {
				ops := make([]Op, size)
				for j := range ops {
					ops[j] = Append(fmt.Sprintf("tasks/%d/updates", (i*size+j)%5000), data)
				}
				if err := s.Commit(ops); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
