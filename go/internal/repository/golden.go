// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/proto"
)

// selfTest asks a model its golden cases on the path that requests take, and gives what they bring there. The first miss is the error. It is also the
// warm-up. On a device with classes those widen the set's own tolerances.
func selfTest(ctx context.Context, m *model.Model, data []byte, on classes) ([]batch.Part, error) {
	set := &modelpackagev1.GoldenSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, fmt.Errorf("%s is no golden set", goldenName)
	}
	if len(set.GetCases()) == 0 {
		return nil, fmt.Errorf("%s: expected at least 1 case, got 0", goldenName)
	}
	near := exam{tolerance{set.GetAbsoluteTolerance(), set.GetRelativeTolerance()}, on}
	if !near.valid() {
		return nil, fmt.Errorf("%s: expected finite tolerances of at least 0, got %g and %g", goldenName, near.absolute, near.relative)
	}
	parts := make([]batch.Part, len(set.GetCases()))
	for i, c := range set.GetCases() {
		var err error
		if parts[i], err = near.ask(ctx, m, c); err != nil {
			return nil, fmt.Errorf("golden case %d: %w", i, err)
		}
	}
	return parts, nil
}

// tolerance is how near an answer must be: |answer - expected| <= absolute + relative * |expected|.
type tolerance struct{ absolute, relative float64 }

// exam is what answers are held to: a tolerance, wider by the class of the answer's type.
type exam struct {
	tolerance
	on classes
}

func (near exam) ask(ctx context.Context, m *model.Model, c *modelpackagev1.GoldenCase) (batch.Part, error) {
	if m.Kind == inferencev1.ModelKind_MODEL_KIND_TENSOR {
		if c.GetTensors() == nil || c.GetOutputs() == nil {
			return batch.Part{}, errors.New("expected tensors and outputs, as for a model of kind tensor")
		}
		return near.askTensors(ctx, m, c.GetTensors(), c.GetOutputs())
	}
	if c.GetFeatures() == nil || c.GetPredictions() == nil {
		return batch.Part{}, fmt.Errorf("expected features and predictions, as for a model of kind %s", model.KindText(m.Kind))
	}
	return near.askFeatures(ctx, m, c.GetFeatures(), c.GetPredictions())
}

func (near exam) askFeatures(ctx context.Context, m *model.Model, request *inferencev1.PredictRequest, want *inferencev1.PredictResponse) (batch.Part, error) {
	row, f := m.Features.Decode(request.GetFeatures())
	if f != nil {
		return batch.Part{}, f
	}
	part := batch.Part{Inputs: row, Wanted: m.Features.Wanted()}
	result := m.Queue().One(ctx, part)
	if result.Err != nil {
		return batch.Part{}, result.Err
	}
	got := &inferencev1.PredictResponse{}
	if err := m.Features.Encode(result.Outputs, got); err != nil {
		return batch.Part{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(want.GetPredictions())) {
		expected := want.GetPredictions()[name]
		answer, ok := got.GetPredictions()[name]
		if !ok {
			return batch.Part{}, fmt.Errorf("prediction %s: expected %s, got nothing", fault.Quote(name), float32Text(expected))
		}
		if !near.holds(tensor.Float32, float64(answer), float64(expected)) {
			return batch.Part{}, fmt.Errorf("prediction %s: expected %s, got %s", fault.Quote(name), float32Text(expected), float32Text(answer))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.GetOutputs())) {
		expected, answer := want.GetOutputs()[name], got.GetOutputs()[name]
		if answer == nil {
			return batch.Part{}, fmt.Errorf("output %s: expected %s, got nothing", fault.Quote(name), valueText(expected))
		}
		if !near.holdsValue(answer, expected) {
			return batch.Part{}, fmt.Errorf("output %s: expected %s, got %s", fault.Quote(name), valueText(expected), valueText(answer))
		}
	}
	return part, nil
}

func (near exam) askTensors(ctx context.Context, m *model.Model, request *inferencev1.PredictionRequest, want *inferencev1.PredictionResponse) (batch.Part, error) {
	inputs, wanted, f := model.DecodeTensors(m, request.GetInputs(), request.GetOutputNames())
	if f != nil {
		return batch.Part{}, f
	}
	specs := m.Outputs()
	part := batch.Part{Inputs: inputs, Wanted: wanted}
	result := m.Queue().One(ctx, part)
	if result.Err != nil {
		return batch.Part{}, result.Err
	}
	for _, name := range slices.Sorted(maps.Keys(want.GetOutputs())) {
		at := slices.IndexFunc(wanted, func(index int) bool { return specs[index].Name == name })
		if at < 0 {
			return batch.Part{}, fmt.Errorf("output %s: the graph has no such output", fault.Quote(name))
		}
		expected, bad := tensor.FromWire(want.GetOutputs()[name], &specs[wanted[at]])
		if bad != nil {
			return batch.Part{}, fmt.Errorf("output %s: %s", fault.Quote(name), bad.Message)
		}
		if err := near.holdsTensor(&result.Outputs[at], &expected); err != nil {
			return batch.Part{}, fmt.Errorf("output %s: %w", fault.Quote(name), err)
		}
	}
	return part, nil
}

// holds compares numbers: NaN equals NaN, an infinity itself.
func (near exam) holds(dtype tensor.DType, answer, expected float64) bool {
	if answer == expected || answer != answer && expected != expected {
		return true
	}
	if math.IsInf(answer, 0) || math.IsInf(expected, 0) {
		return false
	}
	class := near.on[dtype]
	return math.Abs(answer-expected) <= near.absolute+class.absolute+(near.relative+class.relative)*math.Abs(expected)
}

func (near exam) holdsValue(answer, expected *inferencev1.FeatureValue) bool {
	switch want := expected.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatValue:
		got, ok := answer.GetValue().(*inferencev1.FeatureValue_FloatValue)
		return ok && near.holds(tensor.Float32, float64(got.FloatValue), float64(want.FloatValue))
	case *inferencev1.FeatureValue_DoubleValue:
		got, ok := answer.GetValue().(*inferencev1.FeatureValue_DoubleValue)
		return ok && near.holds(tensor.Float64, got.DoubleValue, want.DoubleValue)
	case *inferencev1.FeatureValue_FloatArray:
		got, ok := answer.GetValue().(*inferencev1.FeatureValue_FloatArray)
		return ok && slices.EqualFunc(got.FloatArray.GetValues(), want.FloatArray.GetValues(), func(a, b float32) bool {
			return near.holds(tensor.Float32, float64(a), float64(b))
		})
	default:
		return expected.GetValue() != nil && proto.Equal(answer, expected)
	}
}

