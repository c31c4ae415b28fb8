// SPDX-License-Identifier: Apache-2.0

package tensor

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"google.golang.org/protobuf/proto"
)

func TestTypesAreTheContracts(t *testing.T) {
	for number, name := range inferencev1.DataType_name {
		served := DType(number).Served()
		if served != (number != 0) {
			t.Errorf("%s: served is %v", name, served)
		}
		if want := strings.ToLower(strings.TrimPrefix(name, "DATA_TYPE_")); number != 0 && DType(number).String() != want {
			t.Errorf("%s is called %s", name, DType(number))
		}
	}
	for _, refused := range []DType{0, 14, 15, 17, 21, 25, 99, -1} {
		if refused.Served() || refused.Size() != 0 || refused.String() == "" {
			t.Errorf("%d is served", refused)
		}
	}
}

func TestElements(t *testing.T) {
	for _, c := range []struct {
		shape []int64
		want  int64
		ok    bool
	}{
		{nil, 1, true},
		{[]int64{2, 3}, 6, true},
		{[]int64{3, 0, 2}, 0, true},
		{[]int64{-1}, 0, false},
		{[]int64{0, -1}, 0, false},
		{[]int64{1 << 32, 1 << 32}, 0, false},
		{[]int64{math.MaxInt64}, math.MaxInt64, true},
		{[]int64{math.MaxInt64, 2}, 0, false},
	} {
		if got, ok := Elements(c.shape); got != c.want || ok != c.ok {
			t.Errorf("%v: got %d, %v", c.shape, got, ok)
		}
	}
}

func TestJoinAndRows(t *testing.T) {
	row := func(x byte, s string) []Tensor {
		return []Tensor{
			{DType: Uint8, Shape: []int64{1, 2}, Data: []byte{x, x + 1}},
			{DType: String, Shape: []int64{1}, Strings: []string{s}},
		}
	}
	joined := Join([][]Tensor{row(1, "a"), row(3, "b"), row(5, "")})
	if !slices.Equal(joined[0].Shape, []int64{3, 2}) || !slices.Equal(joined[0].Data, []byte{1, 2, 3, 4, 5, 6}) || joined[1].Len() != 3 {
		t.Fatalf("got %v", joined)
	}
	for i, want := range []string{"a", "b", ""} {
		numbers, texts := joined[0].Rows(i, 1), joined[1].Rows(i, 1)
		if !slices.Equal(numbers.Data, []byte{byte(1 + 2*i), byte(2 + 2*i)}) || texts.Strings[0] != want || numbers.Shape[0] != 1 {
			t.Errorf("row %d: %v %v", i, numbers, texts)
		}
	}
	if two := Join([][]Tensor{{joined[0].Rows(1, 2)}, {joined[0].Rows(0, 1)}})[0]; !slices.Equal(two.Data, []byte{3, 4, 5, 6, 1, 2}) || two.Shape[0] != 3 {
		t.Errorf("got %v", two)
	}
	if joined[0].Shape[0] != 3 {
		t.Error("Rows changed the tensor that it was taken from")
	}
}

// TestHalf tries every half, and the floats between each two.
func TestHalf(t *testing.T) {
	for _, c := range []struct {
		name  string
		to    func(float32) uint16
		from  func(uint16) float32
		isNaN uint16 // above this magnitude
	}{
		{"float16", ToFloat16, FromFloat16, 0x7c00},
		{"bfloat16", ToBFloat16, FromBFloat16, 0x7f80},
	} {
		for bits := range 1 << 16 {
			h := uint16(bits)
			f := c.from(h)
			if h&0x7fff > c.isNaN {
				if f == f || c.to(f)&0x7fff <= c.isNaN {
					t.Fatalf("%s %#x: NaN was lost", c.name, h)
				}
				continue
			}
			if got := c.to(f); got != h {
				t.Fatalf("%s %#x is %g, which becomes %#x", c.name, h, f, got)
			}
			if h&0x7fff >= c.isNaN-1 {
				continue
			}
			next := c.from(h + 1)
			middle := float32((float64(f) + float64(next)) / 2)
			even := h + h&1
			toward := func(x, goal float32) float32 { return math.Nextafter32(x, goal) }
			if got := c.to(middle); got != even {
				t.Fatalf("%s: %g between %#x and %#x became %#x", c.name, middle, h, h+1, got)
			}
			if got := c.to(toward(middle, f)); got != h {
				t.Fatalf("%s: just below the middle above %#x became %#x", c.name, h, got)
			}
			if got := c.to(toward(middle, next)); got != h+1 {
				t.Fatalf("%s: just above the middle above %#x became %#x", c.name, h, got)
			}
		}
	}
	if got := ToFloat16(65520); got != 0x7c00 {
		t.Errorf("the first float that overflows became %#x", got)
	}
	if got := ToFloat16(float32(math.Inf(-1))); got != 0xfc00 {
		t.Errorf("-inf became %#x", got)
	}
}

