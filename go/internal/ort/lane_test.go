// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

func laneOf(t *testing.T, s model.Session, shape []int64) model.Lane {
	t.Helper()
	l, err := s.(model.LaneMaker).Lane([][]int64{shape}, []int{0})
	if err != nil || l == nil {
		t.Fatalf("got %v, %v", l, err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestLane runs one lane again and again: its answers are those of Run.
func TestLane(t *testing.T) {
	for _, dtype := range []tensor.DType{tensor.Float32, tensor.Float64, tensor.Float16, tensor.Int8, tensor.Int64, tensor.Bool} {
		s := load(t, "identity_"+dtype.String(), nil)
		for _, shape := range [][]int64{{}, {1}, {1, 3}} {
			l := laneOf(t, s, shape)
			for round := range 3 {
				row := l.Row()[0]
				if row.DType != dtype || !slices.Equal(row.Shape, shape) {
					t.Fatalf("%s %v: got %+v", dtype, shape, row)
				}
				for i := range row.Data {
					row.Data[i] = byte(round+i) % 2
				}
				want, err := s.Run(context.Background(), []tensor.Tensor{row.Clone()}, []int{0}, 0)
				if err != nil {
					t.Fatal(err)
				}
				got, err := l.Run(int64(len(row.Data)))
				if err != nil || got[0].DType != dtype || !slices.Equal(got[0].Shape, shape) || !bytes.Equal(got[0].Data, want[0].Data) {
					t.Errorf("%s %v: got %+v, %v", dtype, shape, got, err)
				}
			}
			var large *model.TooLargeError
			size := int64(len(l.Row()[0].Data))
			if _, err := l.Run(size - 1); size > 1 && (!errors.As(err, &large) || large.Bytes != size) {
				t.Errorf("%s %v: got %v", dtype, shape, err)
			}
			if _, err := l.Run(0); err != nil {
				t.Errorf("%s %v: after a failure: %v", dtype, shape, err)
			}
		}
	}
	if l, err := load(t, "identity_string", nil).(model.LaneMaker).Lane([][]int64{{1}}, []int{0}); l != nil || err != nil {
		t.Errorf("of strings: got %v, %v", l, err)
	}
}

// TestLaneFails goes on after a run that failed.
func TestLaneFails(t *testing.T) {
	l := laneOf(t, load(t, "lookup", nil), []int64{1})
	l.Row()[0].Data[0] = 7
	if _, err := l.Run(0); err == nil {
		t.Error("an index out of range ran")
	}
	l.Row()[0].Data[0] = 1
	if _, err := l.Run(0); err != nil {
		t.Errorf("after: %v", err)
	}
}

// TestLaneEnds terminates a run of days; the lane is spoiled then.
func TestLaneEnds(t *testing.T) {
	s := load(t, "count", nil)
	l := laneOf(t, s, []int64{})
	copy(l.Row()[0].Data, scalar(1<<40).Data)
	done := make(chan error)
	go func() {
		_, err := l.Run(0)
		done <- err
	}()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for range ticker.C {
		l.Terminate() // also before the run has begun
		select {
		case err := <-done:
			if err == nil {
				t.Error("it ran to its end")
			}
			return
		default:
		}
	}
}
