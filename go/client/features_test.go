// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

type age int

func TestValues(t *testing.T) {
	var held any = 42
	for _, test := range []struct {
		value any
		want  slot
		kind  string
		held  any
	}{
		// 42 is a number of any type that the feature asks for.
		{42, slot{float, nil}, "float_value", float32(42)},
		{42, slot{double, nil}, "double_value", 42.0},
		{42, slot{integer, nil}, "int64_value", int64(42)},
		{42.0, slot{float, nil}, "float_value", float32(42)},
		{42.0, slot{double, nil}, "double_value", 42.0},
		{42.0, slot{integer, nil}, "int64_value", int64(42)},
		{float32(42), slot{integer, nil}, "int64_value", int64(42)},
		{uint8(42), slot{float, nil}, "float_value", float32(42)},
		{age(42), slot{double, nil}, "double_value", 42.0},
		{int64(math.MaxInt64), slot{integer, nil}, "int64_value", int64(math.MaxInt64)},
		{-0x1p63, slot{integer, nil}, "int64_value", int64(math.MinInt64)},
		{int64(1<<53 + 1), slot{integer, nil}, "int64_value", int64(1<<53 + 1)},
		{0.1, slot{double, nil}, "double_value", 0.1},
		{0.1, slot{float, nil}, "float_value", float32(0.1)},
		{float32(0.1), slot{double, nil}, "double_value", float64(float32(0.1))},
		{1e300, slot{float, nil}, "float_value", float32(math.Inf(1))},
		{true, slot{boolean, nil}, "bool_value", true},
		{"red", slot{text, nil}, "string_value", "red"},
		// What would change its meaning goes as it is; the server says what it expected.
		{42.5, slot{integer, nil}, "float_value", float32(42.5)},
		{0x1p63, slot{integer, nil}, "float_value", float32(0x1p63)},
		{math.Inf(-1), slot{integer, nil}, "float_value", float32(math.Inf(-1))},
		{true, slot{float, nil}, "bool_value", true},
		{1, slot{boolean, nil}, "int64_value", int64(1)},
		{"1.5", slot{float, nil}, "string_value", "1.5"},
		{42, slot{float, []int64{1}}, "int64_value", int64(42)},
		// Nothing known of the feature.
		{42, slot{}, "int64_value", int64(42)},
		{0.5, slot{}, "float_value", float32(0.5)},
		{"", slot{}, "string_value", ""},
		// Arrays.
		{[]float32{1, 2}, slot{float, []int64{2}}, "float_array", []float32{1, 2}},
		{[]float32{1, 2}, slot{integer, []int64{2}}, "int64_array", []int64{1, 2}},
		{[]float64{1, 0.1}, slot{double, []int64{2}}, "float_array", []float32{1, 0.1}},
		{[]int{1, 2}, slot{float, []int64{2}}, "float_array", []float32{1, 2}},
		{[]any{1, 2.5, held}, slot{float, []int64{3}}, "float_array", []float32{1, 2.5, 42}},
		{[]int64{1, 2}, slot{integer, []int64{2}}, "int64_array", []int64{1, 2}},
		{[]float64{1, 2}, slot{integer, []int64{2}}, "int64_array", []int64{1, 2}},
		{[]float64{1, 2.5}, slot{integer, []int64{2}}, "float_array", []float32{1, 2.5}},
		{[]any{int64(math.MaxInt64), 1.0}, slot{integer, []int64{2}}, "int64_array", []int64{math.MaxInt64, 1}},
		{[]byte{1, 255}, slot{integer, []int64{2}}, "int64_array", []int64{1, 255}},
		{[]bool{true, false}, slot{boolean, []int64{2}}, "int64_array", []int64{1, 0}},
		{[]bool{true, false}, slot{float, []int64{2}}, "int64_array", []int64{1, 0}},
		{[]string{"a", ""}, slot{text, []int64{2}}, "string_array", []string{"a", ""}},
		{[2][2]int{{1, 2}, {3, 4}}, slot{float, []int64{2, 2}}, "float_array", []float32{1, 2, 3, 4}},
		{[]any{[]int{1, 2}, []float64{3, 4}}, slot{float, []int64{2, 2}}, "float_array", []float32{1, 2, 3, 4}},
		{[]int{1, 2, 3, 4}, slot{float, []int64{2, 2}}, "float_array", []float32{1, 2, 3, 4}},
		{[][]int{{1, 2, 3}}, slot{float, []int64{3}}, "float_array", []float32{1, 2, 3}},
		{[][]int{{1, 2}, {3, 4}}, slot{integer, []int64{-1, 2}}, "int64_array", []int64{1, 2, 3, 4}},
		{[]int{}, slot{}, "float_array", []float32{}},
		{[]float64{}, slot{integer, []int64{-1}}, "int64_array", []int64{}},
		{[]any{}, slot{boolean, []int64{-1}}, "int64_array", []int64{}},
		{[]any{}, slot{text, []int64{-1}}, "string_array", []string{}},
		{[]int{1}, slot{}, "int64_array", []int64{1}},
	} {
		t.Run(fmt.Sprintf("%T as %v", test.value, test.want), func(t *testing.T) {
			got, refusal := writeValue(test.value, &test.want)
			if refusal != nil {
				t.Fatal(refusal)
			}
			if kind := kindOf(got); kind != test.kind {
				t.Errorf("got %s, want %s", kind, test.kind)
			}
			if held := readValue(got); !reflect.DeepEqual(held, test.held) {
				t.Errorf("got %v (%T), want %v (%T)", held, held, test.held, test.held)
			}
		})
	}
}

