package logfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options choose what is read.
type Options struct {
	Format Format
	// Lines is how many of the last ones there are to be; negative: all.
	Lines int
	// Since and Until bound the time of lines; zero: not. A plain file's lines have no time of their own: they are not asked.
	Since, Until time.Time
	// Stream is Stdout or Stderr; "" is both. A plain file is all of the one that Plain names.
	Stream string
	// Plain is the stream that a plain file holds. Default Stdout.
	Plain string
	// After is where somebody has read a plain file to before: what follows is read, and nothing else, also when the file was rotated away or emptied since.
	// When it is there no more the last lines are read, as without it.
	After *Place
}

// Place is how far a file has been read.
type Place struct {
	File   uint64 // inode
	Offset int64
}

const (
	// maxLine bounds a line that is handed on; what is beyond it is left out.
	maxLine = 64 << 10
	// maxBack bounds how far back in a file the beginning of the last lines is looked for.
	maxBack = 8 << 20
	// maxRotated is how many files that were rotated away are read.
	maxRotated = 10
)

// Tail reads one log, from where the last lines begin to its end, and on as it grows.
type Tail struct {
	root *os.Root
	name string
	o    Options

	before []opened // older files, oldest first, that are read before the last
	now    opened
	buf    *bufio.Reader
	part   []byte // of a line of the file that has not ended yet
	read   int64  // how far the file is read
	file   uint64 // inode of that file
	at     time.Time
	lines  map[string]*line // by stream: what has not ended yet
	left   bool             // another file has taken this one's place
}

type opened struct {
	file *os.File
	from int64
}

// line is one that is being put together.
type line struct {
	at   time.Time
	text []byte
}

// Open finds the file and where in it to begin. It says fs.ErrNotExist when there is none.
func Open(root *os.Root, name string, o Options) (*Tail, error) {
	if o.Plain == "" {
		o.Plain = Stdout
	}
	t := &Tail{root: root, name: name, o: o, lines: map[string]*line{}}
	f, err := t.open(name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	t.at = st.ModTime()
	if o.After != nil && t.goOn(f, st) {
		return t, t.start()
	}
	from, found, enough, err := t.beginning(f, o.Lines)
	if err != nil {
		f.Close()
		return nil, err
	}
	t.now = opened{f, from}
	if !enough && o.Lines != 0 {
		t.older(found)
	}
	return t, t.start()
}

// goOn finds the place behind what was read before, in the file or in one that was rotated away.
func (t *Tail) goOn(f *os.File, st fs.FileInfo) bool {
	a := *t.o.After
	if inode(st) == a.File {
		if a.Offset > st.Size() { // it was emptied, and is written from the start
			a.Offset = 0
		}
		t.now = opened{f, a.Offset}
		return true
	}
	var after []opened // newest first
	for _, st := range t.rotatedAway() {
		f, err := t.open(st.Name())
		if err != nil {
			continue // gone meanwhile
		}
		if inode(st) == a.File && a.Offset <= st.Size() {
			t.before = append(t.before, opened{f, a.Offset})
			for _, o := range slices.Backward(after) {
				t.before = append(t.before, o)
			}
			break
		}
		after = append(after, opened{f, 0})
	}
	if t.before == nil {
		for _, o := range after {
			o.file.Close()
		}
		return false
	}
	t.now = opened{f, 0}
	return true
}

func inode(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Ino
	}
	return 0
}

// Plain reports whether the file holds nothing but the output.
func (t *Tail) Plain() bool { return t.o.Format == Plain }

// Place is behind the last line that was handed on.
func (t *Tail) Place() Place { return Place{t.file, t.read} }

