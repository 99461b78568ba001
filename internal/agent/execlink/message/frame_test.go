package message

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFramesGoThere(t *testing.T) {
	t.Parallel()
	code := int32(3)
	want := []Up{
		{Subscribe: &Subscribe{ContainerID: "c", FrameworkID: "f", ExecutorID: "e", Token: "t", Tasks: [][]byte{{1, 2}}}},
		{Update: &Update{TaskID: "a", State: "TASK_RUNNING", UUID: []byte("0123456789abcdef"), Check: &CheckStatus{Type: "COMMAND", ExitCode: &code}}},
	}
	var buf bytes.Buffer
	for _, u := range want {
		if err := Write(&buf, u); err != nil {
			t.Fatal(err)
		}
	}
	for i := range want {
		var got Up
		if err := Read(&buf, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want[i], got); d != "" {
			t.Error(d)
		}
	}
	if err := Read(&buf, &Up{}); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v, want EOF", err)
	}
}

func TestBadFramesAreErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"huge":      {"\xff\xff\xff\xff{}", ErrTooLarge},
		"cut head":  {"\x00\x00", io.ErrUnexpectedEOF},
		"cut body":  {"\x00\x00\x00\x09{}", io.ErrUnexpectedEOF},
		"not JSON":  {"\x00\x00\x00\x01{", nil},
		"bad field": {"\x00\x00\x00\x0c{\"update\":1}", nil},
	} {
		err := Read(bytes.NewReader([]byte(c.in)), &Up{})
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	good, _ := Append(nil, Up{Wait: &NestedWait{Request: 1, ContainerID: "a.b"}})
	f.Add(good)
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var u Up
		var d Down
		if Read(bytes.NewReader(in), &u) == nil {
			if _, err := Append(nil, u); err != nil {
				t.Fatal(err)
			}
		}
		_ = Read(bytes.NewReader(in), &d)
	})
}
