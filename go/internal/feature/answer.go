// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of an inference.v1.PredictResponse that are written here, each with its wire type.
const (
	tagPredictions = 2<<3 | byte(protowire.BytesType)
	tagOutputs     = 5<<3 | byte(protowire.BytesType)

	tagNumber = 2<<3 | byte(protowire.Fixed32Type) // the value of an entry of predictions
)

// AppendAnswer appends the bytes of the predictions and outputs that Encode puts into an answer, in the plan's order, to a PredictResponse that is
// being written. It is false where the outputs break the graph's word: Encode then says how, and what was appended is worth nothing.
func (p *Plan) AppendAnswer(b []byte, outputs []tensor.Tensor) ([]byte, bool) {
	for i := range outputs {
		t := &outputs[i]
		if p.batchAxis[i] && !p.wantedSpecs[i].Unranked && (len(t.Shape) == 0 || t.Shape[0] != 1) {
			return b, false
		}
		if t.DType != p.wantedSpecs[i].DType {
			return b, false
		}
	}
	for i := range p.predictions {
		at := &p.predictions[i]
		t := &outputs[at.output]
		if at.index >= int64(t.Len()) {
			return b, false
		}
		b = appendPrediction(b, at.public.GetName(), float32At(t, int(at.index)))
	}
	for i := range p.outputs {
		at := &p.outputs[i]
		t := &outputs[at.output]
		name := at.public.GetName()
		var size int
		array := len(at.public.GetShape()) > 0
		if array {
			size = arraySize(t)
		} else if at.index < int64(t.Len()) {
			size = scalarSize(t, int(at.index))
		} else {
			return b, false
		}
		if size < 0 {
			return b, false
		}
		b = append(b, tagOutputs)
		b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(name))+1+protowire.SizeBytes(size)))
		b = append(b, tagKey)
		b = protowire.AppendString(b, name)
		b = append(b, tagValue)
		b = protowire.AppendVarint(b, uint64(size))
		if array {
			b = appendArray(b, t)
		} else {
			b = appendScalar(b, t, int(at.index))
		}
	}
	return b, true
}

func appendPrediction(b []byte, name string, x float32) []byte {
	b = protowire.AppendVarint(append(b, tagPredictions), uint64(1+protowire.SizeBytes(len(name))+5))
	b = protowire.AppendString(append(b, tagKey), name)
	return binary.LittleEndian.AppendUint32(append(b, tagNumber), math.Float32bits(x))
}

// scalarSize is how many bytes a FeatureValue of one element takes; -1 where no FeatureValue holds it.
func scalarSize(t *tensor.Tensor, i int) int {
	switch typeOf(t.DType) {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT:
		return 5
	case inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		return 9
	case inferencev1.FeatureType_FEATURE_TYPE_INT64:
		x, err := integerAt(t, i)
		if err != nil {
			return -1
		}
		return 1 + protowire.SizeVarint(uint64(x))
	case inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		return 2
	default:
		if !utf8.ValidString(t.Strings[i]) {
			return -1
		}
		return 1 + protowire.SizeBytes(len(t.Strings[i]))
	}
}

func appendScalar(b []byte, t *tensor.Tensor, i int) []byte {
	switch typeOf(t.DType) {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT:
		return binary.LittleEndian.AppendUint32(append(b, tagFloat), math.Float32bits(float32At(t, i)))
	case inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		return append(append(b, tagDouble), t.Data[i*8:i*8+8]...)
	case inferencev1.FeatureType_FEATURE_TYPE_INT64:
		return protowire.AppendVarint(append(b, tagInt64), uint64(signedAt(t, i)))
	case inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		return append(b, tagBool, min(t.Data[i], 1))
	default:
		return protowire.AppendString(append(b, tagString), t.Strings[i])
	}
}

// arraySize is how many bytes a FeatureValue of all elements takes; -1 where no FeatureValue holds them.
func arraySize(t *tensor.Tensor) int {
	packed, framed := arrayBody(t)
	if packed < 0 {
		return -1
	}
	if framed > 0 { // numbers: one packed field, which an empty array does without
		return 1 + protowire.SizeBytes(framed)
	}
	return 1 + protowire.SizeBytes(packed)
}

// arrayBody is the size of an array's values, and for numbers that of the message that holds them; packed is -1 where it cannot hold them.
func arrayBody(t *tensor.Tensor) (packed, framed int) {
	switch typeOf(t.DType) {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT, inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		packed = t.Len() * 4
	case inferencev1.FeatureType_FEATURE_TYPE_INT64, inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		for i := range t.Len() {
			x, err := integerAt(t, i)
			if err != nil {
				return -1, 0
			}
			packed += protowire.SizeVarint(uint64(x))
		}
	default:
		for _, text := range t.Strings {
			if !utf8.ValidString(text) {
				return -1, 0
			}
			packed += 1 + protowire.SizeBytes(len(text))
		}
		return packed, 0
	}
	if packed == 0 {
		return 0, 0
	}
	return packed, 1 + protowire.SizeBytes(packed)
}

func appendArray(b []byte, t *tensor.Tensor) []byte {
	packed, framed := arrayBody(t)
	switch typeOf(t.DType) {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT, inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		b = appendPacked(append(b, tagFloats), packed, framed)
		for i := range t.Len() {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32At(t, i)))
		}
	case inferencev1.FeatureType_FEATURE_TYPE_INT64, inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		b = appendPacked(append(b, tagInt64s), packed, framed)
		for i := range t.Len() {
			b = protowire.AppendVarint(b, uint64(signedAt(t, i)))
		}
	default:
		b = protowire.AppendVarint(append(b, tagStrings), uint64(packed))
		for _, text := range t.Strings {
			b = protowire.AppendString(append(b, tagValues), text)
		}
	}
	return b
}

func appendPacked(b []byte, packed, framed int) []byte {
	b = protowire.AppendVarint(b, uint64(framed))
	if packed > 0 {
		b = protowire.AppendVarint(append(b, tagValues), uint64(packed))
	}
	return b
}
