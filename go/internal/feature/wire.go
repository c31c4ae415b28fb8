// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
	"unsafe"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/encoding/protowire"
)

// The tags of inference.v1 that are read here: field number and wire type, each one byte.
const (
	tagModelID      = 1<<3 | byte(protowire.BytesType)
	tagRequestID    = 2<<3 | byte(protowire.BytesType)
	tagFeatures     = 3<<3 | byte(protowire.BytesType)
	tagModelVersion = 5<<3 | byte(protowire.BytesType)

	tagKey   = 1<<3 | byte(protowire.BytesType)
	tagValue = 2<<3 | byte(protowire.BytesType)

	tagFloat   = 1<<3 | byte(protowire.Fixed32Type)
	tagString  = 2<<3 | byte(protowire.BytesType)
	tagFloats  = 3<<3 | byte(protowire.BytesType)
	tagInt64   = 4<<3 | byte(protowire.VarintType)
	tagDouble  = 5<<3 | byte(protowire.Fixed64Type)
	tagBool    = 6<<3 | byte(protowire.VarintType)
	tagInt64s  = 7<<3 | byte(protowire.BytesType)
	tagStrings = 8<<3 | byte(protowire.BytesType)

	tagValues = 1<<3 | byte(protowire.BytesType) // of an array: packed numbers, or one string
)

// Wire is an inference.v1.PredictRequest as it came, taken apart as far as its fields. Its features are only read by DecodeWire. All of it is the
// message's own memory: who keeps an id longer clones it.
type Wire struct {
	ModelID, RequestID, ModelVersion string

	data []byte // the whole message; nobody changes it before DecodeWire has returned
}

// ScanWire takes a request apart. It is false where the message holds anything besides the features and at most one id of each kind, and where it is
// malformed: the general decoder then has the word.
func ScanWire(data []byte) (Wire, bool) {
	w := Wire{data: data}
	seen := [3]bool{}
	for rest := data; len(rest) > 0; {
		tag := rest[0]
		var field []byte
		var ok bool
		if field, rest, ok = takeBytes(rest[1:]); !ok {
			return w, false
		}
		var text *string
		var which int
		switch tag {
		case tagFeatures:
			continue
		case tagModelID:
			text, which = &w.ModelID, 0
		case tagRequestID:
			text, which = &w.RequestID, 1
		case tagModelVersion:
			text, which = &w.ModelVersion, 2
		default:
			return w, false
		}
		if seen[which] || !utf8.Valid(field) {
			return w, false
		}
		seen[which] = true
		*text = unsafe.String(unsafe.SliceData(field), len(field))
	}
	return w, true
}

// maxSeen is the most features of a plan that DecodeWire decodes: of each it notes whether it came.
const maxSeen = 4096

// DecodeWire makes the tensors that Decode makes of the same features, without the messages in between. It is false where the features are not
// plainly right, and then says nothing of why: an unknown name, a fault, a field twice or in another order than generated code writes it, bytes
// that are no message. The tensors share no memory with the request.
func (p *Plan) DecodeWire(w *Wire) ([]tensor.Tensor, bool) {
	row := make([]tensor.Tensor, len(p.inputs))
	for i := range p.inputs {
		if in := &p.inputs[i]; in.open < 0 {
			row[i] = tensor.Make(in.spec.DType, in.shape)
		}
	}
	return row, p.DecodeWireInto(w, row)
}

// RowShapes are the shapes of one row's inputs, where every request has the same and none holds strings; else nil.
func (p *Plan) RowShapes() [][]int64 {
	shapes := make([][]int64, len(p.inputs))
	for i := range p.inputs {
		if in := &p.inputs[i]; in.open >= 0 || in.spec.DType == tensor.String {
			return nil
		}
		shapes[i] = p.inputs[i].shape
	}
	return shapes
}

// DecodeWireInto is DecodeWire into tensors that are there already, of RowShapes and of whatever content. Where it is false their content is worth
// nothing.
func (p *Plan) DecodeWireInto(w *Wire, row []tensor.Tensor) bool {
	if len(p.features) > maxSeen {
		return false
	}
	var seen [maxSeen / 64]uint64
	known := 0
	for rest := w.data; len(rest) > 0; {
		tag := rest[0]
		var entry []byte
		var ok bool
		if entry, rest, ok = takeBytes(rest[1:]); !ok {
			return false
		}
		if tag != tagFeatures {
			continue // ScanWire has read it
		}
		if len(entry) == 0 || entry[0] != tagKey {
			return false
		}
		key, entry, ok := takeBytes(entry[1:])
		if !ok || len(entry) == 0 || entry[0] != tagValue {
			return false
		}
		value, entry, ok := takeBytes(entry[1:])
		if !ok || len(entry) != 0 {
			return false
		}
		at, ok := p.byName[string(key)] // names of features are UTF-8, so another key is none
		if !ok || seen[at/64]&(1<<(at%64)) != 0 {
			return false
		}
		seen[at/64] |= 1 << (at % 64)
		known++
		if !p.putWire(&p.features[at], value, row) {
			return false
		}
	}
	for at := 0; known < len(p.features) && at < len(p.features); at++ {
		if seen[at/64]&(1<<(at%64)) != 0 {
			continue
		}
		f := &p.features[at]
		value := f.public.GetDefaultValue()
		if value == nil || p.put(f, value, row) != nil {
			return false
		}
	}
	return true
}

