// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// Features is one row: a value for each feature, by name. A value is a string, a bool, any integer or float, a slice or array of
// these (nested for more than one axis), or a *inferencev1.FeatureValue, which is sent untouched.
//
// Which kind of FeatureValue a value becomes follows from the feature's type where it can become that without changing its meaning:
// an integer for a FLOAT or DOUBLE, an integral float for an INT64. A float is rounded to the nearest float32 where the feature is
// a FLOAT. Any other value goes as its own kind, and the server says what it expected: it alone knows the model for sure, and it
// lists everything that is wrong with a request at once. Refused here is only what cannot be sent at all, or what the flat arrays
// of the wire would silently disfigure (ragged or transposed ones).
type Features map[string]any

// slot is what a model expects of one feature; no shape is a scalar.
type slot struct {
	kind  inferencev1.FeatureType
	shape []int64
}

// refused is a value that cannot be sent.
type refused struct{ reason, text string }

func mismatch(format string, arguments ...any) *refused {
	return &refused{"FEATURE_TYPE_MISMATCH", fmt.Sprintf(format, arguments...)}
}

const (
	unknown = inferencev1.FeatureType_FEATURE_TYPE_UNSPECIFIED
	float   = inferencev1.FeatureType_FEATURE_TYPE_FLOAT
	double  = inferencev1.FeatureType_FEATURE_TYPE_DOUBLE
	integer = inferencev1.FeatureType_FEATURE_TYPE_INT64
	boolean = inferencev1.FeatureType_FEATURE_TYPE_BOOL
	text    = inferencev1.FeatureType_FEATURE_TYPE_STRING
)

// maxAxes ends the walk through a slice that holds itself.
const maxAxes = 64

// writeValue makes the FeatureValue that the slot wants of a value; without a slot nothing is known of the feature.
func writeValue(value any, want *slot) (*inferencev1.FeatureValue, *refused) {
	if explicit, ok := value.(*inferencev1.FeatureValue); ok && explicit != nil {
		return explicit, nil
	}
	if want == nil {
		want = &slot{}
	}
	// What most requests are made of, without reflection.
	switch v := value.(type) {
	case float64:
		return writeScalar(v, want)
	case string:
		return writeScalar(v, want)
	case []float32:
		if want.kind == float || want.kind == double || want.kind == unknown {
			return floatArray(slices.Clone(v)), nil
		}
	}
	held := reflect.ValueOf(value)
	if isArray(held) {
		return writeArray(held, want)
	}
	plain, refusal := scalar(held)
	if refusal != nil {
		return nil, refusal
	}
	return writeScalar(plain, want)
}

// writeScalar takes what scalar gives.
func writeScalar(value any, want *slot) (*inferencev1.FeatureValue, *refused) {
	kind := want.kind
	if len(want.shape) > 0 {
		kind = unknown // a scalar of an array's type is no array: it goes as its own kind and the server refuses it
	}
	switch v := value.(type) {
	case string:
		if !utf8.ValidString(v) {
			return nil, mismatch("expected text, got bytes that are not UTF-8")
		}
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{StringValue: v}}, nil
	case bool:
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_BoolValue{BoolValue: v}}, nil
	case int64:
		switch kind {
		case float:
			return floatValue(float64(v)), nil
		case double:
			return doubleValue(float64(v)), nil
		}
		return intValue(v), nil
	case float64:
		switch {
		case kind == double:
			return doubleValue(v), nil
		case kind == integer && isInteger(v):
			return intValue(int64(v)), nil
		}
		return floatValue(v), nil
	}
	panic(fmt.Sprintf("client: %T is no scalar", value))
}

func writeArray(value reflect.Value, want *slot) (*inferencev1.FeatureValue, *refused) {
	flat, shape, refusal := flatten(value, 0)
	if refusal != nil {
		return nil, refusal
	}
	if len(shape) > 1 && len(want.shape) > 0 && !fits(shape, want.shape) {
		return nil, &refused{"FEATURE_SHAPE_MISMATCH",
			fmt.Sprintf("expected values of shape %s, got shape %s", showShape(want.shape), showShape(shape))}
	}
	var strings_, bools, ints, floats int
	for _, element := range flat {
		switch v := element.(type) {
		case string:
			if !utf8.ValidString(v) {
				return nil, mismatch("expected text, got bytes that are not UTF-8")
			}
			strings_++
		case bool:
			bools++
		case int64:
			ints++
		case float64:
			floats++
		}
	}
	if all := len(flat); (strings_ != 0 && strings_ != all) || (bools != 0 && bools != all) {
		return nil, mismatch("expected values of one type, got several together")
	}
	if strings_ > 0 || (len(flat) == 0 && want.kind == text) {
		values := make([]string, len(flat))
		for i, element := range flat {
			values[i] = element.(string)
		}
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringArray{
			StringArray: &inferencev1.StringArray{Values: values}}}, nil
	}
	if asIntegers(flat, bools, floats, want.kind) {
		values := make([]int64, len(flat))
		for i, element := range flat {
			switch v := element.(type) {
			case bool:
				if v { // an array of booleans is one of 0 and 1 on the wire
					values[i] = 1
				}
			case int64:
				values[i] = v
			case float64:
				values[i] = int64(v)
			}
		}
		return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Array{
			Int64Array: &inferencev1.Int64Array{Values: values}}}, nil
	}
	values := make([]float32, len(flat))
	for i, element := range flat {
		switch v := element.(type) {
		case int64:
			values[i] = float32(float64(v))
		case float64:
			values[i] = float32(v)
		}
	}
	return floatArray(values), nil
}

