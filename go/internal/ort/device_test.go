// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
)

func TestAGPUThatIsNotThere(t *testing.T) {
	if os.Getenv("CONCORD_REQUIRE_GPU") != "" {
		t.Skip("this machine has a GPU")
	}
	_, err := open(t).OnGPU(0)
	if err == nil || !strings.HasPrefix(err.Error(), "expected a GPU at cuda:0, got none: ") {
		t.Errorf("got %v", err)
	}
}

// TestBoundRuns takes every graph by the path of a GPU, on the CPU: bound inputs and outputs give the same bytes.
func TestBoundRuns(t *testing.T) {
	bound := *open(t)
	bound.device = boundCPU
	for _, c := range []struct {
		graph  string
		inputs []tensor.Tensor
	}{
		{"tabular", []tensor.Tensor{
			{DType: tensor.Float32, Shape: []int64{2, 2}, Data: make([]byte, 16)},
			{DType: tensor.String, Shape: []int64{2, 1}, Strings: []string{"a\x00b", ""}},
		}},
		{"identity_float", []tensor.Tensor{{DType: tensor.Float32, Shape: []int64{0, 3}, Data: []byte{}}}},
		{"identity_float", []tensor.Tensor{{DType: tensor.Float32, Shape: []int64{}, Data: []byte{1, 2, 3, 4}}}},
	} {
		graph := modeltest.Graph(t, c.graph+".onnx")
		session, err := bound.Load(graph, nil)
		if err != nil {
			t.Fatal(err)
		}
		wanted := make([]int, len(session.Outputs()))
		for i := range wanted {
			wanted[i] = len(wanted) - 1 - i
		}
		got, err := session.Run(context.Background(), c.inputs, wanted, 0)
		if err != nil {
			t.Fatalf("%s: %v", c.graph, err)
		}
		want, err := load(t, c.graph, nil).Run(context.Background(), c.inputs, wanted, 0)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", c.graph, got, want)
		}
		// All its nodes run on the CPU, and are counted.
		if n := session.(interface{ CPUNodes() int }).CPUNodes(); n == 0 {
			t.Errorf("%s: no nodes are on the CPU", c.graph)
		}
		session.Close()
	}
}

// TestBoundRunsFailAndEnd holds the path of a GPU to what other runs are held to.
func TestBoundRunsFailAndEnd(t *testing.T) {
	bound := *open(t)
	bound.device = boundCPU
	for name, check := range map[string]func(*testing.T, model.Session){"lookup": failedRun, "count": runEnds} {
		s, err := bound.Load(modeltest.Graph(t, name+".onnx"), nil)
		if err != nil {
			t.Fatal(err)
		}
		check(t, s)
		s.Close()
	}
}
