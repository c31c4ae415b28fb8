// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sort"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Decode makes the tensors of one request's features, one for each input of the graph. All that is wrong with the features is reported
// together: the model's own in the manifest's order, then unknown names in byte order.
func (p *Plan) Decode(features map[string]*inferencev1.FeatureValue) ([]tensor.Tensor, *fault.Fault) {
	row := make([]tensor.Tensor, len(p.inputs))
	for i := range p.inputs {
		if in := &p.inputs[i]; in.open < 0 {
			row[i] = tensor.Make(in.spec.DType, in.shape)
		}
	}
	var found []fault.Violation
	known := 0
	for i := range p.features {
		f := &p.features[i]
		value, given := features[f.name]
		if given {
			known++
		} else if value = f.public.GetDefaultValue(); value == nil {
			found = append(found, *f.violation(fault.FeatureMissing, "expected %s, got nothing", f.expected()))
			continue
		}
		if v := p.put(f, value, row); v != nil {
			found = append(found, *v)
		}
	}
	total := len(found) + len(features) - known
	if total == 0 {
		return row, nil
	}
	if known < len(features) && len(found) < fault.MaxViolations {
		found = append(found, p.unknown(features)...)
	}
	return nil, fault.FromViolations(found, total)
}

func (p *Plan) unknown(features map[string]*inferencev1.FeatureValue) []fault.Violation {
	var names []string
	for name := range features {
		if _, ok := p.byName[name]; !ok {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	found := make([]fault.Violation, 0, min(len(names), fault.MaxViolations))
	for _, name := range names[:min(len(names), fault.MaxViolations)] {
		f := source{name: name}
		v := f.violation(fault.FeatureUnknown, "the model has no such feature")
		found = append(found, *v)
	}
	return found
}

// put writes a feature's value to its place, or says what is wrong with it.
func (p *Plan) put(f *source, value *inferencev1.FeatureValue, row []tensor.Tensor) *fault.Violation {
	if f.scalar {
		return f.putScalar(value, &row[f.input])
	}
	values := arrayOf(f.typ, value)
	if values < 0 {
		return f.violation(fault.FeatureTypeMismatch, "expected %s, got %s", f.expected(), kind(value))
	}
	if v := p.room(f, values, row); v != nil {
		return v
	}
	return f.putArray(value, &row[f.input])
}

// room makes room for an array of so many values where its shape is open, and says what is wrong with their number.
func (p *Plan) room(f *source, values int, row []tensor.Tensor) *fault.Violation {
	if f.count >= 0 {
		if int64(values) != f.count {
			return f.violation(fault.FeatureShapeMismatch, "expected %d values, got %d", f.count, values)
		}
		return nil
	}
	if f.unit == 0 && values > 0 || f.unit > 0 && int64(values)%f.unit != 0 {
		return f.violation(fault.FeatureShapeMismatch, "expected a multiple of %d values, got %d", f.unit, values)
	}
	if f.most > 0 && f.unit > 0 && int64(values)/f.unit > f.most {
		return f.violation(fault.FeatureShapeMismatch, "expected at most %d values, got %d", f.most*f.unit, values)
	}
	in := &p.inputs[f.input]
	shape := slices.Clone(in.shape)
	shape[in.open] = 0
	if f.unit > 0 {
		shape[in.open] = int64(values) / f.unit
	}
	row[f.input] = tensor.Make(in.spec.DType, shape)
	return nil
}

func (f *source) putScalar(value *inferencev1.FeatureValue, t *tensor.Tensor) *fault.Violation {
	at := int(f.column)
	switch v := value.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatValue:
		if f.typ == inferencev1.FeatureType_FEATURE_TYPE_FLOAT || f.typ == inferencev1.FeatureType_FEATURE_TYPE_DOUBLE {
			putFloat(t, at, v.FloatValue)
			return nil
		}
	case *inferencev1.FeatureValue_DoubleValue:
		if f.typ == inferencev1.FeatureType_FEATURE_TYPE_DOUBLE {
			binary.LittleEndian.PutUint64(t.Data[at*8:], math.Float64bits(v.DoubleValue))
			return nil
		}
	case *inferencev1.FeatureValue_Int64Value:
		if f.typ == inferencev1.FeatureType_FEATURE_TYPE_INT64 {
			return f.putInteger(t, at, v.Int64Value)
		}
	case *inferencev1.FeatureValue_BoolValue:
		if f.typ == inferencev1.FeatureType_FEATURE_TYPE_BOOL {
			if v.BoolValue {
				t.Data[at] = 1
			}
			return nil
		}
	case *inferencev1.FeatureValue_StringValue:
		if f.typ == inferencev1.FeatureType_FEATURE_TYPE_STRING {
			t.Strings[at] = v.StringValue
			return nil
		}
	}
	return f.violation(fault.FeatureTypeMismatch, "expected %s, got %s", f.expected(), kind(value))
}

// arrayOf is the number of values of an array of the type, -1 where the value is something else.
func arrayOf(typ inferencev1.FeatureType, value *inferencev1.FeatureValue) int {
	switch v := value.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatArray:
		if typ == inferencev1.FeatureType_FEATURE_TYPE_FLOAT || typ == inferencev1.FeatureType_FEATURE_TYPE_DOUBLE {
			return len(v.FloatArray.GetValues())
		}
	case *inferencev1.FeatureValue_Int64Array:
		if typ == inferencev1.FeatureType_FEATURE_TYPE_INT64 || typ == inferencev1.FeatureType_FEATURE_TYPE_BOOL {
			return len(v.Int64Array.GetValues())
		}
	case *inferencev1.FeatureValue_StringArray:
		if typ == inferencev1.FeatureType_FEATURE_TYPE_STRING {
			return len(v.StringArray.GetValues())
		}
	}
	return -1
}

