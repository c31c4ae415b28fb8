// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"fmt"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// FromGraph makes the plan of a model whose manifest binds nothing: each input of the graph is a required feature of its name, each
// output an output of its name and, where its row is one float, a prediction as well. The error says why such features cannot be
// built; the model then takes tensors only.
func FromGraph(inputs, outputs []tensor.Spec) (*Plan, error) {
	p := &Plan{byName: make(map[string]int, len(inputs)), inputs: newInputs(inputs)}
	for i := range inputs {
		in := &p.inputs[i]
		row := rowShape(&inputs[i])
		if open := countOpen(row); open > 1 {
			return nil, fmt.Errorf("input %s has %d open axes", fault.Quote(inputs[i].Name), open)
		}
		f := source{
			public: &inferencev1.Feature{Name: inputs[i].Name, Type: typeOf(inputs[i].DType), Shape: row, Required: true},
			input:  i,
		}
		if err := f.measure(); err != nil {
			return nil, fmt.Errorf("input %s: %w", fault.Quote(inputs[i].Name), err)
		}
		in.open = openAxis(in.shape)
		if err := p.limit(&f); err != nil {
			return nil, fmt.Errorf("input %s: %w", fault.Quote(inputs[i].Name), err)
		}
		p.byName[f.name] = i
		p.features = append(p.features, f)
	}
	for i := range outputs {
		spec := &outputs[i]
		at := p.want(i, spec)
		row := spec.Shape
		if p.batchAxis[at] && len(row) > 0 {
			row = row[1:]
		}
		p.outputs = append(p.outputs, output{
			public: &inferencev1.Output{Name: spec.Name, Type: typeOf(spec.DType), Shape: row}, output: at,
		})
		if n, ok := tensor.Elements(row); ok && n == 1 && !spec.Unranked && typeOf(spec.DType) == inferencev1.FeatureType_FEATURE_TYPE_FLOAT {
			p.predictions = append(p.predictions, prediction{public: &inferencev1.Prediction{Name: spec.Name}, output: at})
		}
	}
	return p, nil
}

// measure fills what a request is held against from the public feature.
func (f *source) measure() error {
	f.name, f.typ = f.public.GetName(), f.public.GetType()
	shape := f.public.GetShape()
	f.scalar = len(shape) == 0
	f.count, f.unit = 1, 1
	open := false
	for _, length := range shape {
		switch {
		case length == -1 && open:
			return fmt.Errorf("expected at most one open axis, got shape %s", tensor.ShapeText(shape))
		case length == -1:
			open = true
		case length < 0:
			return fmt.Errorf("expected lengths of at least 0 or -1, got shape %s", tensor.ShapeText(shape))
		}
	}
	closed := make([]int64, 0, len(shape))
	for _, length := range shape {
		if length != -1 {
			closed = append(closed, length)
		}
	}
	n, ok := tensor.Elements(closed)
	if !ok || n > maxElements {
		return fmt.Errorf("expected at most %d elements, got shape %s", maxElements, tensor.ShapeText(shape))
	}
	f.count, f.unit = n, n
	if open {
		f.count = -1
	}
	return nil
}

// maxElements bounds a feature's size: more values than this fit in no message.
const maxElements = 1 << 31

func countOpen(shape []int64) int {
	open := 0
	for _, length := range shape {
		if length == -1 {
			open++
		}
	}
	return open
}

// openAxis is the only axis of length -1, or -1.
func openAxis(shape []int64) int {
	for axis, length := range shape {
		if length == -1 {
			return axis
		}
	}
	return -1
}
