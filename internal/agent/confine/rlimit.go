package confine

import (
	"fmt"
	"math"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// Rlimit is one resource limit; all ones is no limit.
type Rlimit struct {
	Resource   int // Linux' number
	Soft, Hard uint64
}

// rlimitNumbers are Linux' numbers of Mesos' names.
var rlimitNumbers = map[mesosv1.RLimitInfo_RLimit_Type]int{
	mesosv1.RLimitInfo_RLimit_RLMT_CPU: 0, mesosv1.RLimitInfo_RLimit_RLMT_FSIZE: 1, mesosv1.RLimitInfo_RLimit_RLMT_DATA: 2,
	mesosv1.RLimitInfo_RLimit_RLMT_STACK: 3, mesosv1.RLimitInfo_RLimit_RLMT_CORE: 4, mesosv1.RLimitInfo_RLimit_RLMT_RSS: 5,
	mesosv1.RLimitInfo_RLimit_RLMT_NPROC: 6, mesosv1.RLimitInfo_RLimit_RLMT_NOFILE: 7, mesosv1.RLimitInfo_RLimit_RLMT_MEMLOCK: 8,
	mesosv1.RLimitInfo_RLimit_RLMT_AS: 9, mesosv1.RLimitInfo_RLimit_RLMT_LOCKS: 10, mesosv1.RLimitInfo_RLimit_RLMT_SIGPENDING: 11,
	mesosv1.RLimitInfo_RLimit_RLMT_MSGQUEUE: 12, mesosv1.RLimitInfo_RLimit_RLMT_NICE: 13, mesosv1.RLimitInfo_RLimit_RLMT_RTPRIO: 14,
	mesosv1.RLimitInfo_RLimit_RLMT_RTTIME: 15,
}

// Name gives the limit's name as an OCI runtime wants it: RLIMIT_NOFILE.
func (r Rlimit) Name() string {
	for t, n := range rlimitNumbers {
		if n == r.Resource {
			return "RLIMIT_" + strings.TrimPrefix(t.String(), "RLMT_")
		}
	}
	return fmt.Sprintf("RLIMIT_%d", r.Resource)
}

// rlimits reads the limits of a container: soft and hard are both set, or neither, which means none.
func rlimits(info *mesosv1.ContainerInfo) ([]Rlimit, error) {
	var out []Rlimit
	seen := make(map[int]bool)
	for _, r := range info.GetRlimitInfo().GetRlimits() {
		n, ok := rlimitNumbers[r.GetType()]
		l := Rlimit{Resource: n, Soft: math.MaxUint64, Hard: math.MaxUint64}
		switch {
		case !ok:
			return nil, fmt.Errorf("rlimit type %s is not known", r.GetType())
		case seen[n]:
			return nil, fmt.Errorf("rlimit %s: it is set twice", r.GetType())
		case (r.Soft == nil) != (r.Hard == nil):
			return nil, fmt.Errorf("rlimit %s: soft and hard limit must both be set, or neither", r.GetType())
		case r.Soft != nil && r.GetSoft() > r.GetHard():
			return nil, fmt.Errorf("rlimit %s: the soft limit is above the hard limit", r.GetType())
		case r.Soft != nil:
			l.Soft, l.Hard = r.GetSoft(), r.GetHard()
		}
		seen[n] = true
		out = append(out, l)
	}
	return out, nil
}
