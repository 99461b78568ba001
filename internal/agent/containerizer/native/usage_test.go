package native

import (
	"testing"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

func TestSumInterfaces(t *testing.T) {
	t.Parallel()
	s := &mesosv1.ResourceStatistics{}
	sumInterfaces(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     900       9    9    9    0     0          0         0      900       9    9    9    0     0       0          0
  eth0:     100       2    3    4    5     6          7         8        9      10   11   12   13    14      15         16
  eth1:       1       1    1    1    1     1          1         1        1       1    1    1    1     1       1          1
`, s)
	if s.GetNetRxBytes() != 101 || s.GetNetRxPackets() != 3 || s.GetNetRxErrors() != 4 || s.GetNetRxDropped() != 5 ||
		s.GetNetTxBytes() != 10 || s.GetNetTxPackets() != 11 || s.GetNetTxErrors() != 12 || s.GetNetTxDropped() != 13 {
		t.Errorf("%v", s)
	}
}
