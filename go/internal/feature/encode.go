// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Encode fills an answer's predictions and outputs from the wanted outputs of one row. The error says how the graph broke its word.
func (p *Plan) Encode(outputs []tensor.Tensor, answer *inferencev1.PredictResponse) error {
	for i := range outputs {
		t := &outputs[i]
		if p.batchAxis[i] && !p.wantedSpecs[i].Unranked && (len(t.Shape) == 0 || t.Shape[0] != 1) {
			return fmt.Errorf("output %s: expected 1 row, got shape %s", fault.Quote(p.wantedSpecs[i].Name), tensor.ShapeText(t.Shape))
		}
		if t.DType != p.wantedSpecs[i].DType {
			return fmt.Errorf("output %s: expected %s, got %s", fault.Quote(p.wantedSpecs[i].Name), p.wantedSpecs[i].DType, t.DType)
		}
	}
	if len(p.predictions) > 0 {
		answer.Predictions = make(map[string]float32, len(p.predictions))
	}
	for i := range p.predictions {
		b := &p.predictions[i]
		t := &outputs[b.output]
		if b.index >= int64(t.Len()) {
			return p.short(b.output, b.index, t)
		}
		x := float32At(t, int(b.index))
		if isSignalling(x) {
			// On its way out of a map a float is a float64 for a moment, which would turn it quiet; bytes stay as they are.
			m := answer.ProtoReflect()
			m.SetUnknown(appendPrediction(m.GetUnknown(), b.public.GetName(), x))
			continue
		}
		answer.Predictions[b.public.GetName()] = x
	}
	if len(p.outputs) > 0 {
		answer.Outputs = make(map[string]*inferencev1.FeatureValue, len(p.outputs))
	}
	for i := range p.outputs {
		b := &p.outputs[i]
		t := &outputs[b.output]
		var value *inferencev1.FeatureValue
		var err error
		if len(b.public.GetShape()) > 0 {
			value, err = arrayValue(t)
		} else if b.index >= int64(t.Len()) {
			return p.short(b.output, b.index, t)
		} else {
			value, err = scalarValue(t, int(b.index))
		}
		if err != nil {
			return fmt.Errorf("output %s: %w", fault.Quote(p.wantedSpecs[b.output].Name), err)
		}
		answer.Outputs[b.public.GetName()] = value
	}
	return nil
}

func (p *Plan) short(output int, index int64, t *tensor.Tensor) error {
	return fmt.Errorf("output %s: expected an element %d in the row, got %d elements", fault.Quote(p.wantedSpecs[output].Name), index, t.Len())
}

// isSignalling tells whether it is a NaN that is not quiet.
func isSignalling(x float32) bool { return x != x && math.Float32bits(x)&(1<<22) == 0 }

// float32At is a number converted to float32, rounded to nearest.
func float32At(t *tensor.Tensor, i int) float32 {
	switch t.DType {
	case tensor.Float32:
		return math.Float32frombits(binary.LittleEndian.Uint32(t.Data[i*4:]))
	case tensor.Float16:
		return tensor.FromFloat16(binary.LittleEndian.Uint16(t.Data[i*2:]))
	case tensor.BFloat16:
		return tensor.FromBFloat16(binary.LittleEndian.Uint16(t.Data[i*2:]))
	case tensor.Float64:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(t.Data[i*8:])))
	case tensor.Uint64:
		return float32(binary.LittleEndian.Uint64(t.Data[i*8:]))
	default:
		return float32(signedAt(t, i))
	}
}

// signedAt is an integer or a bool; a uint64 must be below 2^63.
func signedAt(t *tensor.Tensor, i int) int64 {
	switch t.DType {
	case tensor.Int8:
		return int64(int8(t.Data[i]))
	case tensor.Uint8, tensor.Bool:
		return int64(t.Data[i])
	case tensor.Int16:
		return int64(int16(binary.LittleEndian.Uint16(t.Data[i*2:])))
	case tensor.Uint16:
		return int64(binary.LittleEndian.Uint16(t.Data[i*2:]))
	case tensor.Int32:
		return int64(int32(binary.LittleEndian.Uint32(t.Data[i*4:])))
	case tensor.Uint32:
		return int64(binary.LittleEndian.Uint32(t.Data[i*4:]))
	default:
		return int64(binary.LittleEndian.Uint64(t.Data[i*8:]))
	}
}

func integerAt(t *tensor.Tensor, i int) (int64, error) {
	x := signedAt(t, i)
	if t.DType == tensor.Uint64 && x < 0 {
		return 0, fmt.Errorf("expected at most 2^63 - 1, got %d", uint64(x))
	}
	return x, nil
}

func stringAt(t *tensor.Tensor, i int) (string, error) {
	if text := t.Strings[i]; utf8.ValidString(text) {
		return text, nil
	}
	return "", fmt.Errorf("expected UTF-8, got other bytes")
}

func scalarValue(t *tensor.Tensor, i int) (*inferencev1.FeatureValue, error) {
	switch typeOf(t.DType) {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT:
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatValue{FloatValue: float32At(t, i)}}, nil
	case inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		x := math.Float64frombits(binary.LittleEndian.Uint64(t.Data[i*8:]))
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_DoubleValue{DoubleValue: x}}, nil
	case inferencev1.FeatureType_FEATURE_TYPE_INT64:
		x, err := integerAt(t, i)
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Value{Int64Value: x}}, err
	case inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_BoolValue{BoolValue: t.Data[i] != 0}}, nil
	default:
		text, err := stringAt(t, i)
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{StringValue: text}}, err
	}
}

func arrayValue(t *tensor.Tensor) (*inferencev1.FeatureValue, error) {
	n := t.Len()
	switch typeOf(t.DType) {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT, inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		values := make([]float32, n)
		for i := range values {
			values[i] = float32At(t, i)
		}
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatArray{FloatArray: &inferencev1.FloatArray{Values: values}}}, nil
	case inferencev1.FeatureType_FEATURE_TYPE_INT64, inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		values := make([]int64, n)
		for i := range values {
			x, err := integerAt(t, i)
			if err != nil {
				return nil, err
			}
			values[i] = x
		}
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Array{Int64Array: &inferencev1.Int64Array{Values: values}}}, nil
	default:
		values := make([]string, n)
		for i := range values {
			text, err := stringAt(t, i)
			if err != nil {
				return nil, err
			}
			values[i] = text
		}
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringArray{StringArray: &inferencev1.StringArray{Values: values}}}, nil
	}
}
