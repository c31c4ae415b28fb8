// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"math"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/proto"
)

func TestDeviceClasses(t *testing.T) {
	const float, float16, integer = inferencev1.DataType_DATA_TYPE_FLOAT, inferencev1.DataType_DATA_TYPE_FLOAT16, inferencev1.DataType_DATA_TYPE_INT64
	class := func(dtype inferencev1.DataType, absolute, relative float64) *modelpackagev1.DeviceClass {
		return &modelpackagev1.DeviceClass{Dtype: dtype, AbsoluteTolerance: absolute, RelativeTolerance: relative}
	}
	on, err := deviceClasses(&modelpackagev1.Manifest{GpuClasses: []*modelpackagev1.DeviceClass{class(float16, 0.5, 0)}})
	if err != nil || on[tensor.Float16] != (tolerance{0.5, 0}) || on[tensor.Float32] != (tolerance{1e-5, 1e-3}) {
		t.Errorf("got %v, %v", on, err)
	}
	for _, c := range []struct {
		classes []*modelpackagev1.DeviceClass
		want    string
	}{
		{[]*modelpackagev1.DeviceClass{class(integer, 0, 0)}, "gpu_classes: expected each floating-point type at most once, got int64"},
		{[]*modelpackagev1.DeviceClass{class(float, 0, 0), class(float, 0, 0)}, "gpu_classes: expected each floating-point type at most once, got float"},
		{[]*modelpackagev1.DeviceClass{class(float, -1, 0)}, "gpu_classes: float: expected finite tolerances of at least 0, got -1 and 0"},
		{[]*modelpackagev1.DeviceClass{class(float, 0, math.NaN())}, "gpu_classes: float: expected finite tolerances of at least 0, got 0 and NaN"},
	} {
		if _, err := deviceClasses(&modelpackagev1.Manifest{GpuClasses: c.classes}); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// TestGoldenOnADevice widens the golden set's tolerance by the class of the answer's type, there only.
func TestGoldenOnADevice(t *testing.T) {
	session := &modeltest.Session{In: []tensor.Spec{{Name: "x", DType: tensor.Float32, Shape: []int64{-1}}}}
	session.Out = session.In
	m := model.New("m", "1", inferencev1.ModelKind_MODEL_KIND_TENSOR, session, nil, false, 0)
	one := func(bits ...byte) map[string]*inferencev1.Tensor {
		return map[string]*inferencev1.Tensor{"x": {Dtype: 1, Shape: []int64{1}, Data: bits}}
	}
	// 1 is answered where 1 + 2^-11 is expected.
	data, err := proto.Marshal(&modelpackagev1.GoldenSet{Cases: []*modelpackagev1.GoldenCase{{
		Request: &modelpackagev1.GoldenCase_Tensors{Tensors: &inferencev1.PredictionRequest{Inputs: one(0, 0, 0x80, 0x3f)}},
		Answer:  &modelpackagev1.GoldenCase_Outputs{Outputs: &inferencev1.PredictionResponse{Outputs: one(0, 0x10, 0x80, 0x3f)}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	on, err := deviceClasses(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := selfTest(context.Background(), m, data, on); err != nil {
		t.Error(err)
	}
	if _, err := selfTest(context.Background(), m, data, nil); err == nil {
		t.Error("the CPU is held to the set's own tolerance")
	}
	delete(on, tensor.Float32)
	if _, err := selfTest(context.Background(), m, data, on); err == nil {
		t.Error("a type without a class is held to the set's own tolerance")
	}
}