// asIntegers tells whether numbers or booleans go as an int64_array rather than a float_array.
func asIntegers(flat []any, bools, floats int, want inferencev1.FeatureType) bool {
	switch {
	case len(flat) == 0:
		return want == integer || want == boolean
	case bools > 0:
		return true
	case floats == 0:
		return want != float && want != double
	}
	return want == integer && !slices.ContainsFunc(flat, func(element any) bool {
		f, is := element.(float64)
		return is && !isInteger(f)
	})
}

// flatten gives the elements of an array, row-major, and its shape.
func flatten(value reflect.Value, depth int) ([]any, []int64, *refused) {
	value = reach(value)
	n := value.Len()
	if depth >= maxAxes {
		return nil, nil, mismatch("expected a value that can be sent, got %d axes", depth)
	}
	nested := 0
	for i := range n {
		if isArray(value.Index(i)) {
			nested++
		}
	}
	flat := make([]any, 0, n)
	if nested == 0 {
		for i := range n {
			element, refusal := scalar(value.Index(i))
			if refusal != nil {
				return nil, nil, refusal
			}
			flat = append(flat, element)
		}
		return flat, []int64{int64(n)}, nil
	}
	ragged := &refused{"FEATURE_SHAPE_MISMATCH", "expected an array, got slices of different lengths"}
	if nested != n {
		return nil, nil, ragged
	}
	var inner []int64
	for i := range n {
		part, shape, refusal := flatten(value.Index(i), depth+1)
		if refusal != nil {
			return nil, nil, refusal
		}
		if i > 0 && !slices.Equal(shape, inner) {
			return nil, nil, ragged
		}
		flat, inner = append(flat, part...), shape
	}
	return flat, append([]int64{int64(n)}, inner...), nil
}

// reach goes through interfaces to the value that they hold.
func reach(value reflect.Value) reflect.Value {
	for value.Kind() == reflect.Interface {
		value = value.Elem()
	}
	return value
}

func isArray(value reflect.Value) bool {
	kind := reach(value).Kind()
	return kind == reflect.Slice || kind == reflect.Array
}

// scalar gives a string, bool, int64 or float64.
func scalar(value reflect.Value) (any, *refused) {
	value = reach(value)
	switch {
	case !value.IsValid():
		return nil, mismatch("expected a value that can be sent, got nil")
	case value.Kind() == reflect.String:
		return value.String(), nil
	case value.Kind() == reflect.Bool:
		return value.Bool(), nil
	case value.CanInt():
		return value.Int(), nil
	case value.CanUint():
		if value.Uint() > math.MaxInt64 {
			return nil, &refused{"FEATURE_OUT_OF_RANGE", fmt.Sprintf("expected an integer from %d to %d, got %d",
				int64(math.MinInt64), int64(math.MaxInt64), value.Uint())}
		}
		return int64(value.Uint()), nil
	case value.CanFloat():
		return value.Float(), nil
	}
	return nil, mismatch("expected a value that can be sent, got %s", value.Type())
}

func fits(shape, want []int64) bool {
	if len(shape) == len(want) {
		for i := range shape {
			if want[i] != -1 && want[i] != shape[i] {
				return false
			}
		}
		return true
	}
	// Axes of length 1 change no order: a matrix of one row is as good as the row.
	isOne := func(n int64) bool { return n == 1 }
	return slices.Equal(slices.DeleteFunc(slices.Clone(shape), isOne), slices.DeleteFunc(slices.Clone(want), isOne))
}

func isInteger(f float64) bool {
	return f == math.Trunc(f) && f >= math.MinInt64 && f < -math.MinInt64 // 2^63 is the first one too large
}

func floatValue(f float64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatValue{FloatValue: float32(f)}}
}

func doubleValue(f float64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_DoubleValue{DoubleValue: f}}
}

func intValue(i int64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Value{Int64Value: i}}
}

func floatArray(values []float32) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatArray{
		FloatArray: &inferencev1.FloatArray{Values: values}}}
}

// readValue gives the Go value of a FeatureValue; nil where none is set.
func readValue(value *inferencev1.FeatureValue) any {
	switch v := value.GetValue().(type) {
	case *inferencev1.FeatureValue_FloatValue:
		return v.FloatValue
	case *inferencev1.FeatureValue_DoubleValue:
		return v.DoubleValue
	case *inferencev1.FeatureValue_Int64Value:
		return v.Int64Value
	case *inferencev1.FeatureValue_BoolValue:
		return v.BoolValue
	case *inferencev1.FeatureValue_StringValue:
		return v.StringValue
	case *inferencev1.FeatureValue_FloatArray:
		return v.FloatArray.GetValues()
	case *inferencev1.FeatureValue_Int64Array:
		return v.Int64Array.GetValues()
	case *inferencev1.FeatureValue_StringArray:
		return v.StringArray.GetValues()
	}
	return nil
}

// quote shows a name as messages do: quoted as in JSON, at most 64 characters of it.
func quote(name string) string {
	if runes := []rune(name); len(runes) > 64 {
		name = string(runes[:64]) + "..."
	}
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(name); err != nil {
		return fmt.Sprintf("%q", name)
	}
	return strings.TrimSuffix(quoted.String(), "\n")
}

func showShape(shape []int64) string {
	return strings.ReplaceAll(fmt.Sprint(shape), " ", ", ")
}
