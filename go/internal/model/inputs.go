// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"sort"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// DecodeTensors makes the graph's inputs, in its order, from a request's tensors, whose memory they share, and the indices of the outputs that the
// request names, in its order; all where it names none. All that is wrong is reported together: the graph's inputs in its order, then
// unknown names in byte order, then the names of outputs.
func DecodeTensors(m *Model, messages map[string]*inferencev1.Tensor, names []string) ([]tensor.Tensor, []int, *fault.Fault) {
	specs := m.Inputs()
	inputs := make([]tensor.Tensor, len(specs))
	known := 0
	var found findings
	for i := range specs {
		message, ok := messages[specs[i].Name]
		if !ok {
			found.input(specs[i].Name, fault.Violation{
				Reason: fault.TensorMissing, Message: "expected " + withArticle(specs[i].DType) + " tensor, got nothing",
			})
			continue
		}
		known++
		var bad *fault.Violation
		if inputs[i], bad = tensor.FromWire(message, &specs[i]); bad != nil {
			found.input(specs[i].Name, *bad)
		}
	}
	if known < len(messages) {
		for _, name := range unknown(specs, messages) {
			found.input(name, fault.Violation{Reason: fault.TensorUnknown, Message: "the model has no such input"})
		}
	}
	wanted := found.outputs(m, names)
	if found.total > 0 {
		return nil, nil, fault.FromViolations(found.first, found.total)
	}
	return inputs, wanted, nil
}

// findings are what is wrong with a request: how many, and the first of them.
type findings struct {
	first []fault.Violation
	total int
}

func (f *findings) add(v fault.Violation) {
	f.total++
	if len(f.first) < fault.MaxViolations {
		f.first = append(f.first, v)
	}
}

// input adds a violation whose field and message lack the input's name.
func (f *findings) input(name string, v fault.Violation) {
	quoted := fault.Quote(name)
	v.Field, v.Message = "inputs["+quoted+"]"+v.Field, "input "+quoted+": "+v.Message
	f.add(v)
}

// outputs are the indices of the outputs named, of all where none is.
func (f *findings) outputs(m *Model, names []string) []int {
	if len(names) == 0 {
		return m.allOutputs
	}
	wanted := make([]int, 0, min(len(names), len(m.allOutputs)))
	seen := make([]bool, len(m.allOutputs))
	for i, name := range names {
		index, ok := m.outputIndex[name]
		if ok && !seen[index] {
			seen[index] = true
			wanted = append(wanted, index)
			continue
		}
		field := fmt.Sprintf("output_names[%d]", i)
		text := field + ": the model has no output " + fault.Quote(name)
		if ok {
			text = field + ": " + fault.Quote(name) + " is there already"
		}
		f.add(fault.Violation{Reason: fault.OutputUnknown, Field: field, Message: text})
	}
	return wanted
}

// unknown are the names of tensors that are no input, in byte order.
func unknown(specs []tensor.Spec, messages map[string]*inferencev1.Tensor) []string {
	known := make(map[string]bool, len(specs))
	for i := range specs {
		known[specs[i].Name] = true
	}
	var names []string
	for name := range messages {
		if !known[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func withArticle(dtype tensor.DType) string {
	switch dtype {
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		return "an " + dtype.String()
	default:
		return "a " + dtype.String()
	}
}
