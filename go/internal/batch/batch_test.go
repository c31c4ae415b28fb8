// SPDX-License-Identifier: Apache-2.0

package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// row is one row whose second axis has the values' number.
func row(values ...byte) []tensor.Tensor {
	return []tensor.Tensor{{DType: tensor.Uint8, Shape: []int64{1, int64(len(values))}, Data: values}}
}

func TestPlan(t *testing.T) {
	a, b := row(1), row(1, 2)
	for _, c := range []struct {
		rows    [][]tensor.Tensor
		maxRows int
		want    [][]int
	}{
		{nil, 4, nil},
		{[][]tensor.Tensor{a}, 4, [][]int{{0}}},
		{[][]tensor.Tensor{a, a, a, a, a}, 2, [][]int{{0, 1}, {2, 3}, {4}}},
		{[][]tensor.Tensor{a, b, a, b, a}, 4, [][]int{{0, 2, 4}, {1, 3}}},
		{[][]tensor.Tensor{a, b, a, a, b, b}, 2, [][]int{{0, 2}, {1, 4}, {3}, {5}}},
		{[][]tensor.Tensor{a, a}, 1, [][]int{{0}, {1}}},
	} {
		got := batch.Plan(c.rows, c.maxRows)
		if !slices.EqualFunc(got, c.want, slices.Equal[[]int]) {
			t.Errorf("%d rows, at most %d: got %v, want %v", len(c.rows), c.maxRows, got, c.want)
		}
	}
}

func newModel(session *modeltest.Session, batchable bool, maxRows int) *model.Model {
	session.In = []tensor.Spec{{Name: "x", DType: tensor.Uint8, Shape: []int64{-1, -1}}}
	session.Out = session.In
	return model.New("m", "1", inferencev1.ModelKind_MODEL_KIND_TENSOR, session, nil, batchable, maxRows)
}

// poison fails every run that holds a 13.
func poison(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	if slices.Contains(in[0].Data, 13) {
		return nil, errors.New("unlucky")
	}
	return in, nil
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name      string
		do        func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error)
		batchable bool
		maxRows   int
		runs      int64
		rows      []int // of each row's execution; 0: it failed
	}{
		{"together", nil, true, 0, 1, []int{4, 4, 4, 4}},
		{"at most three", nil, true, 3, 2, []int{3, 3, 3, 1}},
		{"not batchable", nil, false, 0, 4, []int{1, 1, 1, 1}},
		{"one is bad", func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			if slices.Contains(in[0].Data, 2) {
				return nil, errors.New("bad")
			}
			return in, nil
		}, true, 0, 5, []int{1, 1, 0, 1}},
		{"a row is lost", func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			last := in[0].Row(int(in[0].Shape[0]) - 1)
			return []tensor.Tensor{last}, nil
		}, true, 0, 5, []int{1, 1, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			session := &modeltest.Session{Do: c.do}
			m := newModel(session, c.batchable, c.maxRows)
			results := batch.Run(context.Background(), m, [][]tensor.Tensor{row(0), row(1), row(2), row(3)}, []int{0})
			for i, result := range results {
				if c.rows[i] == 0 {
					if result.Err == nil || result.Err.Reason != fault.ModelExecutionFailed {
						t.Errorf("row %d: got %+v", i, result)
					}
					continue
				}
				if result.Err != nil || result.Rows != c.rows[i] || !slices.Equal(result.Outputs[0].Data, []byte{byte(i)}) || result.Outputs[0].Shape[0] != 1 {
					t.Errorf("row %d: got %+v", i, result)
				}
			}
			if got := session.Runs.Load(); got != c.runs {
				t.Errorf("%d runs, want %d", got, c.runs)
			}
		})
	}
}

func TestAnEndedCallRunsNothingMore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	session := &modeltest.Session{Do: func(ctx context.Context, _ []tensor.Tensor) ([]tensor.Tensor, error) {
		cancel()
		return nil, ctx.Err()
	}}
	results := batch.Run(ctx, newModel(session, true, 0), [][]tensor.Tensor{row(1), row(2)}, []int{0})
	for i, result := range results {
		if result.Err == nil || result.Err.Reason != fault.Cancelled {
			t.Errorf("row %d: got %+v", i, result)
		}
	}
	if session.Runs.Load() != 1 {
		t.Errorf("%d runs", session.Runs.Load())
	}
}

// FuzzRun gives every row the answer that it gets alone, whatever its neighbours are.
func FuzzRun(f *testing.F) {
	f.Add([]byte{1, 2, 13, 4, 13, 13, 200, 7}, uint8(3))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, values []byte, maxRows uint8) {
		rows := make([][]tensor.Tensor, len(values))
		for i, v := range values {
			rows[i] = row(v)
			if v%5 == 0 {
				rows[i] = row(v, v)
			}
		}
		m := newModel(&modeltest.Session{Do: poison}, true, int(maxRows))
		for i, together := range batch.Run(context.Background(), m, rows, []int{0}) {
			alone := batch.One(context.Background(), m, rows[i], []int{0})
			if fmt.Sprint(together.Outputs) != fmt.Sprint(alone.Outputs) || (together.Err == nil) != (alone.Err == nil) {
				t.Fatalf("row %d: together %+v, alone %+v", i, together, alone)
			}
		}
	})
}
