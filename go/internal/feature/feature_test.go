// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/proto"
)

const (
	FLOAT  = inferencev1.FeatureType_FEATURE_TYPE_FLOAT
	DOUBLE = inferencev1.FeatureType_FEATURE_TYPE_DOUBLE
	INT64  = inferencev1.FeatureType_FEATURE_TYPE_INT64
	BOOL   = inferencev1.FeatureType_FEATURE_TYPE_BOOL
	STRING = inferencev1.FeatureType_FEATURE_TYPE_STRING
)

type values = map[string]*inferencev1.FeatureValue

func float(x float32) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatValue{FloatValue: x}}
}

func double(x float64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_DoubleValue{DoubleValue: x}}
}

func integer(x int64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Value{Int64Value: x}}
}

func truth(x bool) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_BoolValue{BoolValue: x}}
}

func text(x string) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{StringValue: x}}
}

func floats(x ...float32) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatArray{FloatArray: &inferencev1.FloatArray{Values: x}}}
}

func integers(x ...int64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Array{Int64Array: &inferencev1.Int64Array{Values: x}}}
}

func texts(x ...string) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringArray{StringArray: &inferencev1.StringArray{Values: x}}}
}

func bind(name string, typ inferencev1.FeatureType, shape []int64, input string, column int64) *modelpackagev1.FeatureBinding {
	return &modelpackagev1.FeatureBinding{
		Feature: &inferencev1.Feature{Name: name, Type: typ, Shape: shape, Required: true}, Input: input, Column: column,
	}
}

func spec(name string, dtype tensor.DType, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, DType: dtype, Shape: shape}
}

func specs(list ...tensor.Spec) []tensor.Spec { return list }

// anyOutput is what a manifest must have at least.
var anyOutput = specs(spec("y", tensor.Float32, -1, 2))

func manifest(features ...*modelpackagev1.FeatureBinding) *modelpackagev1.Manifest {
	return &modelpackagev1.Manifest{
		Features:    features,
		Predictions: []*modelpackagev1.PredictionBinding{{Prediction: &inferencev1.Prediction{Name: "p"}, Output: "y"}},
	}
}

