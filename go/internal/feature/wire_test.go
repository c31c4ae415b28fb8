// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// wirePlans are plans that together have features of every type, shape and place; names are shared, so that one request is for several.
func wirePlans(t testing.TB) []*Plan {
	optional := bind("w", STRING, []int64{-1}, "w", 0)
	optional.Feature.Required, optional.Feature.DefaultValue = false, texts("none")
	later := bind("b", FLOAT, nil, "x", 1)
	later.Feature.Required, later.Feature.DefaultValue = false, float(7)
	limited := specs(tensor.Spec{Name: "x", DType: tensor.Float32, Shape: []int64{-1, -1, 2}, Max: []int64{0, 3, 0}})
	return []*Plan{
		mustBind(t, specs(spec("x", tensor.Float32, -1, 2)), bind("a", FLOAT, nil, "x", 0), later),
		mustBind(t, specs(spec("x", tensor.Float32, -1, 3)), bind("f", FLOAT, []int64{3}, "x", 0)),
		mustBind(t, specs(spec("x", tensor.Float64, -1, 2), spec("y", tensor.Float64, -1, -1)),
			bind("a", DOUBLE, nil, "x", 0), bind("b", DOUBLE, nil, "x", 1), bind("f", DOUBLE, []int64{-1}, "y", 0)),
		mustBind(t, specs(spec("h", tensor.Float16, -1, 3), spec("g", tensor.BFloat16, -1, 1)),
			bind("f", FLOAT, []int64{3}, "h", 0), bind("a", FLOAT, nil, "g", 0)),
		mustBind(t, limited, bind("f", FLOAT, []int64{-1, 2}, "x", 0)),
		mustBind(t, specs(spec("n", tensor.Int8, -1, 3), spec("m", tensor.Int64, -1, -1), spec("u", tensor.Uint64, -1, 1)),
			bind("n", INT64, nil, "n", 0), bind("i", INT64, []int64{2}, "n", 1), bind("j", INT64, []int64{-1}, "m", 0), bind("u", INT64, nil, "u", 0)),
		mustBind(t, specs(spec("t", tensor.Bool, -1, 1), spec("ts", tensor.Bool, -1, 2), spec("w", tensor.String, -1, -1), spec("s", tensor.String, -1, 1)),
			bind("t", BOOL, nil, "t", 0), bind("i", BOOL, []int64{2}, "ts", 0), optional, bind("s", STRING, nil, "s", 0)),
	}
}

// plainRequests are requests that DecodeWire takes, each for the plan of its index.
func plainRequests() []values {
	return []values{
		{"a": float(1.5), "b": float(float32(math.Inf(-1)))},
		{"f": floats(1, -2, float32(math.NaN()))},
		{"a": double(math.MaxFloat64), "b": float(3), "f": floats(1, 2, 3, 4)},
		{"f": floats(1e-9, 65504, 1e9), "a": float(0.1)},
		{"f": floats(1, 2, 3, 4, 5, 6)},
		{"n": integer(-128), "i": integers(127, 0), "j": integers(math.MinInt64, 1<<40, -1, 300), "u": integer(math.MaxInt64)},
		{"t": truth(true), "i": integers(0, 1), "w": texts("x", "", "zwölf"), "s": text("Ω")},
	}
}