// open opens a regular file below the directory. A device or a pipe in its place is neither read nor waited for.
func (t *Tail) open(name string) (*os.File, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// rotated matches what follows the name of a file that was rotated away: a time or a number. Those that were compressed end with .gz.
var rotated = regexp.MustCompile(`^\.[0-9]+(-[0-9]+)?$`)

// older adds files that were rotated away, as many as hold the lines that the last one lacks.
func (t *Tail) older(have int) {
	for _, st := range t.rotatedAway() {
		f, err := t.open(st.Name())
		if err != nil {
			continue // gone meanwhile
		}
		want := t.o.Lines
		if want >= 0 {
			want -= have
		}
		from, found, enough, err := t.beginning(f, want)
		if err != nil {
			f.Close()
			return
		}
		t.before = slices.Insert(t.before, 0, opened{f, from})
		if have += found; enough {
			return
		}
	}
}

// rotatedAway lists the files that were rotated away, the newest first.
func (t *Tail) rotatedAway() []fs.FileInfo {
	d, err := t.root.Open(".")
	if err != nil {
		return nil
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	var list []fs.FileInfo
	for _, e := range entries {
		if n := e.Name(); len(n) > len(t.name) && n[:len(t.name)] == t.name && rotated.MatchString(n[len(t.name):]) {
			if st, err := e.Info(); err == nil {
				list = append(list, st)
			}
		}
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	return list[:min(len(list), maxRotated)]
}

// beginning looks for the place in a file from which on it holds so many lines that are wanted, and how many it holds of them.
// enough says that older files need not be asked.
func (t *Tail) beginning(f *os.File, lines int) (from int64, found int, enough bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, false, err
	}
	size := st.Size()
	if lines == 0 {
		return size, 0, true, nil
	}
	if lines < 0 && (t.o.Since.IsZero() || t.o.Format == Plain) {
		return 0, 0, false, nil
	}
	for back := int64(64 << 10); ; back *= 4 {
		whole, last := back >= size, back >= maxBack
		from, found, early, err := t.scan(f, max(0, size-back), size, lines)
		switch {
		case err != nil:
			return 0, 0, false, err
		// One more than is wanted was seen, or one that is too old: what comes first is whole.
		case lines > 0 && found > lines:
			return from, lines, true, nil
		case early:
			return from, found, true, nil
		case whole:
			return from, found, lines > 0 && found == lines, nil
		case last:
			return from, found, true, nil
		}
	}
}

// scan walks a piece of a file, and tells where the last so many wanted lines begin in it, how many it holds (one more than asked
// for means: or more), and whether it holds some that are too old.
func (t *Tail) scan(f *os.File, from, to int64, lines int) (begin int64, found int, early bool, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, to-from), 32<<10)
	at := from
	if from > 0 {
		skipped, err := discardLine(r)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, false, err
		}
		at += skipped
	}
	var begins []int64 // of the wanted lines, the last ones
	open := map[string]int64{}
	first := int64(-1)
	for {
		head, n, err := readLine(r)
		if n == 0 || errors.Is(err, io.EOF) { // a line without an end is read later, when it has one
			break
		}
		if err != nil {
			return 0, 0, false, err
		}
		p := t.parse(head)
		if _, goes := open[p.stream]; !goes {
			open[p.stream] = at
		}
		if p.whole {
			switch {
			case t.early(p):
				early = true
			case t.wanted(p):
				if first < 0 || open[p.stream] < first {
					first = open[p.stream]
				}
				found++
				if lines > 0 {
					if begins = append(begins, open[p.stream]); len(begins) > lines+1 {
						begins = begins[1:]
					}
				}
			}
			delete(open, p.stream)
		}
		at += n
	}
	switch {
	case lines > 0 && len(begins) > lines:
		// One that came in pieces may have begun before others that ended before it.
		return slices.Min(begins[1:]), lines + 1, early, nil
	case first >= 0:
		return first, found, early, nil
	case early:
		return at, 0, true, nil
	}
	return from, 0, false, nil
}

func (t *Tail) parse(line []byte) piece {
	p := t.o.Format.parse(line)
	if t.o.Format == Plain {
		p.stream = t.o.Plain
	}
	return p
}

func (t *Tail) early(p piece) bool {
	return !t.o.Since.IsZero() && !p.at.IsZero() && p.at.Before(t.o.Since)
}

// wanted says whether a line is of the stream and the time that was asked for.
func (t *Tail) wanted(p piece) bool {
	return (t.o.Stream == "" || p.stream == t.o.Stream) && !t.early(p) && (t.o.Until.IsZero() || p.at.IsZero() || p.at.Before(t.o.Until))
}