func mustBind(t testing.TB, inputs []tensor.Spec, features ...*modelpackagev1.FeatureBinding) *Plan {
	t.Helper()
	plan, err := FromManifest(manifest(features...), inputs, anyOutput)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// little is the little-endian bytes of numbers.
func little(numbers any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, numbers)
	if err != nil {
		panic(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	nan := math.Float32frombits(0xffc00001)
	for _, c := range []struct {
		name    string
		inputs  []tensor.Spec
		bound   []*modelpackagev1.FeatureBinding
		request values
		shape   []int64
		data    []byte
		strings []string
	}{
		{"columns", specs(spec("x", tensor.Float32, -1, 4)), []*modelpackagev1.FeatureBinding{
			bind("b", FLOAT, nil, "x", 3), bind("mid", FLOAT, []int64{2}, "x", 1), bind("a", FLOAT, nil, "x", 0),
		}, values{"a": float(1), "b": float(4), "mid": floats(2, 3)}, []int64{1, 4}, little([]float32{1, 2, 3, 4}), nil},
		{"width from the manifest", specs(spec("x", tensor.Float32, -1, -1)), []*modelpackagev1.FeatureBinding{
			bind("a", FLOAT, nil, "x", 0), bind("b", FLOAT, nil, "x", 1),
		}, values{"a": float(1), "b": float(2)}, []int64{1, 2}, little([]float32{1, 2}), nil},
		{"rows only", specs(spec("x", tensor.Float32, -1)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0)},
			values{"a": float(nan)}, []int64{1}, little(nan), nil},
		{"rank 0", specs(spec("x", tensor.Int64)), []*modelpackagev1.FeatureBinding{bind("a", INT64, nil, "x", 0)},
			values{"a": integer(math.MinInt64)}, []int64{}, little(int64(math.MinInt64)), nil},
		{"no batch axis", specs(spec("x", tensor.Float32, 3)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{3}, "x", 0)},
			values{"a": floats(1, 2, 3)}, []int64{3}, little([]float32{1, 2, 3}), nil},
		{"image", specs(spec("x", tensor.Float32, -1, 2, 2)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{2, 2}, "x", 0)},
			values{"a": floats(1, 2, 3, 4)}, []int64{1, 2, 2}, little([]float32{1, 2, 3, 4}), nil},
		{"flat image", specs(spec("x", tensor.Float32, -1, 2, 2)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{4}, "x", 0)},
			values{"a": floats(1, 2, 3, 4)}, []int64{1, 2, 2}, little([]float32{1, 2, 3, 4}), nil},
		{"open", specs(spec("x", tensor.Float32, -1, -1)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-1}, "x", 0)},
			values{"a": floats(1, 2, 3)}, []int64{1, 3}, little([]float32{1, 2, 3}), nil},
		{"open and empty", specs(spec("x", tensor.Float32, -1, -1)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-1}, "x", 0)},
			values{"a": floats()}, []int64{1, 0}, nil, nil},
		{"open pairs", specs(spec("x", tensor.Float32, -1, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-1, 2}, "x", 0)},
			values{"a": floats(1, 2, 3, 4)}, []int64{1, 2, 2}, little([]float32{1, 2, 3, 4}), nil},
		{"empty", specs(spec("x", tensor.Float32, -1, 0)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{0}, "x", 0)},
			values{"a": floats()}, []int64{1, 0}, nil, nil},
		{"strings", specs(spec("x", tensor.String, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", STRING, nil, "x", 0), bind("b", STRING, nil, "x", 1)},
			values{"a": text("a\x00"), "b": text("")}, []int64{1, 2}, nil, []string{"a\x00", ""}},
		{"string array", specs(spec("x", tensor.String, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", STRING, []int64{2}, "x", 0)},
			values{"a": texts("p", "q")}, []int64{1, 2}, nil, []string{"p", "q"}},
		{"bools", specs(spec("x", tensor.Bool, -1, 3)), []*modelpackagev1.FeatureBinding{bind("a", BOOL, nil, "x", 0), bind("b", BOOL, []int64{2}, "x", 1)},
			values{"a": truth(true), "b": integers(0, 1)}, []int64{1, 3}, []byte{1, 0, 1}, nil},
		{"double", specs(spec("x", tensor.Float64, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", DOUBLE, nil, "x", 0), bind("b", DOUBLE, nil, "x", 1)},
			values{"a": double(0.1), "b": float(0.1)}, []int64{1, 2}, little([]float64{0.1, float64(float32(0.1))}), nil},
		{"double array", specs(spec("x", tensor.Float64, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", DOUBLE, []int64{2}, "x", 0)},
			values{"a": floats(0.1, 2)}, []int64{1, 2}, little([]float64{float64(float32(0.1)), 2}), nil},
		{"float16", specs(spec("x", tensor.Float16, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{2}, "x", 0)},
			values{"a": floats(1, 65520)}, []int64{1, 2}, little([]uint16{0x3c00, 0x7c00}), nil},
		{"bfloat16", specs(spec("x", tensor.BFloat16, -1)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0)},
			values{"a": float(1)}, []int64{1}, little(uint16(0x3f80)), nil},
		{"narrow integers", specs(spec("x", tensor.Int8, -1, 2)), []*modelpackagev1.FeatureBinding{bind("a", INT64, []int64{2}, "x", 0)},
			values{"a": integers(-128, 127)}, []int64{1, 2}, []byte{0x80, 0x7f}, nil},
		{"unsigned", specs(spec("x", tensor.Uint32, -1)), []*modelpackagev1.FeatureBinding{bind("a", INT64, nil, "x", 0)},
			values{"a": integer(math.MaxUint32)}, []int64{1}, little(uint32(math.MaxUint32)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			row, f := mustBind(t, c.inputs, c.bound...).Decode(c.request)
			if f != nil {
				t.Fatal(f)
			}
			if got := row[0]; !slices.Equal(got.Shape, c.shape) || !bytes.Equal(got.Data, c.data) || !slices.Equal(got.Strings, c.strings) || got.DType != c.inputs[0].DType {
				t.Errorf("got %+v, want shape %v, data %v, strings %q", got, c.shape, c.data, c.strings)
			}
		})
	}
}

func TestDecodeFaults(t *testing.T) {
	age := bind("age", INT64, nil, "age", 0)
	optional := bind("optional", FLOAT, nil, "o", 0)
	optional.Feature.Required, optional.Feature.DefaultValue = false, float(7)
	plan := mustBind(t, specs(
		spec("x", tensor.Float32, -1, 1), spec("d", tensor.Float64, -1), spec("age", tensor.Int8, -1), spec("b", tensor.Bool, -1, 2),
		spec("s", tensor.String, -1), spec("p", tensor.Float32, -1, 3), spec("open", tensor.String, -1, -1, 8), spec("o", tensor.Float32, -1),
		spec("u", tensor.Uint64, -1),
	), bind("mean radius", FLOAT, nil, "x", 0), bind("d", DOUBLE, nil, "d", 0), age, bind("flags", BOOL, []int64{2}, "b", 0), bind("s", STRING, nil, "s", 0),
		bind("pixels", FLOAT, []int64{3}, "p", 0), bind("words", STRING, []int64{-1, 8}, "open", 0), optional, bind("u", INT64, nil, "u", 0))
	good := func() values {
		return values{
			"mean radius": float(1), "d": double(1), "age": integer(1), "flags": integers(0, 1), "s": text("x"), "pixels": floats(1, 2, 3),
			"words": texts(), "u": integer(math.MaxInt64),
		}
	}
	if row, f := plan.Decode(good()); f != nil || math.Float32frombits(binary.LittleEndian.Uint32(row[7].Data)) != 7 {
		t.Fatalf("the default: %v, %v", row, f)
	}
	for _, c := range []struct {
		name, feature string
		value         *inferencev1.FeatureValue // nil: absent
		reason        fault.Reason
		want          string
	}{
		{"missing", "mean radius", nil, fault.FeatureMissing, `feature "mean radius": expected a float, got nothing`},
		{"missing array", "pixels", nil, fault.FeatureMissing, `feature "pixels": expected 3 floats, got nothing`},
		{"missing open", "words", nil, fault.FeatureMissing, `feature "words": expected strings, got nothing`},
		{"missing integer", "age", nil, fault.FeatureMissing, `feature "age": expected an integer, got nothing`},
		{"missing bools", "flags", nil, fault.FeatureMissing, `feature "flags": expected 2 bools, got nothing`},
		{"string for float", "mean radius", text("1"), fault.FeatureTypeMismatch, `feature "mean radius": expected a float, got string_value`},
		{"double for float", "mean radius", double(1), fault.FeatureTypeMismatch, `feature "mean radius": expected a float, got double_value`},
		{"array for scalar", "mean radius", floats(1), fault.FeatureTypeMismatch, `feature "mean radius": expected a float, got float_array`},
		{"scalar for array", "pixels", float(1), fault.FeatureTypeMismatch, `feature "pixels": expected 3 floats, got float_value`},
		{"no value", "mean radius", &inferencev1.FeatureValue{}, fault.FeatureTypeMismatch, `feature "mean radius": expected a float, got no value`},
		{"integer for double", "d", integer(1), fault.FeatureTypeMismatch, `feature "d": expected a double, got int64_value`},
		{"integer for bool array", "flags", truth(true), fault.FeatureTypeMismatch, `feature "flags": expected 2 bools, got bool_value`},
		{"integer for string", "s", integer(1), fault.FeatureTypeMismatch, `feature "s": expected a string, got int64_value`},
		{"integer array for strings", "words", integers(1), fault.FeatureTypeMismatch, `feature "words": expected strings, got int64_array`},
		{"short", "pixels", floats(1, 2), fault.FeatureShapeMismatch, `feature "pixels": expected 3 values, got 2`},
		{"open", "words", texts("a"), fault.FeatureShapeMismatch, `feature "words": expected a multiple of 8 values, got 1`},
		{"too large", "age", integer(300), fault.FeatureOutOfRange, `feature "age": expected an integer from -128 to 127, got 300`},
		{"too small", "age", integer(-129), fault.FeatureOutOfRange, `feature "age": expected an integer from -128 to 127, got -129`},
		{"negative", "u", integer(-1), fault.FeatureOutOfRange, `feature "u": expected an integer from 0 to 18446744073709551615, got -1`},
		{"neither 0 nor 1", "flags", integers(0, 2), fault.FeatureOutOfRange, `feature "flags": expected an integer from 0 to 1, got 2`},
		{"unknown", "mean radios", float(1), fault.FeatureUnknown, `feature "mean radios": the model has no such feature`},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := good()
			delete(request, c.feature)
			if c.value != nil {
				request[c.feature] = c.value
			}
			_, f := plan.Decode(request)
			if f == nil || f.Reason != c.reason || f.Message != c.want || len(f.Violations) != 1 || f.Violations[0].Field != `features["`+c.feature+`"]` {
				t.Errorf("got %+v", f)
			}
		})
	}
	t.Run("all together, in order", func(t *testing.T) {
		request := good()
		delete(request, "mean radius")
		request["age"] = integer(1000)
		request["z"], request["a\"b"] = float(1), float(1)
		_, f := plan.Decode(request)
		var fields []string
		for _, v := range f.Violations {
			fields = append(fields, v.Field)
		}
		if want := []string{`features["mean radius"]`, `features["age"]`, `features["a\"b"]`, `features["z"]`}; !slices.Equal(fields, want) {
			t.Errorf("got %v", fields)
		}
		if want := `feature "mean radius": expected a float, got nothing (and 3 more)`; f.Message != want {
			t.Errorf("got %q", f.Message)
		}
	})
	t.Run("at most sixteen", func(t *testing.T) {
		request := good()
		for i := range 40 {
			request[strings.Repeat("?", i+1)] = float(1)
		}
		if _, f := plan.Decode(request); len(f.Violations) != 16 || !strings.HasSuffix(f.Message, " (and 39 more)") {
			t.Errorf("%d violations: %s", len(f.Violations), f.Message)
		}
	})
}

func TestBindingErrors(t *testing.T) {
	two := specs(spec("x", tensor.Float32, -1, 2))
	ab := func() []*modelpackagev1.FeatureBinding {
		return []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0), bind("b", FLOAT, nil, "x", 1)}
	}
	for _, c := range []struct {
		name   string
		inputs []tensor.Spec
		bound  []*modelpackagev1.FeatureBinding
		spoil  func(*modelpackagev1.Manifest)
		want   string
	}{
		{"fits", two, ab(), nil, ""},
		{"no name", two, append(ab(), bind("", FLOAT, nil, "x", 2)), nil, `feature "": expected a name, got nothing`},
		{"name twice", two, append(ab(), bind("a", FLOAT, nil, "x", 2)), nil, `feature "a": bound twice`},
		{"no such input", two, append(ab(), bind("c", FLOAT, nil, "z", 0)), nil, `feature "c": the graph has no input "z"`},
		{"type", two, []*modelpackagev1.FeatureBinding{bind("a", STRING, nil, "x", 0)}, nil, `feature "a": a STRING does not fit input "x", float`},
		{"no type", two, []*modelpackagev1.FeatureBinding{bind("a", 0, nil, "x", 0)}, nil, `feature "a": a UNSPECIFIED does not fit input "x", float`},
		{"double into float", two, []*modelpackagev1.FeatureBinding{bind("a", DOUBLE, nil, "x", 0)}, nil, `feature "a": a DOUBLE does not fit input "x", float`},
		{"negative column", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", -1)}, nil, `feature "a": expected a column of at least 0, got -1`},
		{"column twice", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0), bind("b", FLOAT, nil, "x", 0)}, nil, `input "x": column 0 is bound twice`},
		{"column missing", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 1)}, nil, `input "x": column 0 is bound to no feature`},
		{"columns missing", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0)}, nil, `input "x": expected 2 columns, got features for 1`},
		{"columns too many", two, append(ab(), bind("c", FLOAT, nil, "x", 2)), nil, `input "x": expected 2 columns, got features for 3`},
		{"huge column", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", math.MaxInt64), bind("b", FLOAT, nil, "x", 0)}, nil, `input "x": column 1 is bound to no feature`},
		{"array overlaps", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{2}, "x", 0), bind("b", FLOAT, nil, "x", 1)}, nil, `input "x": column 1 is bound twice`},
		{"input unbound", append(slices.Clone(two), spec("z", tensor.Float32, -1)), ab(), nil, `input "z": no feature is bound to it`},
		{"open among others", specs(spec("x", tensor.Float32, -1, -1)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-1}, "x", 0), bind("b", FLOAT, nil, "x", 1)}, nil,
			`input "x": feature "a" of open shape must fill it alone`},
		{"open into fixed", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-1}, "x", 0)}, nil, `input "x": feature "a" of open shape must fill it alone`},
		{"two open axes", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-1, -1}, "x", 0)}, nil, `feature "a": expected at most one open axis, got shape [-1, -1]`},
		{"negative length", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{-2}, "x", 0)}, nil, `feature "a": expected lengths of at least 0 or -1, got shape [-2]`},
		{"overflow", two, []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{1 << 40, 1 << 40}, "x", 0)}, nil, `feature "a": expected at most 2147483648 elements, got shape [1099511627776, 1099511627776]`},
		{"columns of an image", specs(spec("x", tensor.Float32, -1, 2, 2)), ab(), nil, `input "x": expected one feature that fills it or the columns of a row, got 2 features for float [-1, 2, 2]`},
		{"wrong image", specs(spec("x", tensor.Float32, -1, 2, 2)), []*modelpackagev1.FeatureBinding{bind("a", FLOAT, []int64{2, 3}, "x", 0)}, nil,
			`input "x": expected one feature that fills it or the columns of a row, got 1 features for float [-1, 2, 2]`},
		{"default of a required", two, ab(), func(m *modelpackagev1.Manifest) { m.Features[0].Feature.DefaultValue = float(1) }, `feature "a": it is required and has a default`},
		{"no default", two, ab(), func(m *modelpackagev1.Manifest) { m.Features[0].Feature.Required = false }, `feature "a": it is not required and has no default`},
		{"wrong default", two, ab(), func(m *modelpackagev1.Manifest) {
			m.Features[0].Feature.Required, m.Features[0].Feature.DefaultValue = false, text("x")
		}, `feature "a": default: feature "a": expected a float, got string_value`},
		{"no answers", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions = nil }, "expected at least one prediction or output, got none"},
		{"prediction without name", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions[0].Prediction = nil }, `prediction "": expected a name, got nothing`},
		{"prediction twice", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions = append(m.Predictions, m.Predictions[0]) }, `prediction "p": bound twice`},
		{"no such output", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions[0].Output = "q" }, `prediction "p": the graph has no output "q"`},
		{"index", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions[0].Index = 2 }, `prediction "p": index 2 is outside output "y", which has 2 in a row`},
		{"negative index", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions[0].Index = -1 }, `prediction "p": expected an index of at least 0, got -1`},
		{"prediction of text", append(slices.Clone(two), spec("s", tensor.String, -1)), append(ab(), bind("s", STRING, nil, "s", 0)), func(m *modelpackagev1.Manifest) { m.Predictions[0].Output = "texts" },
			`prediction "p": expected a numeric output, got "texts" string [-1]`},
		{"prediction of a bool", two, ab(), func(m *modelpackagev1.Manifest) { m.Predictions[0].Output = "flag" }, `prediction "p": expected a numeric output, got "flag" bool [-1]`},
		{"output type", two, ab(), func(m *modelpackagev1.Manifest) {
			m.Outputs = []*modelpackagev1.OutputBinding{{Output: &inferencev1.Output{Name: "o", Type: INT64}, OnnxOutput: "y"}}
		}, `output "o": expected type FLOAT for output "y", float, got INT64`},
		{"output shape", two, ab(), func(m *modelpackagev1.Manifest) {
			m.Outputs = []*modelpackagev1.OutputBinding{{Output: &inferencev1.Output{Name: "o", Type: FLOAT, Shape: []int64{3}}, OnnxOutput: "y"}}
		}, `output "o": expected 2 elements as output "y" has in a row, got shape [3]`},
		{"output of no elements", two, ab(), func(m *modelpackagev1.Manifest) {
			m.Outputs = []*modelpackagev1.OutputBinding{{Output: &inferencev1.Output{Name: "o", Type: FLOAT, Shape: []int64{0}}, OnnxOutput: "nothing"}}
		}, ""},
		{"scalar of no elements", two, ab(), func(m *modelpackagev1.Manifest) {
			m.Outputs = []*modelpackagev1.OutputBinding{{Output: &inferencev1.Output{Name: "o", Type: FLOAT}, OnnxOutput: "nothing"}}
		}, `output "o": index 0 is outside output "nothing", which has 0 in a row`},
		{"output array index", two, ab(), func(m *modelpackagev1.Manifest) {
			m.Outputs = []*modelpackagev1.OutputBinding{{Output: &inferencev1.Output{Name: "o", Type: FLOAT, Shape: []int64{2}}, OnnxOutput: "y", Index: 1}}
		}, `output "o": expected index 0 for an array, got 1`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := proto.CloneOf(manifest(c.bound...))
			if c.spoil != nil {
				c.spoil(m)
			}
			_, err := FromManifest(m, c.inputs, append(slices.Clone(anyOutput), spec("texts", tensor.String, -1), spec("flag", tensor.Bool, -1), spec("nothing", tensor.Float32, -1, 0)))
			if got := ""; err != nil && err.Error() != c.want || err == nil && c.want != got {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestFromGraph(t *testing.T) {
	plan, err := FromGraph(
		specs(spec("rows", tensor.Float16, -1, 3), spec("scalar", tensor.Uint8), spec("one", tensor.String, 1), spec("fixed", tensor.Bool, 2, -1)),
		specs(spec("p", tensor.BFloat16, -1), spec("p1", tensor.Float32, -1, 1), spec("d", tensor.Float64, -1), spec("wide", tensor.Float32, -1, 2),
			spec("found", tensor.Int64, 2, -1)),
	)
	if err != nil {
		t.Fatal(err)
	}
	wantFeatures := []*inferencev1.Feature{
		{Name: "rows", Type: FLOAT, Shape: []int64{3}, Required: true}, {Name: "scalar", Type: INT64, Required: true},
		{Name: "one", Type: STRING, Required: true}, {Name: "fixed", Type: BOOL, Shape: []int64{2, -1}, Required: true},
	}
	for i, feature := range plan.Features() {
		if !proto.Equal(feature, wantFeatures[i]) {
			t.Errorf("feature %d: %v", i, feature)
		}
	}
	wantOutputs := []*inferencev1.Output{
		{Name: "p", Type: FLOAT}, {Name: "p1", Type: FLOAT, Shape: []int64{1}}, {Name: "d", Type: DOUBLE}, {Name: "wide", Type: FLOAT, Shape: []int64{2}},
		{Name: "found", Type: INT64, Shape: []int64{2, -1}},
	}
	for i, output := range plan.Outputs() {
		if !proto.Equal(output, wantOutputs[i]) {
			t.Errorf("output %d: %v", i, output)
		}
	}
	var names []string
	for _, p := range plan.Predictions() {
		names = append(names, p.GetName())
	}
	if !slices.Equal(names, []string{"p", "p1"}) {
		t.Errorf("predictions: %v", names)
	}
	row, f := plan.Decode(values{"rows": floats(1, 2, 3), "scalar": integer(255), "one": text("x"), "fixed": integers(1, 0, 0, 1)})
	if f != nil {
		t.Fatal(f)
	}
	for i, shape := range [][]int64{{1, 3}, {}, {1}, {2, 2}} {
		if !slices.Equal(row[i].Shape, shape) {
			t.Errorf("input %d has shape %v, want %v", i, row[i].Shape, shape)
		}
	}
	if _, err := FromGraph(specs(spec("x", tensor.Float32, -1, -1, -1)), anyOutput); err == nil || err.Error() != `input "x" has 2 open axes` {
		t.Errorf("two open axes: %v", err)
	}
	// Without rows going in, an output is whole.
	plan, err = FromGraph(specs(spec("n", tensor.Int64)), specs(spec("y", tensor.Float32, -1)))
	if err != nil || !slices.Equal(plan.Outputs()[0].GetShape(), []int64{-1}) || len(plan.Predictions()) != 0 {
		t.Errorf("no rows: %v, %v", plan.Outputs(), err)
	}
}

// sameAnswer holds the bytes that AppendAnswer writes against the message of Encode, bit for bit.
func sameAnswer(t *testing.T, plan *Plan, outputs []tensor.Tensor) {
	t.Helper()
	want := &inferencev1.PredictResponse{ModelVersion: "7"}
	if err := plan.Encode(outputs, want); err != nil {
		t.Fatal(err)
	}
	data, ok := plan.AppendAnswer([]byte{4<<3 | 2, 1, '7'}, outputs)
	got := &inferencev1.PredictResponse{}
	if err := proto.Unmarshal(data, got); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	// Marshalled, since proto.Equal takes one NaN for another.
	deterministic := proto.MarshalOptions{Deterministic: true}
	gotData, _ := deterministic.Marshal(got)
	wantData, _ := deterministic.Marshal(want)
	if !bytes.Equal(gotData, wantData) || len(data) != len(wantData) {
		t.Errorf("got %d bytes, %v\nwant %d bytes, %v", len(data), got, len(wantData), want)
	}
}

func TestEncode(t *testing.T) {
	outputs := specs(
		spec("f", tensor.Float32, -1, 2), spec("d", tensor.Float64, -1, 1), spec("u", tensor.Uint64, -1), spec("b", tensor.Bool, -1, 2),
		spec("s", tensor.String, -1, 2), spec("h", tensor.Float16, -1), spec("i", tensor.Int8, -1, -1),
	)
	m := &modelpackagev1.Manifest{Features: []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0)}}
	predict := func(name, output string, index int64) {
		m.Predictions = append(m.Predictions, &modelpackagev1.PredictionBinding{Prediction: &inferencev1.Prediction{Name: name}, Output: output, Index: index})
	}
	give := func(name string, typ inferencev1.FeatureType, shape []int64, output string, index int64) {
		m.Outputs = append(m.Outputs, &modelpackagev1.OutputBinding{Output: &inferencev1.Output{Name: name, Type: typ, Shape: shape}, OnnxOutput: output, Index: index})
	}
	predict("f1", "f", 1)
	predict("d", "d", 0)
	predict("u", "u", 0)
	predict("h", "h", 0)
	give("f", FLOAT, []int64{2}, "f", 0)
	give("d", DOUBLE, nil, "d", 0)
	give("ds", DOUBLE, []int64{1}, "d", 0)
	give("b", BOOL, nil, "b", 1)
	give("bs", BOOL, []int64{2}, "b", 0)
	give("s", STRING, nil, "s", 1)
	give("ss", STRING, []int64{2}, "s", 0)
	give("is", INT64, []int64{-1}, "i", 0)
	plan, err := FromManifest(m, specs(spec("x", tensor.Float32, -1)), outputs)
	if err != nil {
		t.Fatal(err)
	}
	nan := math.Float32frombits(0x7fc00123)
	row := func() []tensor.Tensor {
		all := []tensor.Tensor{
			{DType: tensor.Float32, Shape: []int64{1, 2}, Data: little([]float32{1, nan})},
			{DType: tensor.Float64, Shape: []int64{1, 1}, Data: little(0.1)},
			{DType: tensor.Uint64, Shape: []int64{1}, Data: little(uint64(1 << 62))},
			{DType: tensor.Bool, Shape: []int64{1, 2}, Data: []byte{0, 1}},
			{DType: tensor.String, Shape: []int64{1, 2}, Strings: []string{"p", "q"}},
			{DType: tensor.Float16, Shape: []int64{1}, Data: little(uint16(0x3c00))},
			{DType: tensor.Int8, Shape: []int64{1, 3}, Data: []byte{0x80, 0, 0x7f}},
		}
		wanted := make([]tensor.Tensor, 0, len(all))
		for _, graph := range plan.Wanted() {
			wanted = append(wanted, all[graph])
		}
		return wanted
	}
	got := &inferencev1.PredictResponse{}
	if err := plan.Encode(row(), got); err != nil {
		t.Fatal(err)
	}
	sameAnswer(t, plan, row())
	none := row()
	none[slices.IndexFunc(plan.wantedSpecs, func(s tensor.Spec) bool { return s.Name == "i" })] = tensor.Tensor{DType: tensor.Int8, Shape: []int64{1, 0}}
	sameAnswer(t, plan, none)
	if bits := math.Float32bits(got.GetPredictions()["f1"]); bits != 0x7fc00123 {
		t.Errorf("f1 has the bits %#x", bits)
	}
	delete(got.Predictions, "f1")
	delete(got.Outputs, "f")
	want := &inferencev1.PredictResponse{
		Predictions: map[string]float32{"d": 0.1, "u": 1 << 62, "h": 1},
		Outputs: values{
			"d": double(0.1), "ds": floats(0.1), "b": truth(true), "bs": integers(0, 1), "s": text("q"), "ss": texts("p", "q"), "is": integers(-128, 0, 127),
		},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}

	place := func(name string) int {
		return slices.IndexFunc(plan.wantedSpecs, func(s tensor.Spec) bool { return s.Name == name })
	}
	for name, c := range map[string]struct {
		spoil func([]tensor.Tensor)
		want  string
	}{
		"two rows": {func(r []tensor.Tensor) { r[place("h")].Shape = []int64{2} }, `output "h": expected 1 row, got shape [2]`},
		"no axis":  {func(r []tensor.Tensor) { r[place("h")].Shape = nil }, `output "h": expected 1 row, got shape []`},
		"short": {func(r []tensor.Tensor) {
			r[place("f")] = tensor.Tensor{DType: tensor.Float32, Shape: []int64{1, 1}, Data: make([]byte, 4)}
		}, `output "f": expected an element 1 in the row, got 1 elements`},
		"another type": {func(r []tensor.Tensor) { r[place("h")].DType = tensor.BFloat16 }, `output "h": expected float16, got bfloat16`},
		"not UTF-8":    {func(r []tensor.Tensor) { r[place("s")].Strings = []string{"p", "\xff"} }, `output "s": expected UTF-8, got other bytes`},
	} {
		outputs := row()
		c.spoil(outputs)
		if err := plan.Encode(outputs, &inferencev1.PredictResponse{}); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v", name, err)
		}
		if _, ok := plan.AppendAnswer(nil, outputs); ok {
			t.Errorf("%s: appended", name)
		}
	}
}

