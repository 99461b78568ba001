package link

import "google.golang.org/protobuf/encoding/protowire"

// Numbers of link.v1's fields.
const (
	fieldUpdateAck = 27 // of Message

	fieldFrameworkID = 1 // of UpdateAck
	fieldTaskID      = 2
	fieldUUID        = 3

	fieldValue = 1 // of all ids
)

// AppendUpdateAck appends an encoded Message with an UpdateAck, for SendRaw.
func AppendUpdateAck(b []byte, framework, task string, uuid []byte) []byte {
	frameworkSize, taskSize := sizeOfID(framework), sizeOfID(task)
	size := sizeOfBytes(fieldFrameworkID, frameworkSize) + sizeOfBytes(fieldTaskID, taskSize) + sizeOfBytes(fieldUUID, len(uuid))
	b = appendHead(b, fieldUpdateAck, size)
	b = appendID(b, fieldFrameworkID, frameworkSize, framework)
	b = appendID(b, fieldTaskID, taskSize, task)
	return append(appendHead(b, fieldUUID, len(uuid)), uuid...)
}

func sizeOfBytes(num protowire.Number, size int) int {
	return protowire.SizeTag(num) + protowire.SizeBytes(size)
}

func sizeOfID(value string) int { return sizeOfBytes(fieldValue, len(value)) }

// appendHead appends a field's tag and length.
func appendHead(b []byte, num protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(size))
}

func appendID(b []byte, num protowire.Number, size int, value string) []byte {
	return append(appendHead(appendHead(b, num, size), fieldValue, len(value)), value...)
}
