// SPDX-License-Identifier: Apache-2.0

// Package feature turns a request's features into a model's tensors and its output tensors into predictions and outputs. A Plan,
// made once when a model loads, says where everything goes; requests only follow it.
package feature

import (
	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Plan is how one model's features become its graph's inputs, and its graph's outputs become an answer.
type Plan struct {
	features []source
	byName   map[string]int
	inputs   []input

	predictions []prediction
	outputs     []output
	wanted      []int         // the graph's outputs that the answer needs
	wantedSpecs []tensor.Spec // in the order of wanted
	batchAxis   []bool        // of each wanted output
}

// source is a feature and where its values go.
type source struct {
	public *inferencev1.Feature
	name   string
	typ    inferencev1.FeatureType
	scalar bool
	count  int64 // values of an array; -1 where the shape is open
	unit   int64 // with an open shape: the product of the other lengths
	most   int64 // with an open shape: its greatest length, 0 where nothing says
	input  int
	column int64 // the first element in the input's row
}

// input is an input of the graph, for one row.
type input struct {
	spec  tensor.Spec
	shape []int64 // of one row's tensor, batch axis included
	open  int     // the axis whose length the request gives; -1 where the shape is fixed
}

// prediction is one element of an output's row, as a float32.
type prediction struct {
	public *inferencev1.Prediction
	output int // in wanted
	index  int64
}

// output is one element of an output's row, or all of it.
type output struct {
	public *inferencev1.Output
	output int // in wanted
	index  int64
}

// Features are what a request may hold, in the manifest's order.
func (p *Plan) Features() []*inferencev1.Feature {
	public := make([]*inferencev1.Feature, len(p.features))
	for i := range p.features {
		public[i] = p.features[i].public
	}
	return public
}

// Predictions are what an answer's predictions hold, in the manifest's order.
func (p *Plan) Predictions() []*inferencev1.Prediction {
	public := make([]*inferencev1.Prediction, len(p.predictions))
	for i := range p.predictions {
		public[i] = p.predictions[i].public
	}
	return public
}

// Outputs are what an answer's outputs hold, in the manifest's order.
func (p *Plan) Outputs() []*inferencev1.Output {
	public := make([]*inferencev1.Output, len(p.outputs))
	for i := range p.outputs {
		public[i] = p.outputs[i].public
	}
	return public
}

// Wanted are the indices of the graph's outputs that Encode takes, in its order.
func (p *Plan) Wanted() []int { return p.wanted }

// hasBatchAxis tells whether axis 0 of an input counts rows: the graph leaves it open or gives it length 1.
func hasBatchAxis(spec *tensor.Spec) bool {
	return len(spec.Shape) > 0 && (spec.Shape[0] == -1 || spec.Shape[0] == 1)
}

// rowShape is the shape of a tensor without its batch axis, if it has one.
func rowShape(spec *tensor.Spec) []int64 {
	if hasBatchAxis(spec) {
		return spec.Shape[1:]
	}
	return spec.Shape
}

// typeOf is the type of the features and outputs that a tensor type stands for.
func typeOf(dtype tensor.DType) inferencev1.FeatureType {
	switch {
	case dtype == tensor.Float64:
		return inferencev1.FeatureType_FEATURE_TYPE_DOUBLE
	case dtype.IsFloat():
		return inferencev1.FeatureType_FEATURE_TYPE_FLOAT
	case dtype.IsInteger():
		return inferencev1.FeatureType_FEATURE_TYPE_INT64
	case dtype == tensor.Bool:
		return inferencev1.FeatureType_FEATURE_TYPE_BOOL
	default:
		return inferencev1.FeatureType_FEATURE_TYPE_STRING
	}
}

// newInputs are the graph's inputs with the shape of one row. Axes other than the batch axis that the graph leaves open stay -1 until a
// feature closes them.
func newInputs(specs []tensor.Spec) []input {
	inputs := make([]input, len(specs))
	for i := range specs {
		shape := append([]int64{}, specs[i].Shape...)
		if hasBatchAxis(&specs[i]) {
			shape[0] = 1
		}
		inputs[i] = input{spec: specs[i], shape: shape, open: -1}
	}
	return inputs
}

// want is the place of a graph's output among those wanted; it is added where it is not yet.
func (p *Plan) want(graph int, spec *tensor.Spec) int {
	for at, have := range p.wanted {
		if have == graph {
			return at
		}
	}
	p.wanted = append(p.wanted, graph)
	p.wantedSpecs = append(p.wantedSpecs, *spec)
	// Without rows going in there are none coming out: the whole output is the answer.
	rows := false
	for i := range p.inputs {
		rows = rows || hasBatchAxis(&p.inputs[i].spec)
	}
	p.batchAxis = append(p.batchAxis, rows && (spec.Unranked || hasBatchAxis(spec)))
	return len(p.wanted) - 1
}
