package logfile

import (
	"bytes"
	"encoding/json"
	"time"
)

// Format says how lines are written.
type Format int

// The formats.
const (
	// Plain has nothing but the output. The time of a line is that of the file, or when it was read.
	Plain Format = iota
	// CRI has "2026-10-06T00:17:09.669794202Z stdout F message", with P instead of F when the line goes on in the next one.
	CRI
	// JSON has {"log":"message\n","stream":"stdout","time":"…"}, without \n when the line goes on in the next one.
	JSON
)

// The streams.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// piece is one line of a file, which may hold a part of what was written as a line.
type piece struct {
	at     time.Time // zero: not said
	stream string
	text   []byte
	whole  bool // the line ends here
}

// parse reads a line of a file, without its end. What is not in the format is taken as it is: better shown than lost.
func (f Format) parse(line []byte) piece {
	p := piece{stream: Stdout, text: line, whole: true}
	switch f {
	case CRI:
		fields := bytes.SplitN(line, []byte{' '}, 4)
		if len(fields) < 3 {
			return p
		}
		at, err := time.Parse(time.RFC3339Nano, string(fields[0]))
		stream := string(fields[1])
		if err != nil || stream != Stdout && stream != Stderr {
			return p
		}
		// There may be more tags one day, after a colon.
		tag, _, _ := bytes.Cut(fields[2], []byte{':'})
		p.at, p.stream, p.whole, p.text = at, stream, string(tag) != "P", nil
		if len(fields) == 4 {
			p.text = fields[3]
		}
	case JSON:
		var e struct {
			Log    *string
			Stream string
			Time   time.Time
		}
		if json.Unmarshal(line, &e) != nil || e.Log == nil {
			return p
		}
		p.at, p.text = e.Time, []byte(*e.Log)
		if e.Stream == Stderr {
			p.stream = Stderr
		}
		p.text, p.whole = bytes.CutSuffix(p.text, []byte{'\n'})
	}
	return p
}
