// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"fmt"
	"slices"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// FromManifest makes the plan of a model whose manifest binds its features, predictions and outputs. The error says which binding
// does not fit the graph.
func FromManifest(manifest *modelpackagev1.Manifest, inputs, outputs []tensor.Spec) (*Plan, error) {
	p := &Plan{byName: make(map[string]int, len(manifest.GetFeatures())), inputs: newInputs(inputs)}
	if err := p.bindFeatures(manifest.GetFeatures(), inputs); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, b := range manifest.GetPredictions() {
		name := b.GetPrediction().GetName()
		if err := p.bindPrediction(b, outputs); err != nil {
			return nil, fmt.Errorf("prediction %s: %w", fault.Quote(name), err)
		}
		if names[name] {
			return nil, fmt.Errorf("prediction %s: bound twice", fault.Quote(name))
		}
		names[name] = true
	}
	clear(names)
	for _, b := range manifest.GetOutputs() {
		name := b.GetOutput().GetName()
		if err := p.bindOutput(b, outputs); err != nil {
			return nil, fmt.Errorf("output %s: %w", fault.Quote(name), err)
		}
		if names[name] {
			return nil, fmt.Errorf("output %s: bound twice", fault.Quote(name))
		}
		names[name] = true
	}
	if len(p.wanted) == 0 {
		return nil, errors.New("expected at least one prediction or output, got none")
	}
	return p, nil
}

var errNoName = errors.New("expected a name, got nothing")

func (p *Plan) bindFeatures(bindings []*modelpackagev1.FeatureBinding, inputs []tensor.Spec) error {
	bound := make([][]int, len(inputs)) // features of each input
	for _, b := range bindings {
		f := source{public: b.GetFeature(), column: b.GetColumn()}
		name := f.public.GetName()
		fail := func(err error) error { return fmt.Errorf("feature %s: %w", fault.Quote(name), err) }
		if name == "" {
			return fail(errNoName)
		}
		if _, twice := p.byName[name]; twice {
			return fail(errors.New("bound twice"))
		}
		if err := f.measure(); err != nil {
			return fail(err)
		}
		f.input = slices.IndexFunc(inputs, func(s tensor.Spec) bool { return s.Name == b.GetInput() })
		if f.input < 0 {
			return fail(fmt.Errorf("the graph has no input %s", fault.Quote(b.GetInput())))
		}
		if dtype := inputs[f.input].DType; !fits(f.typ, dtype) {
			return fail(fmt.Errorf("a %s does not fit input %s, %s", typeText(f.typ), fault.Quote(b.GetInput()), dtype))
		}
		if f.column < 0 {
			return fail(fmt.Errorf("expected a column of at least 0, got %d", f.column))
		}
		bound[f.input] = append(bound[f.input], len(p.features))
		p.byName[name] = len(p.features)
		p.features = append(p.features, f)
	}
	for i := range inputs {
		if err := p.fill(i, bound[i]); err != nil {
			return fmt.Errorf("input %s: %w", fault.Quote(inputs[i].Name), err)
		}
		if n, ok := tensor.Elements(p.inputs[i].shape); p.inputs[i].open < 0 && (!ok || n > maxElements) {
			return fmt.Errorf("input %s: expected at most %d elements in a row, got %s", fault.Quote(inputs[i].Name), maxElements, tensor.ShapeText(p.inputs[i].shape))
		}
		for axis, most := range inputs[i].Max {
			if length := p.inputs[i].shape[axis]; most > 0 && length > most {
				return fmt.Errorf("input %s: expected at most %d on axis %d, got %s", fault.Quote(inputs[i].Name), most, axis, tensor.ShapeText(p.inputs[i].shape))
			}
		}
	}
	// Last, since a default is written like any value, into inputs whose shapes are known.
	for i := range p.features {
		f := &p.features[i]
		if err := p.limit(f); err != nil {
			return fmt.Errorf("feature %s: %w", fault.Quote(f.name), err)
		}
		if err := p.checkDefault(f); err != nil {
			return fmt.Errorf("feature %s: %w", fault.Quote(f.name), err)
		}
	}
	return nil
}

// fill closes the shape of an input with the features bound to it: one that fills it all, or several that are its columns, each bound
// exactly once.
func (p *Plan) fill(i int, features []int) error {
	in := &p.inputs[i]
	if len(features) == 0 {
		return errors.New("no feature is bound to it")
	}
	row := in.shape
	if hasBatchAxis(&in.spec) {
		row = in.shape[1:] // shares memory: what closes it closes in.shape
	}
	if len(features) == 1 {
		f := &p.features[features[0]]
		if f.column == 0 && closeWith(row, f) {
			in.open = openAxis(in.shape)
			return nil
		}
	}
	if len(row) != 1 {
		return fmt.Errorf("expected one feature that fills it or the columns of a row, got %d features for %s", len(features), in.spec.Describe())
	}
	columns := row[0]
	if columns == -1 {
		// The graph leaves the width open; the manifest then gives it.
		columns = 0
		for _, at := range features {
			columns += max(p.features[at].count, 0)
		}
	}
	ordered := slices.Clone(features)
	slices.SortStableFunc(ordered, func(a, b int) int {
		return int(min(max(p.features[a].column-p.features[b].column, -1), 1))
	})
	next := int64(0)
	for _, at := range ordered {
		f := &p.features[at]
		if f.count < 0 {
			return fmt.Errorf("feature %s of open shape must fill it alone", fault.Quote(f.name))
		}
		if f.column != next {
			return fmt.Errorf("column %d is bound %s", min(f.column, next), map[bool]string{true: "twice", false: "to no feature"}[f.column < next])
		}
		next += f.count
	}
	if next != columns {
		return fmt.Errorf("expected %d columns, got features for %d", columns, next)
	}
	row[0] = columns
	return nil
}

