package metrics

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// System shows the machine under Mesos' system/ names.
func (r *Registry) System() {
	r.Source(func(emit func(Name, float64)) {
		emit(Name{Mesos: "system/cpus_total"}, float64(runtime.NumCPU()))
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return // not to be had here; the names are left out, as Mesos does
		}
		const loadScale = 1 << 16
		emit(Name{Mesos: "system/load_1min"}, float64(info.Loads[0])/loadScale)
		emit(Name{Mesos: "system/load_5min"}, float64(info.Loads[1])/loadScale)
		emit(Name{Mesos: "system/load_15min"}, float64(info.Loads[2])/loadScale)
		unit := float64(info.Unit)
		emit(Name{Mesos: "system/mem_total_bytes"}, float64(info.Totalram)*unit)
		emit(Name{Mesos: "system/mem_free_bytes"}, float64(info.Freeram)*unit)
	})
}
