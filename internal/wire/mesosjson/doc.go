// Package mesosjson is JSON as Mesos writes and reads it: neither protojson nor encoding/json.
//
// It owns the mapping between the v1 messages and their JSON text, and a small writer for the hand-written JSON of the
// legacy endpoints. internal/wire calls it for every API that negotiates application/json; the master's and the agent's
// legacy endpoints use Writer.
//
// Rules of the mapping (stout's JSON::Protobuf and protobuf::parse, facts of Mesos 1.12-dev):
//
//   - A field's name is its proto name, in the order of declaration.
//   - Enums are value names, bytes are padded standard base64, 64-bit integers are plain numbers.
//   - Doubles are shortest form, always with a fraction or an exponent (1.0, 1e30); NaN and ±Infinity are bare tokens.
//   - Empty repeated fields and unset optional fields are left out, except optional fields with an explicit proto2
//     default that are not deprecated: these are written with their default.
//   - Inbound: unknown fields are ignored, null means unset, numbers and booleans may be quoted, an enum must be a name
//     (an unknown name is dropped unless the field is required), a missing required field is an error with its path.
//
// Invariants: Append never writes a raw control character, so a message is one line; Unmarshal never panics and never
// reads more than its Limits allow, whatever the input is. Both work from a plan of the message type, compiled once per
// Go type and then immutable.
package mesosjson