func TestFromWire(t *testing.T) {
	float := func(shape []int64, bytes int) *inferencev1.Tensor {
		return &inferencev1.Tensor{Dtype: inferencev1.DataType_DATA_TYPE_FLOAT, Shape: shape, Data: make([]byte, bytes)}
	}
	texts := func(shape []int64, n int) *inferencev1.Tensor {
		return &inferencev1.Tensor{Dtype: inferencev1.DataType_DATA_TYPE_STRING, Shape: shape, Strings: make([][]byte, n)}
	}
	spec := Spec{Name: "x", DType: Float32, Shape: []int64{-1, 2}}
	for name, c := range map[string]struct {
		message *inferencev1.Tensor
		spec    Spec
		reason  fault.Reason // empty: good
		field   string
		want    string
	}{
		"fits":                          {float([]int64{3, 2}, 24), spec, "", "", ""},
		"scalar":                        {float(nil, 4), Spec{DType: Float32}, "", "", ""},
		"empty":                         {float([]int64{0, 2}, 0), spec, "", "", ""},
		"any rank":                      {float([]int64{1, 1, 1}, 4), Spec{DType: Float32, Unranked: true}, "", "", ""},
		"strings":                       {texts([]int64{2}, 2), Spec{DType: String, Shape: []int64{2}}, "", "", ""},
		"no dtype":                      {&inferencev1.Tensor{}, spec, fault.TensorDTypeMismatch, ".dtype", "expected dtype FLOAT, got no dtype"},
		"nil":                           {nil, spec, fault.TensorDTypeMismatch, ".dtype", "expected dtype FLOAT, got no dtype"},
		"float8":                        {&inferencev1.Tensor{Dtype: 17}, spec, fault.TensorDTypeMismatch, ".dtype", "expected dtype FLOAT, got 17"},
		"negative":                      {float([]int64{-1}, 0), spec, fault.TensorShapeMismatch, ".shape", "expected lengths of at least 0, got [-1]"},
		"overflow":                      {float([]int64{1 << 32, 1 << 32}, 0), spec, fault.TensorShapeMismatch, ".shape", "expected fewer elements, got [4294967296, 4294967296]"},
		"overflow of size":              {float([]int64{1 << 62}, 0), spec, fault.TensorShapeMismatch, ".shape", "expected fewer elements, got [4611686018427387904]"},
		"overflow beside an empty axis": {texts([]int64{1 << 60, 0}, 0), Spec{DType: String, Unranked: true}, fault.TensorShapeMismatch, ".shape", "expected fewer elements, got [1152921504606846976, 0]"},
		"long beside an empty axis":     {float([]int64{1 << 60, 0}, 0), Spec{DType: Float32, Unranked: true}, "", "", ""},
		"many axes":                     {float(make([]int64, 65), 0), spec, fault.TensorShapeMismatch, ".shape", "expected at most 64 axes, got 65"},
		"short":                         {float([]int64{3, 2}, 23), spec, fault.TensorDataInvalid, ".data", "expected 24 bytes of data, got 23"},
		"long":                          {float([]int64{3, 2}, 25), spec, fault.TensorDataInvalid, ".data", "expected 24 bytes of data, got 25"},
		"strings too many":              {texts([]int64{2}, 3), spec, fault.TensorDataInvalid, ".strings", "expected 2 strings, got 3"},
		"strings and data":              {&inferencev1.Tensor{Dtype: 8, Shape: []int64{0}, Data: make([]byte, 4)}, spec, fault.TensorDataInvalid, ".data", "expected no data with dtype STRING, got 4 bytes"},
		"data and strings":              {&inferencev1.Tensor{Dtype: 1, Shape: []int64{0}, Strings: [][]byte{nil}}, spec, fault.TensorDataInvalid, ".strings", "expected no strings with dtype FLOAT, got 1"},
		"bool 2":                        {&inferencev1.Tensor{Dtype: 9, Shape: []int64{2}, Data: []byte{1, 2}}, spec, fault.TensorDataInvalid, ".data", "expected bools of 0 or 1, got 2"},
		"other dtype":                   {&inferencev1.Tensor{Dtype: 7, Shape: []int64{1, 2}, Data: make([]byte, 16)}, spec, fault.TensorDTypeMismatch, ".dtype", "expected dtype FLOAT, got INT64"},
		"longer than the limit":         {float([]int64{1, 3}, 12), Spec{Name: "x", DType: Float32, Shape: []int64{-1, -1}, Max: []int64{0, 2}}, fault.TensorShapeMismatch, ".shape", "expected shape [?, <=2], got [1, 3]"},
		"other shape":                   {float([]int64{2, 4}, 32), spec, fault.TensorShapeMismatch, ".shape", "expected shape [?, 2], got [2, 4]"},
		"other rank":                    {float([]int64{2}, 8), spec, fault.TensorShapeMismatch, ".shape", "expected shape [?, 2], got [2]"},
	} {
		_, v := FromWire(c.message, &c.spec)
		switch {
		case v == nil && c.reason != "":
			t.Errorf("%s: taken", name)
		case v != nil && (v.Reason != c.reason || v.Field != c.field || v.Message != c.want):
			t.Errorf("%s: got %+v", name, v)
		}
	}
}

