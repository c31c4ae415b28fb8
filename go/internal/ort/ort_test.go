// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
	other "github.com/yalue/onnxruntime_go"
)

func open(t testing.TB) *Runtime {
	t.Helper()
	r, err := Open(modeltest.Library(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func load(t testing.TB, name string, files map[string][]byte) model.Session {
	t.Helper()
	s, err := open(t).Load(modeltest.Graph(t, name+".onnx"), files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestOpenAnotherLibrary(t *testing.T) {
	open(t)
	if _, err := Open("/another", 1); err == nil || !strings.Contains(err.Error(), "another library") {
		t.Errorf("got %v", err)
	}
}

func TestSpecs(t *testing.T) {
	s := load(t, "tabular", nil)
	want := []tensor.Spec{
		{Name: "numbers", DType: tensor.Float32, Shape: []int64{-1, 2}},
		{Name: "name", DType: tensor.String, Shape: []int64{-1, 1}},
	}
	for i, spec := range s.Inputs() {
		if spec.Name != want[i].Name || spec.DType != want[i].DType || !slices.Equal(spec.Shape, want[i].Shape) || spec.Unranked {
			t.Errorf("input %d: got %+v, want %+v", i, spec, want[i])
		}
	}
	if got := s.Outputs(); len(got) != 3 || got[2].Name != "rounded" || got[2].DType != tensor.Int64 {
		t.Errorf("outputs: %+v", got)
	}
	if spec := load(t, "identity_float", nil).Inputs()[0]; !spec.Unranked {
		t.Errorf("a graph without shape: %+v", spec)
	}
	if spec := load(t, "count", nil).Inputs()[0]; spec.Unranked || len(spec.Shape) != 0 {
		t.Errorf("a scalar: %+v", spec)
	}
}

// TestEveryType sends each type through unchanged, at every rank that is special.
func TestEveryType(t *testing.T) {
	for _, dtype := range []tensor.DType{
		tensor.Float32, tensor.Uint8, tensor.Int8, tensor.Uint16, tensor.Int16, tensor.Int32, tensor.Int64, tensor.String,
		tensor.Bool, tensor.Float16, tensor.Float64, tensor.Uint32, tensor.Uint64, tensor.BFloat16,
	} {
		t.Run(dtype.String(), func(t *testing.T) {
			s := load(t, "identity_"+dtype.String(), nil)
			for _, shape := range [][]int64{{}, {1}, {0}, {3, 0, 2}, {2, 3}, {1, 1, 1, 1, 1, 1, 1, 2}} {
				in := tensor.Make(dtype, shape)
				for i := range in.Data {
					in.Data[i] = byte(255 - i*7)
					if dtype == tensor.Bool {
						in.Data[i] = byte(i % 2)
					}
				}
				for i := range in.Strings {
					in.Strings[i] = []string{"", "a\x00b", "\xff\xfe", "Größe", strings.Repeat("long", 1000)}[i%5]
				}
				out, err := s.Run(context.Background(), []tensor.Tensor{in}, []int{0}, 0)
				if err != nil {
					t.Fatalf("shape %v: %v", shape, err)
				}
				if got := out[0]; got.DType != dtype || !slices.Equal(got.Shape, shape) || !bytes.Equal(got.Data, in.Data) || !slices.Equal(got.Strings, in.Strings) {
					t.Errorf("shape %v: sent %v, got %v", shape, in, got)
				}
			}
		})
	}
}

func TestSpecialFloats(t *testing.T) {
	s := load(t, "identity_float", nil)
	for _, bits := range []uint32{0x80000000, 0x7fc00001, 0xffc12345, 0x7f800001, 1, 0x807fffff, 0x7f800000, 0xff800000} {
		data := binary.LittleEndian.AppendUint32(nil, bits)
		out, err := s.Run(context.Background(), []tensor.Tensor{{DType: tensor.Float32, Shape: []int64{1}, Data: data}}, []int{0}, 0)
		if err != nil || !bytes.Equal(out[0].Data, data) {
			t.Errorf("%#x: got %x, %v", bits, out, err)
		}
	}
}

func TestOutputShapeFollowsTheData(t *testing.T) {
	s := load(t, "nonzero", nil)
	for _, c := range []struct {
		in   []float32
		want []int64
	}{{[]float32{0, 1, 0, 2}, []int64{1, 3}}, {[]float32{0, 0}, nil}, {nil, nil}} {
		out, err := s.Run(context.Background(), []tensor.Tensor{floats(c.in)}, []int{0}, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for i := range out[0].Len() {
			got = append(got, int64(binary.LittleEndian.Uint64(out[0].Data[i*8:])))
		}
		if !slices.Equal(got, c.want) || !slices.Equal(out[0].Shape, []int64{1, int64(len(c.want))}) {
			t.Errorf("%v: got %v of shape %v", c.in, got, out[0].Shape)
		}
	}
}

func TestWantedOutputs(t *testing.T) {
	s := load(t, "tabular", nil)
	out, err := s.Run(context.Background(), tabularRow(1, 2, "x"), []int{2, 0}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 2 || out[0].DType != tensor.Int64 || out[0].Data[0] != 3 || out[1].DType != tensor.Float32 {
		t.Errorf("got %v", out)
	}
}

func TestFailedRun(t *testing.T) { failedRun(t, load(t, "lookup", nil)) }

func failedRun(t *testing.T, s model.Session) {
	_, err := s.Run(context.Background(), []tensor.Tensor{index(7)}, []int{0}, 0)
	if err == nil || !strings.Contains(err.Error(), "idx=7") {
		t.Errorf("index out of range: got %v", err)
	}
	if _, err := s.Run(context.Background(), []tensor.Tensor{floats([]float32{1})}, []int{0}, 0); err == nil {
		t.Error("a wrong type ran")
	}
	short := tensor.Tensor{DType: tensor.Int64, Shape: []int64{1000}, Data: make([]byte, 8)}
	if _, err := s.Run(context.Background(), []tensor.Tensor{short}, []int{0}, 0); err == nil {
		t.Error("a tensor shorter than its shape ran")
	}
	out, err := s.Run(context.Background(), []tensor.Tensor{index(1)}, []int{0}, 0)
	if err != nil || math.Float32frombits(binary.LittleEndian.Uint32(out[0].Data)) != 20 {
		t.Errorf("after failures: %v, %v", out, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) { runEnds(t, load(t, "count", nil)) }

func runEnds(t *testing.T, s model.Session) {
	for _, c := range []struct {
		name string
		end  func() (context.Context, context.CancelFunc)
		want error
	}{
		{"deadline", func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 20*time.Millisecond)
		}, context.DeadlineExceeded},
		{"cancelled before", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx, cancel
		}, context.Canceled},
	} {
		ctx, cancel := c.end()
		// 2^40 iterations would take days.
		_, err := s.Run(ctx, []tensor.Tensor{scalar(1 << 40)}, []int{0}, 0)
		cancel()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	out, err := s.Run(context.Background(), []tensor.Tensor{scalar(5)}, []int{0}, 0)
	if err != nil || out[0].Data[0] != 5 {
		t.Errorf("after: %v, %v", out, err)
	}
}

func TestManyRunsAtOnce(t *testing.T) {
	s := load(t, "tabular", nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 50 {
				out, err := s.Run(ctx, tabularRow(float32(g), float32(i), "x"), []int{2}, 0)
				if err != nil || int(out[0].Data[0]) != g+i {
					t.Errorf("%d + %d: %v, %v", g, i, out, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestExternalData(t *testing.T) {
	weights := modeltest.Graph(t, "external.onnx.data")
	s := load(t, "external", map[string][]byte{"model.onnx.data": weights, "README.md": nil})
	out, err := s.Run(context.Background(), []tensor.Tensor{{DType: tensor.Float32, Shape: []int64{1, 2}, Data: floats([]float32{2, 2}).Data}}, []int{0}, 0)
	if err != nil || !bytes.Equal(out[0].Data, floats([]float32{6, 8}).Data) {
		t.Errorf("got %v, %v", out, err)
	}
	if _, err := open(t).Load(modeltest.Graph(t, "external.onnx"), map[string][]byte{"model.onnx.data": weights[:4]}); err == nil {
		t.Error("a short file was taken")
	}
	// The same file lies in the working directory, where nothing must be read.
	directory := t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "model.onnx.data"), weights, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(directory)
	if _, err := open(t).Load(modeltest.Graph(t, "external.onnx"), nil); err == nil {
		t.Error("a file that was not given was read")
	}
}

func TestRefusedGraphs(t *testing.T) {
	r := open(t)
	for name, c := range map[string]struct {
		graph []byte
		want  string
	}{
		"empty":    {nil, "empty"},
		"text":     {[]byte("<html>"), ""},
		"half":     {modeltest.Graph(t, "tabular.onnx")[:100], ""},
		"sequence": {modeltest.Graph(t, "sequence.onnx"), `output "s" is a sequence; only tensors are served`},
		"float8":   {modeltest.Graph(t, "float8.onnx"), `output "y" is of type float8e4m3fn, which is not served`},
	} {
		s, err := r.Load(c.graph, nil)
		if err == nil {
			s.Close()
			t.Errorf("%s: loaded", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestAsAnotherBinding compares with a binding that shares no code with this one.
func TestAsAnotherBinding(t *testing.T) {
	s := load(t, "tabular", nil)
	other.SetSharedLibraryPath(modeltest.Library(t))
	if err := other.InitializeEnvironment(); err != nil {
		t.Fatal(err)
	}
	theirs, err := other.NewDynamicAdvancedSessionWithONNXData(modeltest.Graph(t, "tabular.onnx"), []string{"numbers", "name"}, []string{"doubled"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Destroy()
	numbers, err := other.NewTensor(other.NewShape(1, 2), []float32{0.1, -3e38})
	if err != nil {
		t.Fatal(err)
	}
	defer numbers.Destroy()
	name, err := other.NewStringTensor(other.NewShape(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer name.Destroy()
	want := make([]other.Value, 1)
	if err := theirs.Run([]other.Value{numbers, name}, want); err != nil {
		t.Fatal(err)
	}
	defer want[0].Destroy()
	got, err := s.Run(context.Background(), tabularRow(0.1, -3e38, ""), []int{0}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[0].Data, floats(want[0].(*other.Tensor[float32]).GetData()).Data) {
		t.Errorf("got %x", got[0].Data)
	}
}

func BenchmarkRun(b *testing.B) {
	s := load(b, "tabular", nil)
	row := tabularRow(1, 2, "x")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Run(ctx, row, []int{0}, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func floats(values []float32) tensor.Tensor {
	t := tensor.Tensor{DType: tensor.Float32, Shape: []int64{int64(len(values))}}
	for _, x := range values {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(x))
	}
	return t
}

func tabularRow(a, b float32, name string) []tensor.Tensor {
	numbers := floats([]float32{a, b})
	numbers.Shape = []int64{1, 2}
	return []tensor.Tensor{numbers, {DType: tensor.String, Shape: []int64{1, 1}, Strings: []string{name}}}
}

func index(n int64) tensor.Tensor {
	return tensor.Tensor{DType: tensor.Int64, Shape: []int64{1}, Data: binary.LittleEndian.AppendUint64(nil, uint64(n))}
}

func scalar(n int64) tensor.Tensor {
	t := index(n)
	t.Shape = nil
	return t
}