func TestNaNIsAValue(t *testing.T) {
	for kind, want := range map[inferencev1.FeatureType]string{float: "float_value", double: "double_value", integer: "float_value"} {
		got, refusal := writeValue(math.NaN(), &slot{kind, nil})
		if refusal != nil || kindOf(got) != want {
			t.Errorf("%v: got %v, %v", kind, got, refusal)
		}
	}
}

func TestExplicitValuesPassUntouched(t *testing.T) {
	for _, value := range []*inferencev1.FeatureValue{{}, stringValue("x")} {
		if got, refusal := writeValue(value, &slot{float, nil}); got != value || refusal != nil {
			t.Errorf("got %v, %v, want %v", got, refusal, value)
		}
	}
}

func TestWhatCannotBeSent(t *testing.T) {
	endless := make([]any, 1)
	endless[0] = endless
	var nothing *inferencev1.FeatureValue
	for _, test := range []struct {
		value  any
		want   slot
		reason string
		text   string
	}{
		{uint64(math.MaxUint64), slot{integer, nil}, "FEATURE_OUT_OF_RANGE", "got 18446744073709551615"},
		{[]uint64{math.MaxInt64 + 1}, slot{integer, []int64{1}}, "FEATURE_OUT_OF_RANGE", "got 9223372036854775808"},
		{nil, slot{float, nil}, "FEATURE_TYPE_MISMATCH", "got nil"},
		{nothing, slot{float, nil}, "FEATURE_TYPE_MISMATCH", "got *inferencev1.FeatureValue"},
		{[]any{1, nil}, slot{float, []int64{2}}, "FEATURE_TYPE_MISMATCH", "got nil"},
		{map[string]int{}, slot{float, nil}, "FEATURE_TYPE_MISMATCH", "got map[string]int"},
		{1i, slot{float, nil}, "FEATURE_TYPE_MISMATCH", "got complex128"},
		{"\xff", slot{text, nil}, "FEATURE_TYPE_MISMATCH", "not UTF-8"},
		{[]string{"\xff"}, slot{text, []int64{1}}, "FEATURE_TYPE_MISMATCH", "not UTF-8"},
		{[]any{1, "a"}, slot{text, []int64{2}}, "FEATURE_TYPE_MISMATCH", "several together"},
		{[]any{true, 2}, slot{integer, []int64{2}}, "FEATURE_TYPE_MISMATCH", "several together"},
		{endless, slot{}, "FEATURE_TYPE_MISMATCH", "64 axes"},
		{[][]int{{1, 2}, {3}}, slot{float, []int64{3}}, "FEATURE_SHAPE_MISMATCH", "different lengths"},
		{[]any{[]int{1, 2}, 3}, slot{float, []int64{3}}, "FEATURE_SHAPE_MISMATCH", "different lengths"},
		{[3][2]int{}, slot{float, []int64{2, 3}}, "FEATURE_SHAPE_MISMATCH", "expected values of shape [2, 3], got shape [3, 2]"},
		{[2][2]int{}, slot{float, []int64{4}}, "FEATURE_SHAPE_MISMATCH", "expected values of shape [4], got shape [2, 2]"},
	} {
		_, refusal := writeValue(test.value, &test.want)
		if refusal == nil || refusal.reason != test.reason || !strings.Contains(refusal.text, test.text) {
			t.Errorf("%T: got %v, want %s %q", test.value, refusal, test.reason, test.text)
		}
	}
}

func TestQuote(t *testing.T) {
	for name, want := range map[string]string{`a"b<`: `"a\"b<"`, strings.Repeat("é", 65): `"` + strings.Repeat("é", 64) + `..."`} {
		if got := quote(name); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func kindOf(value *inferencev1.FeatureValue) string {
	message := value.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("value"))
	if field == nil {
		return ""
	}
	return string(field.Name())
}

func stringValue(s string) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{StringValue: s}}
}
