package zookeeper

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/orchestrator/orchestrator/internal/store"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	valueFormat = 1
	valueHeader = 5
)

func checksum(key string, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, value)
}

func encodeValue(key string, value []byte) []byte {
	b := make([]byte, 0, valueHeader+len(value))
	b = append(b, valueFormat)
	b = binary.BigEndian.AppendUint32(b, checksum(key, value))
	return append(b, value...)
}

func decodeValue(key string, data []byte) ([]byte, error) {
	if len(data) < valueHeader || data[0] != valueFormat || binary.BigEndian.Uint32(data[1:]) != checksum(key, data[valueHeader:]) {
		return nil, fmt.Errorf("%w: the value of key %q was not written by this program, or is damaged; restore it from a backup", store.ErrCorrupt, key)
	}
	return data[valueHeader:], nil
}

// keyPath is the node of a key.
func (s *Store) keyPath(key string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return s.bucketPath(int(h.Sum32()%buckets)) + "/" + encodeName(key)
}

// encodeName makes a node's name of a key. "/", which most keys have, becomes "!".
func encodeName(key string) string {
	var b strings.Builder
	b.Grow(len(key))
	for _, r := range key {
		switch {
		case r == '/':
			b.WriteByte('!')
		case r == '!' || r == '%' || r <= 0x1f || r >= 0x7f && r <= 0x9f || r >= 0xd800 && r <= 0xf8ff || r >= 0xfff0 && r <= 0xffff:
			var buf [utf8.UTFMax]byte
			for _, c := range buf[:utf8.EncodeRune(buf[:], r)] {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func decodeName(name string) (string, bool) {
	key, err := url.PathUnescape(strings.ReplaceAll(name, "!", "/"))
	if err != nil || store.ValidateKey(key) != nil || encodeName(key) != name {
		return "", false
	}
	return key, true
}