// closeWith sets the lengths of a row that the graph leaves open from the one feature that fills it; false is that the feature does not.
func closeWith(row []int64, f *source) bool {
	shape := f.public.GetShape()
	if len(shape) == len(row) {
		for axis := range row {
			// A feature of open length does not fit where the graph fixes it: every other length would fail in the graph.
			if row[axis] != -1 && row[axis] != shape[axis] {
				return false
			}
		}
		copy(row, shape)
		return true
	}
	n, ok := tensor.Elements(row)
	return ok && f.count == n
}

func (p *Plan) checkDefault(f *source) error {
	value := f.public.GetDefaultValue()
	if f.public.GetRequired() {
		if value != nil {
			return errors.New("it is required and has a default")
		}
		return nil
	}
	if value == nil {
		return errors.New("it is not required and has no default")
	}
	row := make([]tensor.Tensor, len(p.inputs))
	for i := range p.inputs {
		if p.inputs[i].open < 0 && i == f.input {
			row[i] = tensor.Make(p.inputs[i].spec.DType, p.inputs[i].shape)
		}
	}
	if v := p.put(f, value, row); v != nil {
		return fmt.Errorf("default: %s", v.Message)
	}
	return nil
}

func (p *Plan) bindPrediction(b *modelpackagev1.PredictionBinding, outputs []tensor.Spec) error {
	if b.GetPrediction().GetName() == "" {
		return errNoName
	}
	at, spec, err := p.find(b.GetOutput(), b.GetIndex(), false, outputs)
	if err != nil {
		return err
	}
	if !spec.DType.IsFloat() && !spec.DType.IsInteger() {
		return fmt.Errorf("expected a numeric output, got %s %s", fault.Quote(spec.Name), spec.Describe())
	}
	p.predictions = append(p.predictions, prediction{public: b.GetPrediction(), output: at, index: b.GetIndex()})
	return nil
}

func (p *Plan) bindOutput(b *modelpackagev1.OutputBinding, outputs []tensor.Spec) error {
	public := b.GetOutput()
	if public.GetName() == "" {
		return errNoName
	}
	at, spec, err := p.find(b.GetOnnxOutput(), b.GetIndex(), len(public.GetShape()) > 0, outputs)
	if err != nil {
		return err
	}
	if public.GetType() != typeOf(spec.DType) {
		return fmt.Errorf("expected type %s for output %s, %s, got %s", typeText(typeOf(spec.DType)), fault.Quote(spec.Name), spec.DType, typeText(public.GetType()))
	}
	if shape := public.GetShape(); len(shape) > 0 {
		if b.GetIndex() != 0 {
			return fmt.Errorf("expected index 0 for an array, got %d", b.GetIndex())
		}
		for _, length := range shape {
			if length < -1 {
				return fmt.Errorf("expected lengths of at least 0 or -1, got shape %s", tensor.ShapeText(shape))
			}
		}
		row := spec.Shape
		if p.batchAxis[at] && len(row) > 0 {
			row = row[1:]
		}
		want, closedWant := tensor.Elements(shape)
		have, closedHave := tensor.Elements(row)
		if closedWant && closedHave && !spec.Unranked && want != have {
			return fmt.Errorf("expected %d elements as output %s has in a row, got shape %s", have, fault.Quote(spec.Name), tensor.ShapeText(shape))
		}
	}
	p.outputs = append(p.outputs, output{public: public, output: at, index: b.GetIndex()})
	return nil
}

// find is the output of the graph that a binding names, among those wanted; the index must lie in its row. An array of no elements begins at
// 0, too.
func (p *Plan) find(name string, index int64, array bool, outputs []tensor.Spec) (int, *tensor.Spec, error) {
	graph := slices.IndexFunc(outputs, func(s tensor.Spec) bool { return s.Name == name })
	if graph < 0 {
		return 0, nil, fmt.Errorf("the graph has no output %s", fault.Quote(name))
	}
	spec := &outputs[graph]
	at := p.want(graph, spec)
	row := spec.Shape
	if p.batchAxis[at] && len(row) > 0 {
		row = row[1:]
	}
	if index < 0 {
		return 0, nil, fmt.Errorf("expected an index of at least 0, got %d", index)
	}
	if n, ok := tensor.Elements(row); ok && !spec.Unranked && index >= n && (n > 0 || index > 0 || !array) {
		return 0, nil, fmt.Errorf("index %d is outside output %s, which has %d in a row", index, fault.Quote(name), n)
	}
	return at, spec, nil
}

// fits tells whether every value of a feature type can be tried on a tensor type, with the conversions of the contract.
func fits(typ inferencev1.FeatureType, dtype tensor.DType) bool {
	switch typ {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT:
		return dtype.IsFloat()
	case inferencev1.FeatureType_FEATURE_TYPE_UNSPECIFIED:
		return false
	default:
		return typ == typeOf(dtype)
	}
}

func typeText(typ inferencev1.FeatureType) string {
	switch typ {
	case inferencev1.FeatureType_FEATURE_TYPE_FLOAT:
		return "FLOAT"
	case inferencev1.FeatureType_FEATURE_TYPE_DOUBLE:
		return "DOUBLE"
	case inferencev1.FeatureType_FEATURE_TYPE_INT64:
		return "INT64"
	case inferencev1.FeatureType_FEATURE_TYPE_BOOL:
		return "BOOL"
	case inferencev1.FeatureType_FEATURE_TYPE_STRING:
		return "STRING"
	default:
		return "UNSPECIFIED"
	}
}
