// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"context"
	"errors"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/feature"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// ridden is a model whose run waits for its context where the row holds a 1.
func ridden(t *testing.T, shape ...int64) *model.Model {
	t.Helper()
	specs := []tensor.Spec{{Name: "x", DType: tensor.Uint8, Shape: shape}}
	s := &modeltest.Session{In: specs, Out: specs, Do: func(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
		if inputs[0].Data[0] == 1 {
			<-ctx.Done()
			return nil, errors.New("terminated")
		}
		return inputs, nil
	}}
	plan, err := feature.FromGraph(specs, specs)
	if err != nil {
		t.Fatal(err)
	}
	m := model.New("m", "1", inferencev1.ModelKind_MODEL_KIND_TENSOR, s, plan, false, 0)
	t.Cleanup(m.Close)
	return m
}

func TestRide(t *testing.T) {
	m := ridden(t, 1)
	first, second := m.Ride(), m.Ride()
	if first == nil || second == nil || first == second {
		t.Fatalf("got %v and %v", first, second)
	}
	first.Row()[0].Data[0] = 2
	outputs, err := first.Run(context.Background(), time.Time{}, 0)
	if err != nil || outputs[0].Data[0] != 2 {
		t.Errorf("got %v, %v", outputs, err)
	}
	first.Done()
	if again := m.Ride(); again != first {
		t.Error("a lane that was given back is not taken again")
	} else {
		again.Done()
	}
	second.Done()
	if open := ridden(t, -1, -1).Ride(); open != nil {
		t.Error("a row of open length has a lane")
	}
}

// TestRideEnds ends runs that nobody wants any more; their lanes are never used again.
func TestRideEnds(t *testing.T) {
	m := ridden(t, 1)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx      context.Context
		deadline time.Time
		want     error
	}{
		"cancelled": {cancelled, time.Time{}, context.Canceled},
		"expired":   {context.Background(), time.Now().Add(30 * time.Millisecond), context.DeadlineExceeded},
	} {
		r := m.Ride()
		r.Row()[0].Data[0] = 1
		if _, err := r.Run(c.ctx, c.deadline, 0); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		r.Done()
		if next := m.Ride(); next == r {
			t.Errorf("%s: a terminated lane is used again", name)
		} else {
			next.Done()
		}
	}
}
