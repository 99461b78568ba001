package zksync

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
	"github.com/orchestrator/orchestrator/internal/zk/tree"
	"github.com/orchestrator/orchestrator/internal/zk/zkfile"
	"github.com/orchestrator/orchestrator/internal/zk/zktest"
)

// ZooKeeper's own SnapshotComparer, which shares no line with ours, agrees with Diff: on two ensembles that the engine made equal,
// and on a node that only one of them has.
func TestSnapshotComparerAgrees(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	base := a.Base(t)
	a.Churn(t, base, 9, 600)
	cfg := config(a, b)
	e, stop := start(t, cfg)
	ready(t, e)
	equal(t, a, b, cfg.Scope)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	compare := func() string {
		t.Helper()
		var files []string
		for _, s := range []*zktest.Ensemble{a, b} {
			v, err := Side{Quorum: quorum(s)}.Read(t.Context(), "/")
			if err != nil {
				t.Fatal(err)
			}
			v.Tree.Remove(stateRoot + "/default/engines")
			for _, p := range []string{"/state", "", ".."} {
				if p == ".." {
					v.Tree.Remove(stateRoot)
				} else {
					v.Tree.Remove(stateRoot + "/default" + p)
				}
			}
			f, err := zkfile.WriteSnapshot(t.TempDir(), v.Tree)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		// Thresholds of 0: whatever differs by more than nothing is printed.
		out, err := exec.Command("java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", zktest.Jar, "org.apache.zookeeper.server.SnapshotComparer",
			"-l", files[0], "-r", files[1], "-b", "0", "-n", "0").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	differs := regexp.MustCompile(`(?m)^.*(found in|Delta|only in|bytes: [1-9]).*` + regexp.QuoteMeta(base) + `.*$`)
	out := compare()
	if !strings.Contains(out, "Analysis for depth") {
		t.Fatalf("not the comparer's output: %s", out)
	}
	if m := differs.FindAllString(out, 5); len(m) > 0 || strings.Contains(out, base) {
		t.Errorf("the comparer sees differences: %q", out[max(0, len(out)-2000):])
	}
	// A pair that is different on purpose: one node too many, one too few, one with other bytes. Both say so, of each.
	c := b.Client(t, zk.Config{Auth: super()})
	for _, p := range []string{"/less", "/other"} {
		if _, err := a.Client(t, zk.Config{}).Create(t.Context(), base+p, []byte("some bytes"), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	for p, data := range map[string]string{"/extra": "some bytes", "/other": "other bytes, and more of them"} {
		if _, err := c.Create(t.Context(), base+p, []byte(data), zk.OpenACL(), zk.Persistent); err != nil {
			t.Fatal(err)
		}
	}
	out = compare()
	proof, err := Compare(t.Context(), Side{Quorum: quorum(a)}, Side{Quorum: quorum(b)}, Scope{}, "no such link", 0)
	if err != nil {
		t.Fatal(err)
	}
	for p, what := range map[string]string{"/extra": "extra", "/less": "missing", "/other": "data"} {
		if !strings.Contains(out, base+p) {
			t.Errorf("the comparer does not see %s: %s", p, out[max(0, len(out)-2000):])
		}
		if !slices.ContainsFunc(proof.Differences, func(d tree.Difference) bool { return d.Path == base+p && d.What == what }) {
			t.Errorf("zk diff does not see %s %s: %+v", what, p, proof.Differences)
		}
	}
	if extra := slices.DeleteFunc(proof.Differences, func(d tree.Difference) bool { return strings.HasPrefix(d.Path, base) }); len(extra) > 0 {
		t.Errorf("zk diff sees more: %+v", extra)
	}
}
