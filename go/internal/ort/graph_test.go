// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/concord-inference/concord/go/gen/onnx"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/proto"
)

// halved is tiny-chat with keys, values and logits of float16.
func halved(t testing.TB) []byte {
	t.Helper()
	data, _ := tinyGraph(t)
	m := &onnx.ModelProto{}
	if err := proto.Unmarshal(data, m); err != nil {
		t.Fatal(err)
	}
	cast := func(from, to string, dtype onnx.TensorProto_DataType) *onnx.NodeProto {
		return &onnx.NodeProto{OpType: proto.String("Cast"), Input: []string{from}, Output: []string{to}, Attribute: []*onnx.AttributeProto{
			{Name: proto.String("to"), Type: onnx.AttributeProto_INT.Enum(), I: proto.Int64(int64(dtype))},
		}}
	}
	const half, single = onnx.TensorProto_FLOAT16, onnx.TensorProto_FLOAT
	g := m.GetGraph()
	var nodes []*onnx.NodeProto
	for _, n := range g.GetNode() {
		if n.GetOpType() == "GroupQueryAttention" {
			for _, i := range []int{0, 7, 8} {
				name := n.GetName() + n.Output[0] + n.Input[i] + "/half"
				nodes = append(nodes, cast(n.Input[i], name, half))
				n.Input[i] = name
			}
			out := n.Output[0]
			n.Output[0] = out + "/half"
			nodes = append(nodes, n, cast(out+"/half", out, single))
			continue
		}
		if i := slices.Index(n.GetOutput(), "logits"); i >= 0 {
			n.Output[i] = "logits/single"
			n = &onnx.NodeProto{OpType: n.OpType, Domain: n.Domain, Input: n.Input, Output: n.Output, Attribute: n.Attribute}
			nodes = append(nodes, n, cast("logits/single", "logits", half))
			continue
		}
		nodes = append(nodes, n)
	}
	g.Node = nodes
	for _, v := range slices.Concat(g.GetInput(), g.GetOutput()) {
		if e := v.GetType().GetTensorType(); e.GetElemType() == int32(single) {
			e.ElemType = proto.Int32(int32(half))
		}
	}
	out, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestHalfPrecision(t *testing.T) {
	d, err := open(t).OpenDecoder(halved(t), nil, tinySettings(t), generate.Sizes{Slots: 3, Bytes: 1 << 30, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.CacheBytes() != 3*2*2*2*512*16*2 {
		t.Errorf("%d bytes", d.CacheBytes())
	}
	full := tinyDecoder(t, 3)
	tokens := prompts(t)[0]
	held := len(tokens)
	for slot := range 3 {
		run(t, d, generate.Row{Slot: slot, Tokens: tokens})
		run(t, full, generate.Row{Slot: slot, Tokens: tokens})
	}
	d.Move(2, 0, held)
	run(t, d, generate.Row{Slot: 2, Tokens: tokens})
	for step := range 20 {
		next := int32(40 + step)
		rows := []generate.Row{{Slot: 0, Position: held + step, Tokens: []int32{next}}, {Slot: 2, Position: held + step, Tokens: []int32{next + 1}}}
		got, want := run(t, d, rows...), run(t, full, rows...)
		for i := range rows {
			for token := range want[i] {
				if math.Abs(float64(got[i][token]-want[i][token])) > 0.1 {
					t.Fatalf("step %d, row %d, token %d: %g, in float32 %g", step, i, token, got[i][token], want[i][token])
				}
			}
		}
	}
}

// TestPositions holds a graph that takes positions and gives logits for each token against one run of its session over the whole text.
func TestPositions(t *testing.T) {
	folder := filepath.Join("..", "..", "..", "conformance", "fixtures", "token-lm", "1")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	settings, err := generate.ParseSettings(read(generate.SettingsName))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := open(t).OpenDecoder(read("model.onnx"), nil, settings, generate.Sizes{Slots: 3, Bytes: 1 << 30, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	d := opened.(*decoder)
	if d.shape.pruned || d.shape.positionIDs == nil {
		t.Fatalf("%+v", d.shape)
	}
	tokens := make([]int32, 40)
	for i := range tokens {
		// Small letters, and between them P, which asks for the letter of its own position.
		tokens[i] = int32(3 + 'a' + i%26)
		if i%3 == 0 {
			tokens[i] = 3 + 'P'
		}
	}
	want := whole(t, d, tokens)
	check := func(what string, position int, got []float32) {
		t.Helper()
		if !slices.Equal(got, want[position]) {
			t.Errorf("%s: position %d: token %d, whole %d", what, position, largest(got), largest(want[position]))
		}
	}
	check("whole", 39, run(t, d, generate.Row{Slot: 1, Tokens: tokens})[0])
	d.chunk = 7 // as where the logits of a whole prompt would be too many
	check("in parts", 39, run(t, d, generate.Row{Slot: 2, Tokens: tokens})[0])
	run(t, d, generate.Row{Slot: 0, Tokens: tokens[:9]})
	run(t, d, generate.Row{Slot: 1, Tokens: tokens[:20]})
	run(t, d, generate.Row{Slot: 2, Tokens: tokens[:30]})
	for step := range 10 {
		got := run(t, d, generate.Row{Slot: 0, Position: 9 + step, Tokens: tokens[9+step : 10+step]},
			generate.Row{Slot: 2, Position: 30 + step, Tokens: tokens[30+step : 31+step]})
		check("joined", 9+step, got[0])
		check("joined", 30+step, got[1])
	}
}

func largest(logits []float32) int {
	return slices.Index(logits, slices.Max(logits))
}

// whole runs the session itself over all tokens and gives the logits after each.
func whole(t testing.TB, d *decoder, tokens []int32) [][]float32 {
	t.Helper()
	n := int64(len(tokens))
	numbers := func(of func(i int) int64) tensor.Tensor {
		made := tensor.Make(tensor.Int64, []int64{1, n})
		for i := range tokens {
			binary.LittleEndian.PutUint64(made.Data[i*8:], uint64(of(i)))
		}
		return made
	}
	var inputs []tensor.Tensor
	for _, spec := range d.session.Inputs() {
		switch spec.Name {
		case d.settings.InputIDs:
			inputs = append(inputs, numbers(func(i int) int64 { return int64(tokens[i]) }))
		case d.settings.PositionIDs:
			inputs = append(inputs, numbers(func(i int) int64 { return int64(i) }))
		case d.settings.AttentionMask:
			inputs = append(inputs, numbers(func(int) int64 { return 1 }))
		default:
			inputs = append(inputs, tensor.Make(d.shape.cache, []int64{1, int64(d.settings.Heads), n, int64(d.settings.HeadSize)}))
		}
	}
	index := slices.IndexFunc(d.session.Outputs(), func(s tensor.Spec) bool { return s.Name == d.settings.Logits })
	out, err := d.session.Run(context.Background(), inputs, []int{index}, 0)
	if err != nil {
		t.Fatal(err)
	}
	rows := make([][]float32, n)
	for i := range rows {
		for token := range d.settings.Vocabulary {
			bits := binary.LittleEndian.Uint32(out[0].Data[(i*d.settings.Vocabulary+token)*4:])
			rows[i] = append(rows[i], math.Float32frombits(bits))
		}
	}
	return rows
}
