// Package version says what was built. Mesos' clients compare the version against Mesos' own, so the compatible Mesos
// version is what the Mesos endpoints report.
package version

import "runtime/debug"

// Mesos is the Apache Mesos version whose behaviour and API the master and agent follow; /version and MasterInfo report it.
const Mesos = "1.11.0"

// Version is the version of this program.
const Version = "0.1.0"

// Revision returns the version control revision that the binary was built from, or "unknown".
func Revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}
