package monitor

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/orchestrator/orchestrator/internal/topology/pipe"
)

// A line comes as it is, colours included: the console shows them. What it is of, and whether it is asked for, colours do not change.
func TestALogLineIsAsItIs(t *testing.T) {
	t.Parallel()
	const red = "\x1b[1;31mERROR\x1b[0m db: connection \x1b[4mrefused\x1b[24m"
	l := parseLine(0, pipe.Stdout, []byte("2026-11-26T10:00:00.5Z "+red+"\r"))
	if l.M != red || l.L != "error" || l.T != 1795687200500 || l.Cut {
		t.Errorf("%+v", l)
	}
	if l.P != "" {
		t.Errorf("a place of a log that has none: %q", l.P)
	}
	if l := parseLine(0, pipe.Stdout, []byte("2026-11-26T10:00:00.5Z@18446744073709551615-9223372036854775807 x y")); l.P != "18446744073709551615-9223372036854775807" || l.M != "x y" || l.T != 1795687200500 {
		t.Errorf("%+v", l)
	}
	if l := parseLine(0, pipe.Stdout, []byte("me@example.org writes")); l.P != "" || l.M != "me@example.org writes" {
		t.Errorf("%+v", l)
	}
	var back logLine
	if b, err := json.Marshal(l); err != nil || json.Unmarshal(b, &back) != nil || back != l {
		t.Errorf("on the wire: %+v", back)
	}
	if f := (logFilter{text: "connection refused", level: -1}); !f.keeps(&l) {
		t.Error("who looks for the words does not find them for their colours")
	}
	for in, want := range map[string]string{"a\xffb": "a\ufffdb", "tab\there": "tab\there", "": ""} {
		if got := parseLine(0, pipe.Stdout, []byte(in)).M; got != want {
			t.Errorf("%q is %q", in, got)
		}
	}
	long := parseLine(0, pipe.Stdout, []byte(strings.Repeat("ü", maxLine)))
	if !long.Cut || len(long.M) > maxLine || len(long.M) < maxLine-4 || !utf8.ValidString(long.M) || strings.ContainsRune(long.M, utf8.RuneError) {
		t.Errorf("a long line of %d bytes, cut: %v", len(long.M), long.Cut)
	}
}

// A line of a megabyte is one line that is cut, however it arrives, and not thirty; what follows it is whole.
func TestALongLineIsOneLine(t *testing.T) {
	t.Parallel()
	in := []byte("2026-11-26T10:00:00Z " + strings.Repeat("x", 1<<20) + "\n2026-11-26T10:00:01Z next\n" + strings.Repeat("y", 5*maxLine))
	for _, size := range []int{1000, 32 << 10, len(in)} {
		lr := lineReader{parts: map[uint32][]byte{}, over: map[uint32]bool{}}
		var got []logLine
		keep := func(l logLine) error { got = append(got, l); return nil }
		for rest := in; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if err := lr.take(0, pipe.Stdout, rest[:min(size, len(rest))], keep); err != nil {
				t.Fatal(err)
			}
			if n := len(lr.parts[pipe.Stdout]); n > 2*maxLine {
				t.Fatalf("%d bytes are held", n)
			}
		}
		if err := lr.rest(0, keep); err != nil {
			t.Fatal(err)
		}
		if len(got) != 3 || !got[0].Cut || len(got[0].M) != maxLine || got[1].M != "next" || got[1].Cut || !got[2].Cut || got[2].M[0] != 'y' {
			t.Errorf("in pieces of %d: %d lines", size, len(got))
		}
	}
}
