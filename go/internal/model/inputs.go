// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"sort"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// DecodeTensors makes the graph's inputs, in its order, from a request's tensors. All that is wrong with them is reported together: the
// graph's inputs in its order, then unknown names in byte order.
func DecodeTensors(m *Model, messages map[string]*inferencev1.Tensor) ([]tensor.Tensor, *fault.Fault) {
	specs := m.Inputs()
	inputs := make([]tensor.Tensor, len(specs))
	known := make(map[string]bool, len(specs))
	var found []fault.Violation
	for i := range specs {
		known[specs[i].Name] = true
		field := "inputs[" + fault.Quote(specs[i].Name) + "]"
		message, ok := messages[specs[i].Name]
		if !ok {
			found = append(found, violation(fault.TensorMissing, field, "expected %s, got nothing", specs[i].Describe()))
			continue
		}
		t, bad := tensor.FromWire(field, message)
		if bad == nil {
			bad = fits(field, &t, &specs[i])
		}
		if bad != nil {
			found = append(found, *bad)
		}
		inputs[i] = t
	}
	var unknown []string
	for name := range messages {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	total := len(found) + len(unknown)
	if total == 0 {
		return inputs, nil
	}
	sort.Strings(unknown)
	for _, name := range unknown[:min(len(unknown), fault.MaxViolations)] {
		found = append(found, violation(fault.TensorUnknown, "inputs["+fault.Quote(name)+"]", "the model has no such input"))
	}
	return nil, fault.FromViolations(found, total)
}

// fits holds a tensor against an input of the graph.
func fits(field string, t *tensor.Tensor, spec *tensor.Spec) *fault.Violation {
	if t.DType != spec.DType {
		v := violation(fault.TensorDTypeMismatch, field+".dtype", "expected %s, got %s", spec.DType, t.DType)
		return &v
	}
	same := spec.Unranked || len(t.Shape) == len(spec.Shape)
	for axis := 0; same && !spec.Unranked && axis < len(spec.Shape); axis++ {
		same = spec.Shape[axis] == -1 || spec.Shape[axis] == t.Shape[axis]
	}
	if same {
		return nil
	}
	v := violation(fault.TensorShapeMismatch, field+".shape", "expected %s, got %s", tensor.ShapeText(spec.Shape), tensor.ShapeText(t.Shape))
	return &v
}

func violation(reason fault.Reason, field, format string, args ...any) fault.Violation {
	return fault.Violation{Reason: reason, Field: field, Message: field + ": " + fmt.Sprintf(format, args...)}
}
