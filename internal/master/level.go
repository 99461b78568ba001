package master

import (
	"fmt"
	"log/slog"
	"strings"
)

// Level is --logging_level. glog's FATAL is taken as ERROR.
func (c *Config) Level() (slog.Level, error) {
	switch strings.ToUpper(c.LogLevel) {
	case "DEBUG":
		return slog.LevelDebug, nil
	case "INFO", "":
		return slog.LevelInfo, nil
	case "WARNING", "WARN":
		return slog.LevelWarn, nil
	case "ERROR", "FATAL":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is none of DEBUG, INFO, WARNING, ERROR", c.LogLevel)
}
