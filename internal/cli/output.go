package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/resources"
	"github.com/orchestrator/orchestrator/internal/wire/mesosjson"
)

// table prints aligned columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, head ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)}
	t.row(head...)
	return t
}

// row adds a line. What tasks and frameworks call themselves comes from outside: it is printed without control characters,
// so that it can't drive the terminal.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		if cells[i] = printable(c); cells[i] == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

// printable replaces characters that a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

// printMessage prints a message as indented JSON.
func printMessage(cmd *cobra.Command, m proto.Message) error {
	raw, err := mesosjson.Marshal(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(cmd.OutOrStdout())
	return err
}

// printMessages prints messages as a JSON array.
func printMessages[M proto.Message](cmd *cobra.Command, list []M) error {
	all := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		raw, err := mesosjson.Marshal(m)
		if err != nil {
			return err
		}
		all = append(all, raw)
	}
	return printJSON(cmd, all)
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// share prints how much of a resource is used, as "used/total".
func share(used, total []*mesosv1.Resource, name string) string {
	u, t := resources.FromProtoTrusted(used), resources.FromProtoTrusted(total)
	return u.Quantity(name).String() + "/" + t.Quantity(name).String()
}

// age prints how long ago a time was.
func age(t *mesosv1.TimeInfo) string {
	if t == nil {
		return "-"
	}
	return since(time.Unix(0, t.GetNanoseconds()))
}

func ageSeconds(s float64) string {
	if s <= 0 {
		return "-"
	}
	return since(time.Unix(0, int64(s*1e9)))
}

func since(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// pick finds the one item that a name means: its whole id, a unique beginning of it, or another unique name of it.
func pick[T any](kind, name string, items []T, names func(T) (id string, others []string)) (T, error) {
	var found []T
	var matches []string
	for _, it := range items {
		id, others := names(it)
		if id == name {
			return it, nil
		}
		match := strings.HasPrefix(id, name)
		for _, o := range others {
			match = match || o == name
		}
		if match {
			found, matches = append(found, it), append(matches, id)
		}
	}
	var none T
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return none, fmt.Errorf("no %s %q: `orchestrator %s ls` lists them", kind, printable(name), kind)
	}
	return none, fmt.Errorf("%q means %d %ss (%s): write more of the id", printable(name), len(found), kind, strings.Join(matches[:min(3, len(matches))], ", "))
}
