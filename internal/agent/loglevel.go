package agent

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/orchestrator/orchestrator/internal/config"
)

func parseDuration(s string) (time.Duration, error) { return config.ParseDuration(s) }

// logLevels raises the level of the log for a while (SET_LOGGING_LEVEL, /logging/toggle). Mesos counts verbosity: 0 is
// the configured level, anything above shows debug messages.
type logLevels struct {
	mu     sync.Mutex
	level  *slog.LevelVar
	normal slog.Level
	timer  *time.Timer
	now    int
}

func newLogLevels(level *slog.LevelVar) *logLevels {
	l := &logLevels{level: level}
	if level != nil {
		l.normal = level.Level()
	}
	return l
}

func (l *logLevels) verbosity() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// set changes the verbosity; after d it goes back.
func (l *logLevels) set(verbosity int, d time.Duration) error {
	if l.level == nil {
		return errors.New("the log's level can't be changed in this process")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.now = verbosity
	if verbosity == 0 {
		l.level.Set(l.normal)
		return nil
	}
	l.level.Set(min(slog.LevelDebug, l.normal))
	l.timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now = 0
		l.level.Set(l.normal)
	})
	return nil
}