func TestUint64Output(t *testing.T) {
	plan, err := FromGraph(specs(spec("x", tensor.Float32, -1)), specs(spec("u", tensor.Uint64, -1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	err = plan.Encode([]tensor.Tensor{{DType: tensor.Uint64, Shape: []int64{1, 2}, Data: little([]uint64{1, 1 << 63})}}, &inferencev1.PredictResponse{})
	if err == nil || err.Error() != `output "u": expected at most 2^63 - 1, got 9223372036854775808` {
		t.Errorf("got %v", err)
	}
}

// FuzzDecode sends any features; what is taken has the shapes that the graph wants.
func FuzzDecode(f *testing.F) {
	for _, seed := range []values{
		{"a": float(1), "b": integers(1, 2), "words": texts("x")},
		{"a": double(1), "b": integers(300, 2), "words": texts(), "?": nil},
		{},
	} {
		data, _ := proto.Marshal(&inferencev1.PredictRequest{Features: seed})
		f.Add(data)
	}
	optional := bind("words", STRING, []int64{-1}, "w", 0)
	optional.Feature.Required, optional.Feature.DefaultValue = false, texts("none")
	plan := mustBind(f, specs(spec("x", tensor.Float64, -1, 1), spec("n", tensor.Int8, -1, 2), spec("w", tensor.String, -1, -1)),
		bind("a", DOUBLE, nil, "x", 0), bind("b", INT64, []int64{2}, "n", 0), optional)
	f.Fuzz(func(t *testing.T, data []byte) {
		request := &inferencev1.PredictRequest{}
		if proto.Unmarshal(data, request) != nil {
			return
		}
		row, bad := plan.Decode(request.GetFeatures())
		if bad != nil {
			if len(bad.Violations) == 0 || len(bad.Violations) > fault.MaxViolations || bad.Reason != bad.Violations[0].Reason {
				t.Fatalf("%+v", bad)
			}
			return
		}
		for i := range row {
			if n, ok := tensor.Elements(row[i].Shape); !ok || int64(row[i].Len()) != n || row[i].Shape[0] != 1 {
				t.Fatalf("input %d: %+v", i, row[i])
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var bound []*modelpackagev1.FeatureBinding
	request := values{}
	for i := range 30 {
		name := strings.Repeat("x", 10) + string(rune('a'+i))
		bound = append(bound, bind(name, FLOAT, nil, "x", int64(i)))
		request[name] = float(float32(i))
	}
	plan := mustBind(b, specs(spec("x", tensor.Float32, -1, 30)), bound...)
	b.ReportAllocs()
	for b.Loop() {
		if _, f := plan.Decode(request); f != nil {
			b.Fatal(f)
		}
	}
}

// TestSignallingNaN goes over the wire as it is, by either way.
func TestSignallingNaN(t *testing.T) {
	m := &modelpackagev1.Manifest{
		Features:    []*modelpackagev1.FeatureBinding{bind("a", FLOAT, nil, "x", 0)},
		Predictions: []*modelpackagev1.PredictionBinding{{Prediction: &inferencev1.Prediction{Name: "p"}, Output: "y"}},
	}
	plan, err := FromManifest(m, specs(spec("x", tensor.Float32, -1)), specs(spec("y", tensor.Float32, -1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, bits := range []uint32{0x7f800001, 0xffbfffff, 0x7fc00001} {
		outputs := []tensor.Tensor{{DType: tensor.Float32, Shape: []int64{1}, Data: little(bits)}}
		answer := &inferencev1.PredictResponse{}
		if err := plan.Encode(outputs, answer); err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(answer)
		want := append([]byte("\x12\x08\n\x01p\x15"), little(bits)...)
		if err != nil || !bytes.Equal(data, want) {
			t.Errorf("%#x: got %x, %v", bits, data, err)
		}
		if data, ok := plan.AppendAnswer(nil, outputs); !ok || !bytes.Equal(data, want) {
			t.Errorf("%#x: got %x", bits, data)
		}
	}
}