// discardLine skips to the end of a line.
func discardLine(r *bufio.Reader) (n int64, err error) {
	for {
		b, err := r.ReadSlice('\n')
		n += int64(len(b))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
}

// readLine gives a line without its end, or the first 32 KB of it, and how long it is. It is good until the next call.
func readLine(r *bufio.Reader) (head []byte, n int64, err error) {
	b, err := r.ReadSlice('\n')
	n = int64(len(b))
	if errors.Is(err, bufio.ErrBufferFull) {
		head = slices.Clone(b)
		more, err := discardLine(r)
		return head, n + more, err
	}
	if len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b, n, err
}

// start begins with the oldest file.
func (t *Tail) start() error {
	t.buf = bufio.NewReaderSize(nil, maxLine)
	if len(t.before) > 0 {
		return t.begin(t.before[0])
	}
	return t.begin(t.now)
}

// begin reads on in a file.
func (t *Tail) begin(o opened) error {
	st, err := o.file.Stat()
	if err != nil {
		return err
	}
	t.buf.Reset(o.file)
	t.read, t.file = o.from, inode(st)
	_, err = o.file.Seek(o.from, io.SeekStart)
	return err
}

// Close gives the files up.
func (t *Tail) Close() {
	for _, o := range append(t.before, t.now) {
		if o.file != nil {
			o.file.Close()
		}
	}
	t.before, t.now = nil, opened{}
}

// Copy hands on the lines that there are. It returns at the end of the log, and goes on from there when it is called again.
func (t *Tail) Copy(ctx context.Context, each func(stream string, at time.Time, line []byte) error) error {
	for {
		for n := 0; ; n++ {
			if n%256 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			b, err := t.buf.ReadSlice('\n')
			t.read += int64(len(b))
			if len(b) > 0 {
				ends := b[len(b)-1] == '\n'
				if err := t.take(b, ends, each); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return fmt.Errorf("read the log: %w", err)
			}
		}
		more, err := t.next()
		if err != nil || !more {
			t.at = time.Now()
			return err
		}
	}
}

// take adds a piece of the file, and hands on what has become a line with it.
func (t *Tail) take(b []byte, ends bool, each func(stream string, at time.Time, line []byte) error) error {
	if ends {
		b = b[:len(b)-1]
	}
	if room := 2*maxLine - len(t.part); len(b) > room {
		b = b[:room]
	}
	t.part = append(t.part, b...)
	if !ends {
		return nil
	}
	p := t.parse(t.part)
	t.part = t.part[:0]
	l := t.lines[p.stream]
	if l == nil {
		l = &line{}
		t.lines[p.stream] = l
	}
	l.text = append(l.text, p.text[:min(len(p.text), maxLine-len(l.text))]...)
	if !p.whole {
		return nil
	}
	l.at = p.at
	if l.at.IsZero() {
		l.at = t.at
	}
	defer func() { l.text = l.text[:0] }()
	if !t.wanted(p) {
		return nil
	}
	return each(p.stream, l.at, l.text)
}

// next goes on in a newer file: the next of those that were there at the beginning, or the one that has taken this one's place.
func (t *Tail) next() (bool, error) {
	if len(t.before) > 0 {
		t.before[0].file.Close()
		if t.before = t.before[1:]; len(t.before) > 0 {
			return true, t.begin(t.before[0])
		}
		return true, t.begin(t.now)
	}
	st, err := t.now.file.Stat()
	if err != nil {
		return false, err
	}
	switch here, err := t.root.Stat(t.name); {
	case errors.Is(err, fs.ErrNotExist): // between its going and the next one's coming
		return false, nil
	case err != nil:
		return false, err
	case os.SameFile(st, here):
		if t.read <= st.Size() {
			return false, nil
		}
		// It was emptied, and is written from the start.
		t.part = t.part[:0]
		return true, t.begin(opened{t.now.file, 0})
	case t.read < st.Size():
		return true, nil // written after it was read to its end, and before it was rotated away
	}
	f, err := t.open(t.name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !t.left {
		// Who writes may have opened the new one, and still be about to write to this one: once more.
		t.left = true
		f.Close()
		return false, nil
	}
	t.now.file.Close()
	t.now, t.left = opened{f, 0}, false
	t.part = t.part[:0]
	return true, t.begin(t.now)
}
