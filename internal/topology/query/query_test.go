package query

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes an expression in the vectors' form.
func tree(e *Expr) any {
	out := []any{string(e.Op)}
	switch e.Op {
	case OpAll:
	case OpAnd, OpOr, OpNot:
		for _, a := range e.Args {
			out = append(out, tree(a))
		}
	case OpText, OpRegexp:
		out = append(out, e.Value)
	case OpExists:
		out = append(out, e.Field)
	case OpNum:
		out = append(out, e.Field, e.Cmp, e.Number)
	default:
		out = append(out, e.Field, e.Value)
	}
	return out
}

func TestVectors(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Q     string `json:"q"`
		AST   any    `json:"ast"`
		Error int    `json:"error"`
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 80 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		e, err := Parse(v.Q)
		if v.Error > 0 {
			var qe *Error
			if !errors.As(err, &qe) {
				t.Errorf("%.60q: taken as %v", v.Q, tree(e))
			} else if qe.Column != v.Error {
				t.Errorf("%.60q: column %d, want %d (%v)", v.Q, qe.Column, v.Error, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%.60q: %v", v.Q, err)
			continue
		}
		if d := cmp.Diff(v.AST, tree(e)); d != "" {
			t.Errorf("%.60q: %s", v.Q, d)
		}
	}
}

type doc map[string]string

func (d doc) Texts(yield func(string) bool) {
	for _, k := range []string{"label", "minor", "label.app"} {
		if v, ok := d[k]; ok && !yield(v) {
			return
		}
	}
}

func (d doc) Field(name string, yield func(string) bool) {
	if v, ok := d[name]; ok {
		yield(v)
	} else if v, ok := d["label."+name]; ok {
		yield(v)
	}
}

func (d doc) Number(name string) (float64, bool) {
	v, err := strconv.ParseFloat(d[name], 64)
	return v, err == nil
}

func TestMatch(t *testing.T) {
	t.Parallel()
	d := doc{"label": "Web.1", "minor": "vm1", "label.app": "shop", "cpu": "75", "host": "vm1", "state": "running"}
	for q, want := range map[string]bool{
		"": true, "web": true, "WEB.1": true, "shop": true, "db": false, "-db": true, "/^web/": true, "/^eb/": false,
		"host:VM": true, "host=vm": false, "host=VM1": true, "host!=vm2": true, "host!=vm1": false, "nothing!=x": false,
		"app:shop": true, "label.app=shop": true, "app:*": true, "pod:*": false, "-pod:*": true, "state:/^run/": true,
		"cpu>50%": true, "cpu<50%": false, "cpu>=75": true, "cpu>75": false, "cpu<=75": true, "cpu=75": true, "cpu!=75": false, "cpu!=74": true,
		"mem>1": false, "mem!=1": false, "web (cpu<50 or host:vm1)": true, "web (cpu<50 or host:vm2)": false,
	} {
		e, err := Parse(q)
		if err != nil {
			t.Errorf("%q: %v", q, err)
		} else if e.Match(d) != want {
			t.Errorf("%q: %v", q, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, q := range []string{"", "a (b or -c)", `x:"y" cpu>5gb /r/`, "not", "((((", `"\"`} {
		f.Add(q)
	}
	d := doc{"label": "web"}
	f.Fuzz(func(t *testing.T, q string) {
		e, err := Parse(q)
		if err != nil {
			var qe *Error
			if !errors.As(err, &qe) || qe.Column < 1 || qe.Column > len([]rune(q))+1 {
				t.Fatalf("%q: %v", q, err)
			}
			return
		}
		e.Match(d)
		e.UsesNumbers()
	})
}
