package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// Files hold records as Mesos' agent writes them: four bytes of length, little endian, then one encoded message.
const recordHeader = 4

// maxRecord bounds what a corrupt length may make the reader allocate.
const maxRecord = 64 << 20

type vtMarshaler interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// Record encodes a message as one record.
func Record(m proto.Message) ([]byte, error) {
	vt, ok := m.(vtMarshaler)
	if !ok {
		body, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...), nil
	}
	n := vt.SizeVT()
	buf := make([]byte, recordHeader+n)
	binary.LittleEndian.PutUint32(buf, uint32(n))
	if _, err := vt.MarshalToSizedBufferVT(buf[recordHeader:]); err != nil {
		return nil, err
	}
	return buf, nil
}

// errShort: the file ends in the middle of a record.
var errShort = errors.New("the file ends in the middle of a record")

// readRecord decodes the record at the beginning of data into m and gives what follows it. io.EOF: there is none.
func readRecord(data []byte, m proto.Message) (rest []byte, err error) {
	if len(data) == 0 {
		return nil, io.EOF
	}
	if len(data) < recordHeader {
		return nil, errShort
	}
	n := binary.LittleEndian.Uint32(data)
	if n > maxRecord {
		return nil, fmt.Errorf("a record claims %d bytes: the file is corrupt", n)
	}
	if uint64(len(data)-recordHeader) < uint64(n) {
		return nil, errShort
	}
	body := data[recordHeader : recordHeader+int(n)]
	if err := unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("a record does not decode: %w", err)
	}
	return data[recordHeader+int(n):], nil
}

func unmarshal(body []byte, m proto.Message) error {
	if vt, ok := m.(interface{ UnmarshalVT([]byte) error }); ok {
		if err := vt.UnmarshalVT(body); err != nil {
			return err
		}
		return proto.CheckInitialized(m)
	}
	return proto.Unmarshal(body, m)
}

// readOne decodes a file that holds exactly one record.
func readOne(data []byte, m proto.Message) error {
	rest, err := readRecord(data, m)
	if errors.Is(err, io.EOF) && len(data) == 0 {
		return errors.New("the file is empty")
	}
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes follow the record", len(rest))
	}
	return nil
}
