package proctree

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]stat{
		"12 (sh) S 3 12 12 0":              {pid: 12, ppid: 3},
		"13 (a ) R 9 (b\n) Z 4 1":          {pid: 13, ppid: 4, zombie: true},
		"14 (()) X 1 2":                    {pid: 14, ppid: 1, zombie: true},
		"":                                 {},
		"x (sh) S 3":                       {},
		"15 sh S 3":                        {},
		"16 (sh)":                          {},
		"17 (sh) S x":                      {},
		"18 )sh( S 3 4":                    {},
		"99999999999999999999 (sh) S 3 12": {},
	} {
		if got, ok := parseStat([]byte(in)); got != want || ok != (want.pid != 0) {
			t.Errorf("%q: %+v %v, want %+v", in, got, ok, want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a) S 0 1"))
	f.Fuzz(func(_ *testing.T, in []byte) { parseStat(in) })
}

func TestDescendants(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ds := Descendants(cmd.Process.Pid)
	if len(ds) != 1 {
		t.Fatalf("below the shell: %v", ds)
	}
	if all := Descendants(os.Getpid(), cmd.Process.Pid); slices.Contains(all, ds[0]) || slices.Contains(all, cmd.Process.Pid) {
		t.Errorf("excepted tree is in %v", all)
	}
	Kill(cmd.Process.Pid, time.Second)
	if left := Descendants(cmd.Process.Pid); len(left) > 0 {
		t.Errorf("left after Kill: %v", left)
	}
}