func FuzzFromWire(f *testing.F) {
	for _, seed := range []*inferencev1.Tensor{
		{Dtype: 1, Shape: []int64{2}, Data: make([]byte, 8)}, {Dtype: 8, Shape: []int64{1, 1}, Strings: [][]byte{[]byte("\xff")}},
		{Dtype: 9, Shape: []int64{3}, Data: []byte{0, 1, 0}}, {Dtype: 13, Shape: []int64{1 << 62, 4}},
	} {
		data, _ := proto.Marshal(seed)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message := &inferencev1.Tensor{}
		if proto.Unmarshal(data, message) != nil {
			return
		}
		got, v := FromWire(message, &Spec{DType: DType(message.GetDtype()), Unranked: true})
		if v != nil {
			return
		}
		if n, ok := Elements(got.Shape); !ok || int64(got.Len()) != n {
			t.Fatalf("%d elements of shape %v", got.Len(), got.Shape)
		}
		// Back on the wire it is the same, but for fields that nobody knows.
		back := ToWire(&got)
		if back.Dtype != message.Dtype || !slices.Equal(back.Shape, message.Shape) || string(back.Data) != string(message.Data) || len(back.Strings) != len(message.Strings) {
			t.Fatalf("%v became %v", message, back)
		}
	})
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		want string
	}{
		{Spec{DType: Float32, Shape: []int64{-1, 30}}, "float [-1, 30]"},
		{Spec{DType: String, Shape: []int64{}}, "string []"},
		{Spec{DType: Int8, Unranked: true}, "int8 of unknown rank"},
	} {
		if got := c.spec.Describe(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	one := Make(Float64, nil)
	binary.LittleEndian.PutUint64(one.Data, math.Float64bits(1))
	if one.Len() != 1 {
		t.Errorf("a scalar has %d elements", one.Len())
	}
}
