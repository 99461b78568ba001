package api

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogging(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if body := b.must(422, "POST", "/logging", `{"logger":"ROOT","level":"debug"}`); !strings.Contains(body, "orchestrator marathon") {
			t.Errorf("a level that can't be changed: %s", body)
		}
		level := new(slog.LevelVar)
		b.server.cfg.Level = level
		want := func(name string, l slog.Level) {
			t.Helper()
			if body := b.must(200, "GET", "/logging", ""); body != `{"ROOT":"`+name+`"}` || level.Level() != l {
				t.Errorf("%s, level %v, want %s", body, level.Level(), name)
			}
		}
		want("info", slog.LevelInfo)
		b.must(200, "POST", "/logging", `{"logger":"ROOT","level":"WARN"}`)
		want("warn", slog.LevelWarn)
		b.must(200, "POST", "/logging", `{"logger":"ROOT","level":"debug","durationSeconds":60}`)
		want("debug", slog.LevelDebug)
		// A second change for a while goes back to what was before the first.
		b.must(200, "POST", "/logging", `{"logger":"ROOT","level":"trace","durationSeconds":60}`)
		want("trace", slog.LevelDebug-4)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		want("warn", slog.LevelWarn)
		for _, bad := range []string{`{"logger":"other","level":"info"}`, `{"logger":"ROOT","level":"loud"}`, `{"level":"info"}`, `{"logger":"ROOT","level":"info","durationSeconds":-1}`, `{"logger":"ROOT","level":"info","durationSeconds":"soon"}`} {
			b.must(422, "POST", "/logging", bad)
		}
		want("warn", slog.LevelWarn)
	})
}