// putWire writes a feature's value, the bytes of a FeatureValue of one field, to its place.
func (p *Plan) putWire(f *source, value []byte, row []tensor.Tensor) bool {
	if len(value) == 0 {
		return false
	}
	tag, value := value[0], value[1:]
	if f.scalar {
		return f.putScalarWire(tag, value, &row[f.input])
	}
	array, rest, ok := takeBytes(value)
	if !ok || len(rest) != 0 {
		return false
	}
	floating := f.typ == inferencev1.FeatureType_FEATURE_TYPE_FLOAT || f.typ == inferencev1.FeatureType_FEATURE_TYPE_DOUBLE
	integral := f.typ == inferencev1.FeatureType_FEATURE_TYPE_INT64 || f.typ == inferencev1.FeatureType_FEATURE_TYPE_BOOL
	switch {
	case tag == tagFloats && floating:
		packed, ok := takePacked(array)
		return ok && len(packed)%4 == 0 && p.room(f, len(packed)/4, row) == nil && f.putFloatsWire(packed, &row[f.input])
	case tag == tagInt64s && integral:
		packed, ok := takePacked(array)
		return ok && p.room(f, countVarints(packed), row) == nil && f.putIntegersWire(packed, &row[f.input])
	case tag == tagStrings && f.typ == inferencev1.FeatureType_FEATURE_TYPE_STRING:
		n, ok := countStrings(array)
		return ok && p.room(f, n, row) == nil && f.putStringsWire(array, &row[f.input])
	default:
		return false
	}
}

func (f *source) putScalarWire(tag byte, value []byte, t *tensor.Tensor) bool {
	at := int(f.column)
	switch {
	case tag == tagFloat && f.typ == inferencev1.FeatureType_FEATURE_TYPE_FLOAT,
		tag == tagFloat && f.typ == inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		if len(value) != 4 {
			return false
		}
		putFloat(t, at, math.Float32frombits(binary.LittleEndian.Uint32(value)))
		return true
	case tag == tagDouble && f.typ == inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		return len(value) == 8 && copy(t.Data[at*8:], value) == 8
	case tag == tagInt64 && f.typ == inferencev1.FeatureType_FEATURE_TYPE_INT64:
		x, n := protowire.ConsumeVarint(value)
		return n > 0 && n == len(value) && f.putInteger(t, at, int64(x)) == nil
	case tag == tagBool && f.typ == inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		if len(value) != 1 || value[0] > 1 {
			return false
		}
		t.Data[at] = value[0]
		return true
	case tag == tagString && f.typ == inferencev1.FeatureType_FEATURE_TYPE_STRING:
		text, rest, ok := takeBytes(value)
		if !ok || len(rest) != 0 || !utf8.Valid(text) {
			return false
		}
		t.Strings[at] = string(text)
		return true
	default:
		return false
	}
}

// putFloatsWire takes 4 bytes for each value, little-endian; there is room.
func (f *source) putFloatsWire(packed []byte, t *tensor.Tensor) bool {
	at := int(f.column)
	if t.DType == tensor.Float32 {
		copy(t.Data[at*4:], packed)
		return true
	}
	for i := range len(packed) / 4 {
		putFloat(t, at+i, math.Float32frombits(binary.LittleEndian.Uint32(packed[i*4:])))
	}
	return true
}

// putIntegersWire takes varints, as many as countVarints says; there is room.
func (f *source) putIntegersWire(packed []byte, t *tensor.Tensor) bool {
	for at := int(f.column); len(packed) > 0; at++ {
		x, n := protowire.ConsumeVarint(packed)
		if n < 0 || f.putInteger(t, at, int64(x)) != nil {
			return false
		}
		packed = packed[n:]
	}
	return true
}

// putStringsWire takes an array that countStrings has counted; there is room.
func (f *source) putStringsWire(array []byte, t *tensor.Tensor) bool {
	for at := int(f.column); len(array) > 0; at++ {
		text, rest, ok := takeBytes(array[1:])
		if !ok || !utf8.Valid(text) {
			return false
		}
		t.Strings[at], array = string(text), rest
	}
	return true
}

// takeBytes is a length and so many bytes, and what follows.
func takeBytes(b []byte) (taken, rest []byte, ok bool) {
	if len(b) > 0 && b[0] < 0x80 {
		if n := 1 + int(b[0]); n <= len(b) {
			return b[1:n], b[n:], true
		}
		return nil, nil, false
	}
	length, n := protowire.ConsumeVarint(b)
	if n < 0 || length > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(length)
	return b[n:end], b[end:], true
}

// takePacked is the one packed field of an array of numbers; an array of none may lack it.
func takePacked(array []byte) ([]byte, bool) {
	if len(array) == 0 {
		return nil, true
	}
	if array[0] != tagValues {
		return nil, false
	}
	packed, rest, ok := takeBytes(array[1:])
	return packed, ok && len(rest) == 0
}

// countVarints is how many varints there are, where they are well formed: each ends with the one byte below 128.
func countVarints(packed []byte) int {
	n := 0
	for _, b := range packed {
		if b < 0x80 {
			n++
		}
	}
	if len(packed) > 0 && packed[len(packed)-1] >= 0x80 {
		n++ // cut off: who reads it will see
	}
	return n
}

// countStrings is how many strings an array holds.
func countStrings(array []byte) (n int, ok bool) {
	for ; len(array) > 0; n++ {
		if array[0] != tagValues {
			return 0, false
		}
		if _, array, ok = takeBytes(array[1:]); !ok {
			return 0, false
		}
	}
	return n, true
}
