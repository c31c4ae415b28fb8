// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"fmt"
	"math"

	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

const cpu = "cpu"

// classes are how near answers on another device must be, by dtype; a type that is not among them must be equal.
type classes map[tensor.DType]tolerance

// deviceClasses are the classes of a GPU: what a manifest says, and for the rest what modelpackage.v1.DeviceClass says.
func deviceClasses(manifest *modelpackagev1.Manifest) (classes, error) {
	all := classes{
		tensor.Float64: {1e-9, 1e-9}, tensor.Float32: {1e-5, 1e-3}, tensor.Float16: {1e-3, 1e-2}, tensor.BFloat16: {1e-2, 5e-2},
	}
	said := map[tensor.DType]bool{}
	for _, class := range manifest.GetGpuClasses() {
		dtype := tensor.DType(class.GetDtype())
		if !dtype.IsFloat() || said[dtype] {
			return nil, fmt.Errorf("gpu_classes: expected each floating-point type at most once, got %s", dtype)
		}
		said[dtype] = true
		near := tolerance{class.GetAbsoluteTolerance(), class.GetRelativeTolerance()}
		if !near.valid() {
			return nil, fmt.Errorf("gpu_classes: %s: expected finite tolerances of at least 0, got %g and %g", dtype, near.absolute, near.relative)
		}
		all[dtype] = near
	}
	return all, nil
}

// near tells whether a row's answer is within the class of its own answer elsewhere.
func (c classes) near(answer, expected *tensor.Tensor) bool {
	return exam{on: c}.holdsTensor(answer, expected) == nil
}

// place tells a model where it runs. On a GPU its rows together need only be near their answers alone.
func (r *Repository) place(m *model.Model, session model.Session, on classes) {
	m.Device = r.device()
	if m.Device == cpu {
		return
	}
	m.Near = on.near
	if split, ok := session.(interface{ CPUNodes() int }); ok {
		m.CPUNodes = split.CPUNodes()
	}
	r.options.Log.Info("placed", "model_id", m.ID, "model_version", m.Version, "device", m.Device, "cpu_nodes", m.CPUNodes)
}

func (r *Repository) device() string {
	if r.options.Device == "" {
		return cpu
	}
	return r.options.Device
}

func (near tolerance) valid() bool {
	return near.absolute >= 0 && near.relative >= 0 && !math.IsInf(near.absolute+near.relative, 0)
}