func (near exam) holdsTensor(answer, expected *tensor.Tensor) error {
	if answer.DType != expected.DType || !slices.Equal(answer.Shape, expected.Shape) {
		return fmt.Errorf("expected %s %s, got %s %s", expected.DType, tensor.ShapeText(expected.Shape), answer.DType, tensor.ShapeText(answer.Shape))
	}
	for i := range expected.Len() {
		var same bool
		switch size := expected.DType.Size(); {
		case expected.DType.IsFloat():
			same = near.holds(expected.DType, floatAt(answer, i), floatAt(expected, i))
		case expected.DType == tensor.String:
			same = answer.Strings[i] == expected.Strings[i]
		default:
			same = bytes.Equal(answer.Data[i*size:(i+1)*size], expected.Data[i*size:(i+1)*size])
		}
		if !same {
			return fmt.Errorf("element %d: expected %s, got %s", i, elementText(expected, i), elementText(answer, i))
		}
	}
	return nil
}

func floatAt(t *tensor.Tensor, i int) float64 {
	switch t.DType {
	case tensor.Float16:
		return float64(tensor.FromFloat16(binary.LittleEndian.Uint16(t.Data[i*2:])))
	case tensor.BFloat16:
		return float64(tensor.FromBFloat16(binary.LittleEndian.Uint16(t.Data[i*2:])))
	case tensor.Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(t.Data[i*4:])))
	default:
		return math.Float64frombits(binary.LittleEndian.Uint64(t.Data[i*8:]))
	}
}

// elementText is an element in a message.
func elementText(t *tensor.Tensor, i int) string {
	switch {
	case t.DType == tensor.String:
		return fault.Quote(t.Strings[i])
	case t.DType.IsFloat():
		return strconv.FormatFloat(floatAt(t, i), 'g', -1, 64)
	}
	size := t.DType.Size()
	var bits uint64
	for at := size - 1; at >= 0; at-- {
		bits = bits<<8 | uint64(t.Data[i*size+at])
	}
	switch t.DType {
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		unused := 64 - 8*size
		return strconv.FormatInt(int64(bits<<unused)>>unused, 10)
	default:
		return strconv.FormatUint(bits, 10)
	}
}

func float32Text(f float32) string { return strconv.FormatFloat(float64(f), 'g', -1, 32) }

// valueText is a value in a message, an array by its kind and length.
func valueText(value *inferencev1.FeatureValue) string {
	switch v := value.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatValue:
		return float32Text(v.FloatValue)
	case *inferencev1.FeatureValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *inferencev1.FeatureValue_Int64Value:
		return strconv.FormatInt(v.Int64Value, 10)
	case *inferencev1.FeatureValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *inferencev1.FeatureValue_StringValue:
		return fault.Quote(v.StringValue)
	case *inferencev1.FeatureValue_FloatArray:
		return fmt.Sprintf("other values (%d floats)", len(v.FloatArray.GetValues()))
	case *inferencev1.FeatureValue_Int64Array:
		return fmt.Sprintf("other values (%d integers)", len(v.Int64Array.GetValues()))
	case *inferencev1.FeatureValue_StringArray:
		return fmt.Sprintf("other values (%d strings)", len(v.StringArray.GetValues()))
	default:
		return "nothing"
	}
}
