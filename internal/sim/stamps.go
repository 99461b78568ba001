package sim

import (
	"encoding/binary"
	"time"
)

// Stamps travel from a simulated agent to a simulated framework in TaskStatus.data.
type Stamps struct {
	Arrived int64 // the task reached the agent, Unix nanoseconds
	Sent    int64 // this status was sent
}

const stampsSize = 16

func (s Stamps) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(s.Arrived)), uint64(s.Sent))
}

func parseStamps(b []byte) (Stamps, bool) {
	if len(b) != stampsSize {
		return Stamps{}, false
	}
	return Stamps{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}, true
}

func now() int64 { return time.Now().UnixNano() }
