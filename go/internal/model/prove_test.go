// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"context"
	"errors"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// TestProve tries models that say they are batchable on their golden rows.
func TestProve(t *testing.T) {
	bytes := func(rows int64, data ...byte) []tensor.Tensor {
		return []tensor.Tensor{{DType: tensor.Uint8, Shape: []int64{rows, 1}, Data: data}}
	}
	for name, c := range map[string]struct {
		do        func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error)
		batchable bool
		maxRows   int
		measured  []int32
		reason    string
	}{
		"true":          {nil, true, 0, []int32{1, 8, 32}, ""},
		"few rows":      {nil, true, 4, []int32{1, 4}, ""},
		"one row":       {nil, true, 1, []int32{1}, ""},
		"not batchable": {nil, false, 0, []int32{1}, ""},
		"rows depend on each other": {func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			out := tensor.Make(tensor.Uint8, in[0].Shape)
			for i := range out.Data {
				out.Data[i] = in[0].Data[i] - in[0].Data[0]
			}
			return []tensor.Tensor{out}, nil
		}, true, 0, []int32{1}, `8 rows of the golden cases together: output "y" differs from the row's alone`},
		"rows are lost": {func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			return []tensor.Tensor{in[0].Rows(0, 1)}, nil
		}, true, 0, []int32{1}, `8 rows of the golden cases together: output "y" does not have a row for each`},
		"it fails": {func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			if in[0].Shape[0] > 1 {
				return nil, errors.New("only one")
			}
			return in, nil
		}, true, 0, []int32{1}, `8 rows of the golden cases together: model "m" version 1 failed on this input: only one`},
	} {
		session := &modeltest.Session{
			In: []tensor.Spec{{Name: "x", DType: tensor.Uint8, Shape: []int64{-1, 1}}}, Do: c.do,
			Out: []tensor.Spec{{Name: "y", DType: tensor.Uint8, Shape: []int64{-1, 1}}},
		}
		m := model.New("m", "1", inferencev1.ModelKind_MODEL_KIND_TENSOR, session, nil, c.batchable, c.maxRows)
		// A golden case of several rows is as many rows; one of another shape is left out.
		other := []tensor.Tensor{{DType: tensor.Uint8, Shape: []int64{1, 2}, Data: []byte{1, 2}}}
		parts := []batch.Part{{Inputs: bytes(1, 1), Wanted: []int{0}}, {Inputs: other, Wanted: []int{0}}, {Inputs: bytes(2, 3, 5), Wanted: []int{0}}}
		m.Prove(context.Background(), parts)
		m.Apply(batch.Settings{})
		got := m.Execution()
		if got.GetUnbatchableReason() != c.reason || m.Batchable != (c.batchable && c.reason == "") || got.GetDevice() != "cpu" {
			t.Errorf("%s: got %v", name, got)
		}
		for i, measured := range got.GetMeasurements() {
			if i >= len(c.measured) || measured.GetRows() != c.measured[i] || measured.GetMicroseconds() < 0 {
				t.Errorf("%s: got %v", name, got.GetMeasurements())
			}
		}
		if m.Close(); !session.Closed.Load() {
			t.Errorf("%s: not closed", name)
		}
	}
}