func wireOf(t testing.TB, features values) []byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&inferencev1.PredictRequest{
		ModelId: "m", RequestId: "ü", ModelVersion: "3", Features: features,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sameAsStandard holds what is taken of a request's bytes against the general decoder, for each plan, and counts the plans that took them.
func sameAsStandard(t *testing.T, plans []*Plan, data []byte) (taken int) {
	w, ok := ScanWire(data)
	if !ok {
		return 0
	}
	request := &inferencev1.PredictRequest{}
	bad := proto.Unmarshal(data, request)
	for i, plan := range plans {
		// What is decoded must not share memory with the request, whose bytes serve others next.
		own := bytes.Clone(data)
		w, _ := ScanWire(own)
		row, ok := plan.DecodeWire(&w)
		clear(own)
		if !ok {
			continue
		}
		taken++
		if bad != nil {
			t.Fatalf("plan %d: taken, although %v: %x", i, bad, data)
		}
		want, f := plan.Decode(request.GetFeatures())
		if f != nil {
			t.Fatalf("plan %d: taken, although %v: %x", i, f, data)
		}
		if !reflect.DeepEqual(row, want) {
			t.Fatalf("plan %d: got %+v, want %+v: %x", i, row, want, data)
		}
	}
	if taken > 0 {
		rest := &inferencev1.PredictRequest{ModelId: w.ModelID, RequestId: w.RequestID, ModelVersion: w.ModelVersion, Features: request.GetFeatures()}
		if !proto.Equal(rest, request) {
			t.Fatalf("got %+v, want %+v: %x", rest, request, data)
		}
	}
	return taken
}

// entry is the bytes of one feature, by name and the bytes of its value.
func entry(name, value string) []byte {
	inside := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	inside = protowire.AppendString(protowire.AppendTag(inside, 2, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), inside)
}

func TestDecodeWire(t *testing.T) {
	plans := wirePlans(t)
	for i, features := range plainRequests() {
		data := wireOf(t, features)
		if sameAsStandard(t, plans[i:i+1], data) != 1 {
			t.Errorf("plan %d did not take %v", i, features)
		}
		for end := range data {
			sameAsStandard(t, plans, data[:end])
		}
		for at := range data {
			for bit := range 8 {
				other := bytes.Clone(data)
				other[at] ^= 1 << bit
				sameAsStandard(t, plans, other)
			}
		}
	}
	// An absent optional feature, an empty array, and an id in front of or behind its features.
	absent := wireOf(t, values{"a": float(1)})
	empty := append(entry("f", "\x1a\x00"), entry("a", "\x0d\x00\x00\x00\x00")...)
	empty = append(append(empty, entry("b", "\x0d\x00\x00\x80\x3f")...), "\x0a\x01m"...)
	for i, data := range map[int][]byte{0: absent, 2: empty} {
		if sameAsStandard(t, plans[i:i+1], data) != 1 {
			t.Errorf("plan %d did not take %x", i, data)
		}
	}
}

// unusual are requests that the general decoder reads or refuses; none is read here.
func unusual(t testing.TB) [][]byte {
	whole := wireOf(t, values{"a": float(1), "b": float(2)})
	a, one := entry("a", "\x0d\x00\x00\x80\x3f"), "\x0d\x00\x00\x80\x3f"
	join := func(parts ...any) (all []byte) {
		for _, part := range parts {
			switch part := part.(type) {
			case string:
				all = append(all, part...)
			case []byte:
				all = append(all, part...)
			}
		}
		return all
	}
	return [][]byte{
		join(whole, "\x22\x00"),                              // a config
		join(whole, "\x30\x01"),                              // an unknown field
		join(whole, "\x33\x34"),                              // a group
		join(whole, "\x0a\x01m"),                             // an id twice
		join(whole, "\x08\x01"),                              // an id of another wire type
		join(whole, "\x8a\x00\x01m"),                         // a tag longer than need be
		join(whole, a),                                       // a key twice
		join(entry("a\xff", one)),                            // no UTF-8
		join("\x0a\x01\xff", a),                              // no UTF-8
		join(entry("a", one+one)),                            // the value twice
		join(entry("a", one+"\x20\x01")),                     // another kind wins
		join(entry("a", one+"\x48\x01")),                     // an unknown kind
		join(entry("a", "")),                                 // no value
		join(entry("f", "\x1a\x05\x0d\x00\x00\x80\x3f")),     // not packed
		join(entry("f", "\x1a\x02\x0a\x00\x1a\x02\x0a\x00")), // two arrays that merge
		join(entry("f", "\x1a\x05\x0a\x03abc")),              // part of a number
		join(entry("i", "\x3a\x03\x0a\x01\xff")),             // a number cut off
		join("\x1a\x0a\x12\x05", one, "\x0a\x01a"),           // the value before its key
		join("\x1a\x03\x0a\x01a"),                            // no value at all
		join("\x1a\x07\x12\x05", one),                        // no key
		join("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), // a length beyond all
		join(entry("t", "\x30\x02")),                         // a bool of 2
		join(entry("n", "\x20"+strings.Repeat("\xff", 10))),  // no varint
		join(entry("s", "\x12\x01\xff")),                     // no UTF-8
		join(entry("w", "\x42\x03\x0a\x01\xff")),             // no UTF-8
		join(entry("unknown", one)),                          // unknown
		join(entry("i", "\x3a\x0d\x0a\x0b\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")), // more than 64 bits
	}
}

func TestDecodeWireFallsBack(t *testing.T) {
	plans := wirePlans(t)
	for _, data := range unusual(t) {
		if taken := sameAsStandard(t, plans, data); taken != 0 {
			t.Errorf("%d plans took %x", taken, data)
		}
	}
}

// FuzzDecodeWire sends any bytes: either they are not taken, or they give the very tensors of the general decoder.
func FuzzDecodeWire(f *testing.F) {
	plans := wirePlans(f)
	for _, features := range plainRequests() {
		f.Add(wireOf(f, features))
	}
	for _, data := range unusual(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { sameAsStandard(t, plans, data) })
}

// thirty are a plan of 30 floats in one row and a request for it: the first by name, the second as one array.
func thirty(t testing.TB) (named, array *Plan, namedData, arrayData []byte) {
	var bound []*modelpackagev1.FeatureBinding
	request := values{}
	row := make([]float32, 30)
	for i := range row {
		name := strings.Repeat("x", 10) + string(rune('a'+i))
		bound = append(bound, bind(name, FLOAT, nil, "x", int64(i)))
		request[name] = float(float32(i))
		row[i] = float32(i)
	}
	inputs := specs(spec("x", tensor.Float32, -1, 30))
	named, array = mustBind(t, inputs, bound...), mustBind(t, inputs, bind("row", FLOAT, []int64{30}, "x", 0))
	return named, array, wireOf(t, request), wireOf(t, values{"row": floats(row...)})
}

// TestDecodeWireAllocates holds the decoder to its budget: three ids, the list of tensors, and the memory of one.
func TestDecodeWireAllocates(t *testing.T) {
	const budget = 5
	named, array, namedData, arrayData := thirty(t)
	for _, c := range []struct {
		plan *Plan
		data []byte
	}{{named, namedData}, {array, arrayData}} {
		got := testing.AllocsPerRun(100, func() {
			w, ok := ScanWire(c.data)
			if ok {
				_, ok = c.plan.DecodeWire(&w)
			}
			if !ok {
				t.Error("it was not taken")
			}
		})
		if got > budget {
			t.Errorf("got %v allocations, want at most %d", got, budget)
		}
	}
}

func BenchmarkDecodeWire(b *testing.B) {
	named, array, namedData, arrayData := thirty(b)
	for name, c := range map[string]struct {
		plan *Plan
		data []byte
	}{"named": {named, namedData}, "array": {array, arrayData}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, _ := ScanWire(c.data)
				if _, ok := c.plan.DecodeWire(&w); !ok {
					b.Fatal("it was not taken")
				}
			}
		})
		b.Run(name+"/standard", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request := &inferencev1.PredictRequest{}
				if err := proto.Unmarshal(c.data, request); err != nil {
					b.Fatal(err)
				}
				if _, f := c.plan.Decode(request.GetFeatures()); f != nil {
					b.Fatal(f)
				}
			}
		})
	}
}

// TestManyFeatures goes beyond what is noted of one request.
func TestManyFeatures(t *testing.T) {
	p := &Plan{features: slices.Repeat([]source{{}}, maxSeen+1)}
	if _, ok := p.DecodeWire(&Wire{}); ok {
		t.Error("taken")
	}
}
