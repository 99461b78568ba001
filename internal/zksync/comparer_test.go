package zksync

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/orchestrator/orchestrator/internal/zk"
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
	c := b.Client(t, zk.Config{Auth: super()})
	if _, err := c.Create(t.Context(), base+"/extra", []byte("some bytes"), zk.OpenACL(), zk.Persistent); err != nil {
		t.Fatal(err)
	}
	if out := compare(); !strings.Contains(out, base+"/extra") {
		t.Errorf("the comparer does not see the extra node: %s", out[max(0, len(out)-2000):])
	}
}
