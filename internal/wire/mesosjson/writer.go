package mesosjson

import (
	"strconv"

	"google.golang.org/protobuf/proto"
)

// Writer appends hand-written JSON, for the legacy endpoints. Commas are put where they belong; the caller opens and
// closes what it opened. The zero value is ready to use; Buf may be preset to a buffer to append to, or taken and reused.
//
//	var w mesosjson.Writer
//	w.BeginObject()
//	w.Key("id").String(id)
//	w.Key("tasks").BeginArray()
//	…
//	w.EndArray()
//	w.EndObject()
type Writer struct {
	Buf []byte
}

// comma separates a value or key from what stands before it on the same level. A value never ends in one of the
// opening characters outside of a string, and a string ends with its quote, so the last byte tells.
func (w *Writer) comma() {
	if len(w.Buf) == 0 {
		return
	}
	switch w.Buf[len(w.Buf)-1] {
	case '{', '[', ':', ',', '(', '\n':
	default:
		w.Buf = append(w.Buf, ',')
	}
}

// BeginObject opens an object.
func (w *Writer) BeginObject() { w.comma(); w.Buf = append(w.Buf, '{') }

// EndObject closes the innermost object.
func (w *Writer) EndObject() { w.Buf = append(w.Buf, '}') }

// BeginArray opens an array.
func (w *Writer) BeginArray() { w.comma(); w.Buf = append(w.Buf, '[') }

// EndArray closes the innermost array.
func (w *Writer) EndArray() { w.Buf = append(w.Buf, ']') }

// Key writes a member's name; the member's value must follow.
func (w *Writer) Key(name string) *Writer {
	w.comma()
	w.Buf = append(AppendString(w.Buf, name), ':')
	return w
}

// String writes a string value.
func (w *Writer) String(v string) { w.comma(); w.Buf = AppendString(w.Buf, v) }

// Float writes a number that always has a fraction or an exponent, as Mesos writes every double.
func (w *Writer) Float(v float64) { w.comma(); w.Buf = AppendFloat(w.Buf, v) }

// Int writes a whole number.
func (w *Writer) Int(v int64) { w.comma(); w.Buf = strconv.AppendInt(w.Buf, v, 10) }

// Uint writes a whole number.
func (w *Writer) Uint(v uint64) { w.comma(); w.Buf = strconv.AppendUint(w.Buf, v, 10) }

// Bool writes true or false.
func (w *Writer) Bool(v bool) { w.comma(); w.Buf = strconv.AppendBool(w.Buf, v) }

// Bytes writes a base64 string.
func (w *Writer) Bytes(v []byte) { w.comma(); w.Buf = AppendBytes(w.Buf, v) }

// Raw writes a value that is JSON already, such as a fragment encoded earlier. It must not be empty.
func (w *Writer) Raw(v []byte) { w.comma(); w.Buf = append(w.Buf, v...) }

// Message writes a message in Mesos' JSON. After an error nothing of the message is in the buffer, and its Key must be
// dealt with by the caller (usually by giving up the whole body).
func (w *Writer) Message(m proto.Message) error {
	w.comma()
	var err error
	w.Buf, err = Append(w.Buf, m)
	return err
}
