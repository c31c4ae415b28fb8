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
		quoted := fault.Quote(specs[i].Name)
		what, field := "input "+quoted, "inputs["+quoted+"]"
		message, ok := messages[specs[i].Name]
		if !ok {
			text := fmt.Sprintf("%s: expected %s tensor, got nothing", what, withArticle(specs[i].DType))
			found = append(found, fault.Violation{Reason: fault.TensorMissing, Field: field, Message: text})
			continue
		}
		t, bad := tensor.FromWire(what, field, message, &specs[i])
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
		quoted := fault.Quote(name)
		found = append(found, fault.Violation{
			Reason: fault.TensorUnknown, Field: "inputs[" + quoted + "]", Message: "input " + quoted + ": the model has no such input",
		})
	}
	return nil, fault.FromViolations(found, total)
}

func withArticle(dtype tensor.DType) string {
	switch dtype {
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		return "an " + dtype.String()
	default:
		return "a " + dtype.String()
	}
}