func (f *source) putArray(value *inferencev1.FeatureValue, t *tensor.Tensor) *fault.Violation {
	at := int(f.column)
	switch v := value.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatArray:
		for i, x := range v.FloatArray.GetValues() {
			putFloat(t, at+i, x)
		}
	case *inferencev1.FeatureValue_Int64Array:
		for i, x := range v.Int64Array.GetValues() {
			if bad := f.putInteger(t, at+i, x); bad != nil {
				return bad
			}
		}
	case *inferencev1.FeatureValue_StringArray:
		copy(t.Strings[at:], v.StringArray.GetValues())
	}
	return nil
}

func putFloat(t *tensor.Tensor, at int, x float32) {
	switch t.DType {
	case tensor.Float32:
		binary.LittleEndian.PutUint32(t.Data[at*4:], math.Float32bits(x))
	case tensor.Float64:
		binary.LittleEndian.PutUint64(t.Data[at*8:], math.Float64bits(float64(x)))
	case tensor.Float16:
		binary.LittleEndian.PutUint16(t.Data[at*2:], tensor.ToFloat16(x))
	case tensor.BFloat16:
		binary.LittleEndian.PutUint16(t.Data[at*2:], tensor.ToBFloat16(x))
	}
}

// putInteger takes bools as well: 0 and 1.
func (f *source) putInteger(t *tensor.Tensor, at int, x int64) *fault.Violation {
	low, high := limits(t.DType)
	if x < low || x > 0 && uint64(x) > high {
		return f.violation(fault.FeatureOutOfRange, "expected an integer from %d to %d, got %d", low, high, x)
	}
	switch t.DType.Size() {
	case 1:
		t.Data[at] = byte(x)
	case 2:
		binary.LittleEndian.PutUint16(t.Data[at*2:], uint16(x))
	case 4:
		binary.LittleEndian.PutUint32(t.Data[at*4:], uint32(x))
	case 8:
		binary.LittleEndian.PutUint64(t.Data[at*8:], uint64(x))
	}
	return nil
}

// limits are the smallest and largest integers that a tensor type holds.
func limits(dtype tensor.DType) (low int64, high uint64) {
	switch dtype {
	case tensor.Bool:
		return 0, 1
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
		return 0, math.MaxUint64 >> (64 - 8*dtype.Size())
	default:
		bits := 8*dtype.Size() - 1
		return -1 << bits, 1<<bits - 1
	}
}

// expected is what a feature takes, in a message: "a float", "64 floats", "floats".
func (f *source) expected() string {
	noun := map[inferencev1.FeatureType]string{
		inferencev1.FeatureType_FEATURE_TYPE_FLOAT:  "float",
		inferencev1.FeatureType_FEATURE_TYPE_DOUBLE: "double",
		inferencev1.FeatureType_FEATURE_TYPE_INT64:  "integer",
		inferencev1.FeatureType_FEATURE_TYPE_BOOL:   "bool",
		inferencev1.FeatureType_FEATURE_TYPE_STRING: "string",
	}[f.typ]
	switch {
	case f.scalar && noun == "integer":
		return "an integer"
	case f.scalar:
		return "a " + noun
	case f.count < 0:
		return noun + "s"
	default:
		return fmt.Sprintf("%d %ss", f.count, noun)
	}
}

// kind is what a value holds, in a message.
func kind(value *inferencev1.FeatureValue) string {
	switch value.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatValue:
		return "float_value"
	case *inferencev1.FeatureValue_StringValue:
		return "string_value"
	case *inferencev1.FeatureValue_FloatArray:
		return "float_array"
	case *inferencev1.FeatureValue_Int64Value:
		return "int64_value"
	case *inferencev1.FeatureValue_DoubleValue:
		return "double_value"
	case *inferencev1.FeatureValue_BoolValue:
		return "bool_value"
	case *inferencev1.FeatureValue_Int64Array:
		return "int64_array"
	case *inferencev1.FeatureValue_StringArray:
		return "string_array"
	default:
		return "no value"
	}
}

func (f *source) violation(reason fault.Reason, format string, args ...any) *fault.Violation {
	quoted := fault.Quote(f.name)
	return &fault.Violation{
		Reason: reason, Field: "features[" + quoted + "]", Message: "feature " + quoted + ": " + fmt.Sprintf(format, args...),
	}
}
