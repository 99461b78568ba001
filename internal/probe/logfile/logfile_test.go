package logfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type directory struct {
	t    *testing.T
	path string
	root *os.Root
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &directory{t, dir, root}
}

func (d *directory) add(name, text string) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) rename(from, to string) {
	d.t.Helper()
	if err := os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *directory) truncate(name string) { d.must(os.Truncate(filepath.Join(d.path, name), 0)) }

func (d *directory) remove(name string) { d.must(os.Remove(filepath.Join(d.path, name))) }

// rotate moves a file away, written at a time of its own: those of a file system may be the same for milliseconds.
func (d *directory) rotate(name string, n int) {
	to := fmt.Sprintf("%s.%d", name, n)
	d.rename(name, to)
	at := time.Unix(int64(1000+n), 0)
	d.must(os.Chtimes(filepath.Join(d.path, to), at, at))
}

// more gives the lines that a tail hands on now, as "stream second text".
func more(t *testing.T, tail *Tail) []string {
	t.Helper()
	var out []string
	err := tail.Copy(t.Context(), func(stream string, at time.Time, line []byte) error {
		out = append(out, fmt.Sprintf("%s %d %s", stream, at.Unix(), line))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, d *directory, name string, o Options) []string {
	t.Helper()
	tail, err := Open(d.root, name, o)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	return more(t, tail)
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func cri(second int, stream, tag, text string) string {
	return fmt.Sprintf("%s %s %s %s\n", time.Unix(int64(second), 5).UTC().Format(time.RFC3339Nano), stream, tag, text)
}

func TestWhatACRIFileHolds(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	d.add("0.log", cri(1, Stdout, "F", "one")+cri(2, Stderr, "F", "two  spaces ")+cri(3, Stdout, "P", "long ")+cri(3, Stderr, "F", "between")+cri(4, Stdout, "F", "line")+
		cri(5, Stdout, "F:later", "")+cri(6, Stdout, "P:x", "never ends"))
	all := []string{"stdout 1 one", "stderr 2 two  spaces ", "stderr 3 between", "stdout 4 long line", "stdout 5 "}
	same(t, "all", read(t, d, "0.log", Options{Format: CRI, Lines: -1}), all...)
	same(t, "more than there are", read(t, d, "0.log", Options{Format: CRI, Lines: 100}), all...)
	same(t, "the last", read(t, d, "0.log", Options{Format: CRI, Lines: 1}), all[4])
	same(t, "the last two, with the first piece of the one that comes in two", read(t, d, "0.log", Options{Format: CRI, Lines: 2}), all[2:]...) // what stands between its pieces comes with them
	same(t, "none", read(t, d, "0.log", Options{Format: CRI, Lines: 0}))
	same(t, "one stream", read(t, d, "0.log", Options{Format: CRI, Lines: -1, Stream: Stderr}), all[1], all[2])
	same(t, "the last of one stream", read(t, d, "0.log", Options{Format: CRI, Lines: 1, Stream: Stderr}), all[2])
	same(t, "since", read(t, d, "0.log", Options{Format: CRI, Lines: -1, Since: time.Unix(3, 5)}), all[2:]...)
	same(t, "until", read(t, d, "0.log", Options{Format: CRI, Lines: -1, Until: time.Unix(3, 0)}), all[:2]...)
	same(t, "since, and few", read(t, d, "0.log", Options{Format: CRI, Lines: 1, Since: time.Unix(3, 0)}), all[4])
	same(t, "since later than all", read(t, d, "0.log", Options{Format: CRI, Lines: -1, Since: time.Unix(100, 0)}))
	d.add("odd.log", "\nno format\n2026-13-45 stdout F x\n"+cri(1, "stdnone", "F", "y")+"1970-01-01T00:00:09Z stdout F\n")
	if got := read(t, d, "odd.log", Options{Format: CRI, Lines: -1}); len(got) != 5 || !strings.HasSuffix(got[1], " no format") || !strings.HasSuffix(got[3], "stdnone F y") || got[4] != "stdout 9 " {
		t.Errorf("%q", got)
	}
}

func TestWhatAJSONFileHolds(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	d.add("x-json.log", `{"log":"one\n","stream":"stdout","time":"1970-01-01T00:00:01.5Z"}
{"log":"in two ","stream":"stderr","time":"1970-01-01T00:00:02Z"}
{"log":"pieces\r\n","stream":"stderr","time":"1970-01-01T00:00:03Z"}
{"log":"<&\u00e9\n","time":"1970-01-01T00:00:04Z"}
not JSON
`)
	got := read(t, d, "x-json.log", Options{Format: JSON, Lines: -1})
	if len(got) != 4 || got[0] != "stdout 1 one" || got[1] != "stderr 3 in two pieces\r" || got[2] != "stdout 4 <&é" || !strings.HasSuffix(got[3], " not JSON") {
		t.Errorf("%q", got)
	}
	same(t, "the last two", read(t, d, "x-json.log", Options{Format: JSON, Lines: 2, Until: time.Unix(4, 1), Stream: Stderr}), "stderr 3 in two pieces\r")
}

// A reader of a plain file has its time from the file at first, and from the clock for what is written later.
func TestPlainOutputIsFollowed(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	d.add("stderr", "old 1\nold 2\nhalf")
	then := time.Unix(1000, 0)
	if err := os.Chtimes(filepath.Join(d.path, "stderr"), then, then); err != nil {
		t.Fatal(err)
	}
	tail, err := Open(d.root, "stderr", Options{Lines: 1, Plain: Stderr})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	same(t, "at first", more(t, tail), "stderr 1000 old 2")
	same(t, "nothing new", more(t, tail))
	d.add("stderr", " and half\n")
	if got := more(t, tail); len(got) != 1 || !strings.HasSuffix(got[0], " half and half") || strings.HasPrefix(got[0], "stderr 1000") {
		t.Errorf("%q", got)
	}
	// It is emptied, and written again.
	if err := os.Truncate(filepath.Join(d.path, "stderr"), 0); err != nil {
		t.Fatal(err)
	}
	d.add("stderr", "anew\n")
	if got := more(t, tail); len(got) != 1 || !strings.HasSuffix(got[0], " anew") {
		t.Errorf("%q", got)
	}
}

// Who comes back gets what was written meanwhile, all of it and nothing twice, whatever has become of the file.
func TestAReaderGoesOnWhereItStood(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		meanwhile func(d *directory)
		want      []string
	}{
		"nothing": {func(*directory) {}, nil},
		"written": {func(d *directory) { d.add("stdout", "f\n3\n") }, []string{"half", "3"}},
		"rotated": {func(d *directory) { d.add("stdout", "f\n3\n"); d.rotate("stdout", 1); d.add("stdout", "4\n") }, []string{"half", "3", "4"}},
		"rotated twice": {func(d *directory) {
			d.add("stdout", "f\n")
			d.rotate("stdout", 1)
			d.add("stdout", "3\n")
			d.rotate("stdout", 2)
			d.add("stdout", "4\n")
		}, []string{"half", "3", "4"}},
		"emptied":            {func(d *directory) { d.truncate("stdout"); d.add("stdout", "5\n") }, []string{"5"}},
		"removed, and anew":  {func(d *directory) { d.remove("stdout"); d.add("stdout", "6\n7\n8\n") }, []string{"7", "8"}}, // as who comes for the first time
		"rotated and erased": {func(d *directory) { d.rotate("stdout", 1); d.add("stdout", "8\n9\n"); d.remove("stdout.1") }, []string{"8", "9"}},
	} {
		d := newDirectory(t)
		d.add("stdout", "1\n2\nhal")
		first, err := Open(d.root, "stdout", Options{Lines: 10})
		if err != nil {
			t.Fatal(err)
		}
		var place Place
		if err := first.Copy(t.Context(), func(string, time.Time, []byte) error { place = first.Place(); return nil }); err != nil {
			t.Fatal(err)
		}
		keeper, err := os.Open(filepath.Join(d.path, "stdout")) // or another file may get the same inode
		if err != nil {
			t.Fatal(err)
		}
		first.Close()
		c.meanwhile(d)
		again, err := Open(d.root, "stdout", Options{Lines: 2, After: &place})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range more(t, again) {
			got = append(got, l[strings.LastIndexByte(l, ' ')+1:])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
		again.Close()
		keeper.Close()
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	for i, text := range []string{cri(1, Stdout, "F", "1"), cri(2, Stdout, "F", "2") + cri(3, Stdout, "P", "be"), cri(4, Stdout, "F", "gun") + cri(5, Stdout, "F", "5")} {
		d.add("0.log", text)
		if i < 2 {
			d.rename("0.log", fmt.Sprintf("0.log.20261126-12000%d", i))
			at := time.Unix(int64(1000+i), 0)
			if err := os.Chtimes(filepath.Join(d.path, fmt.Sprintf("0.log.20261126-12000%d", i)), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.add("0.log.20261126-115959.gz", "not looked into\n")
	d.add("10.log", cri(9, Stdout, "F", "another container's"))
	d.add("0.log.tmp", cri(9, Stdout, "F", "not looked into"))
	all := []string{"stdout 1 1", "stdout 2 2", "stdout 4 begun", "stdout 5 5"}
	same(t, "all", read(t, d, "0.log", Options{Format: CRI, Lines: -1}), all...)
	same(t, "three of them", read(t, d, "0.log", Options{Format: CRI, Lines: 3}), all[1:]...)
	same(t, "one", read(t, d, "0.log", Options{Format: CRI, Lines: 1}), all[3])
	// It is rotated while somebody reads: to the last line of the old file, then on in the new one.
	tail, err := Open(d.root, "0.log", Options{Format: CRI, Lines: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	same(t, "nothing yet", more(t, tail))
	d.add("0.log", cri(6, Stdout, "F", "6"))
	d.rename("0.log", "0.log.20261126-120009")
	same(t, "renamed", more(t, tail), "stdout 6 6")
	d.add("0.log.20261126-120009", cri(7, Stdout, "F", "7")) // its writer has not noticed yet
	d.add("0.log", cri(8, Stdout, "F", "8"))
	same(t, "the new one is there, and the old one still written", more(t, tail), "stdout 7 7")
	same(t, "the new one", more(t, tail), "stdout 8 8")
}

// TestTheLastLinesOfAnything compares with what is found by reading everything, for files of any shape.
func TestTheLastLinesOfAnything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newDirectory(t)
		var want []string
		files := 1 + r.IntN(3)
		second := 0
		for i := range files {
			var b strings.Builder
			for range r.IntN(400) {
				second++
				text := strings.Repeat("x", r.IntN(1+r.IntN(3000)))
				stream := []string{Stdout, Stderr}[r.IntN(2)]
				if cut := len(text) / 2; r.IntN(4) == 0 {
					b.WriteString(cri(second, stream, "P", text[:cut]) + cri(second, stream, "F", text[cut:]))
				} else {
					b.WriteString(cri(second, stream, "F", text))
				}
				want = append(want, fmt.Sprintf("%s %d %s", stream, second, text))
			}
			name := fmt.Sprintf("0.log.%d", files-i-1)
			if i == files-1 {
				name = "0.log"
			}
			d.add(name, b.String())
			at := time.Unix(int64(1000+i), 0)
			_ = os.Chtimes(filepath.Join(d.path, name), at, at)
		}
		n := 1 + r.IntN(500)
		got := read(t, d, "0.log", Options{Format: CRI, Lines: n})
		if w := want[max(0, len(want)-n):]; !slices.Equal(got, w) {
			t.Fatalf("seed %d: %d lines of %d in %d files: got %d", seed, n, len(want), files, len(got))
		}
		since := r.IntN(second + 1)
		got = read(t, d, "0.log", Options{Format: CRI, Lines: -1, Since: time.Unix(int64(since), 0)})
		if w := want[max(0, since-1):]; !slices.Equal(got, w) {
			t.Fatalf("seed %d: since %d of %d in %d files: got %d, want %d", seed, since, len(want), files, len(got), len(w))
		}
	}
}

// What is in the place of the log is not read: a link out of the directory, a pipe that nobody writes to, a directory.
func TestWhatIsNoLog(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	out := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(out, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(out, filepath.Join(d.path, "link")), unix.Mkfifo(filepath.Join(d.path, "pipe"), 0o600), os.Mkdir(filepath.Join(d.path, "dir"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe", "dir", "../secret", "/etc/passwd", "none"} {
		tail, err := Open(d.root, name, Options{Lines: -1})
		if err == nil {
			tail.Close()
			t.Errorf("%s is read", name)
		}
		if (name == "none") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nor does what takes its place later.
	d.add("log", "1\n")
	tail, err := Open(d.root, "log", Options{Lines: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	more(t, tail)
	d.rename("log", "log.1")
	d.rename("link", "log")
	for range 2 {
		err = tail.Copy(t.Context(), func(_ string, _ time.Time, line []byte) error { t.Errorf("%s", line); return nil })
	}
	if err == nil {
		t.Error("a link took the log's place, and that is no error")
	}
}

// A line without an end must not fill the memory, nor be lost.
func TestAnEndlessLine(t *testing.T) { // by itself: it counts what is allocated
	d := newDirectory(t)
	f, err := os.Create(filepath.Join(d.path, "log"))
	if err != nil {
		t.Fatal(err)
	}
	block := []byte(strings.Repeat("y", 1<<20))
	for range 64 {
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteString("\nlast\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	tail, err := Open(d.root, "log", Options{Lines: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	var lengths []int
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := tail.Copy(t.Context(), func(_ string, _ time.Time, line []byte) error { lengths = append(lengths, len(line)); return nil }); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if !slices.Equal(lengths, []int{maxLine, 4}) || after.TotalAlloc-before.TotalAlloc > 8<<20 {
		t.Errorf("%v, %d KB were allocated", lengths, (after.TotalAlloc-before.TotalAlloc)>>10)
	}
	if got := read(t, d, "log", Options{Lines: 1}); len(got) != 1 || !strings.HasSuffix(got[0], " last") {
		t.Errorf("the last line: %.100q", got)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	again, err := Open(d.root, "log", Options{Lines: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Copy(stopped, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever has left is still read to: %v", err)
	}
}
