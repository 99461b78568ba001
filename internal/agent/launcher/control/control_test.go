package control

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	for _, s := range []string{"", "hello", string(make([]byte, MaxRecord))} {
		if err := Write(&buf, Stdout, []byte(s)); err != nil {
			t.Fatal(err)
		}
		typ, got, err := Read(&buf)
		if err != nil || typ != Stdout || string(got) != s {
			t.Errorf("record of %d bytes came back as %c, %d bytes, %v", len(s), typ, len(got), err)
		}
	}
	if _, _, err := Read(bytes.NewReader([]byte("O\xff\xff\xff\xff"))); !errors.Is(err, ErrRecord) {
		t.Errorf("huge record: %v", err)
	}
	if _, _, err := Read(bytes.NewReader([]byte("O\x00\x00\x00\x03a"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut record: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(Append(nil, Stdin, []byte("abc")))
	f.Fuzz(func(t *testing.T, in []byte) {
		typ, p, err := Read(bytes.NewReader(in))
		if err == nil && !bytes.HasPrefix(in, Append(nil, typ, p)) {
			t.Fatal("what was read is not what was written")
		}
	})
}
