package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/orchestrator/orchestrator/internal/marathon/spec"
)

// rootLogger is the one logger that there is.
const rootLogger = "ROOT"

// levels are Marathon's names. What slog has no level for is the next finer or coarser one.
var levels = map[string]slog.Level{
	"trace": slog.LevelDebug - 4, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError, "off": slog.LevelError + 4,
}

func levelName(l slog.Level) string {
	for _, name := range []string{"trace", "debug", "info", "warn", "error"} {
		if l <= levels[name] {
			return name
		}
	}
	return "off"
}

func (s *Server) logging(*request) (*answer, error) {
	level := slog.LevelInfo
	if s.cfg.Level != nil {
		level = s.cfg.Level.Level()
	}
	return jsonAnswer(http.StatusOK, map[string]string{rootLogger: levelName(level)})
}

// setLogging changes the level of the log, for a while when durationSeconds is given.
func (s *Server) setLogging(r *request) (*answer, error) {
	v, err := r.read()
	if err != nil {
		return nil, err
	}
	o, _ := v.(spec.Object)
	name, _ := o["logger"].(string)
	text, _ := o["level"].(string)
	level, known := levels[strings.ToLower(text)]
	duration, err := seconds(o["durationSeconds"])
	switch {
	case err != nil:
		return nil, unprocessable(err)
	case name != rootLogger:
		return nil, unprocessable(fmt.Errorf("there is no logger %q; there is only %s", name, rootLogger))
	case !known:
		return nil, unprocessable(fmt.Errorf("%q is no level; levels are trace, debug, info, warn, error, off", text))
	case s.cfg.Level == nil:
		return nil, unprocessable(errors.New("the log of this process is shared with other components and its level is fixed; run the services with `orchestrator marathon` to change it"))
	}
	s.levelMu.Lock()
	defer s.levelMu.Unlock()
	if s.levelTimer != nil && s.levelTimer.Stop() {
		// The change before this one was for a while, and ends here.
		s.cfg.Level.Set(s.levelBefore)
	}
	s.levelTimer = nil
	s.levelBefore = s.cfg.Level.Level()
	s.cfg.Level.Set(level)
	if duration > 0 {
		before := s.levelBefore
		s.levelTimer = time.AfterFunc(duration, func() { s.cfg.Level.Set(before) })
	}
	answer := map[string]any{"logger": name, "level": levelName(level)}
	if duration > 0 {
		answer["durationSeconds"] = int(duration / time.Second)
	}
	return jsonAnswer(http.StatusOK, answer)
}

// seconds reads an optional number of whole seconds.
func seconds(v any) (time.Duration, error) {
	if v == nil {
		return 0, nil
	}
	var n int64
	if _, err := fmt.Sscanf(fmt.Sprint(v), "%d", &n); err != nil || n < 0 || n > 1<<31 {
		return 0, fmt.Errorf("durationSeconds must be a number of seconds, not %v", v)
	}
	return time.Duration(n) * time.Second, nil
}
